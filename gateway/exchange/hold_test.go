package exchange_test

import (
	"slices"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

type ledger struct{ seen []uint64 }

func (l *ledger) Release(_ *exchange.Exchange, token uint64) { l.seen = append(l.seen, token) }

// Finish notes that the owner came after everything held.
func (l *ledger) Finish(*exchange.Exchange) { l.seen = append(l.seen, 0) }

func TestHeldThingsAreReleasedOnceInReverseBeforeFinish(t *testing.T) {
	var l ledger
	var ctx fasthttp.RequestCtx
	e := exchange.Acquire(&ctx, nil, &l)
	for i := range uint64(6) {
		e.Hold(&l, i+1)
	}
	if len(l.seen) != 0 {
		t.Fatalf("released early: %v", l.seen)
	}
	ctx.Request.Reset()
	ctx.ResetUserValues()
	if want := []uint64{6, 5, 4, 3, 2, 1, 0}; !slices.Equal(l.seen, want) {
		t.Fatalf("got %v, want %v", l.seen, want)
	}
}

func TestHoldDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Log("not counted: the race detector allocates too")
		return
	}
	l := &ledger{seen: make([]uint64, 0, 1<<16)}
	var ctx fasthttp.RequestCtx
	if n := testing.AllocsPerRun(1000, func() {
		e := exchange.Acquire(&ctx, nil, l)
		for range 4 {
			e.Hold(l, 1)
		}
		ctx.ResetUserValues()
	}); n != 0 {
		t.Fatalf("%v allocations, want 0", n)
	}
}
