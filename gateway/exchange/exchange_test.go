package exchange_test

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// front is a client that can go away.
type front struct {
	exchange.Front
	mu      sync.Mutex
	aborter exchange.Aborter
	calls   int
}

func (f *front) OnGone(a exchange.Aborter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.aborter = a
	f.calls++
}

func (f *front) goAway() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.aborter.Abort()
}

type owner struct{ last exchange.Exchange }

func (o *owner) Finish(e *exchange.Exchange) { o.last.Refusal, o.last.Host = e.Refusal, e.Host }

func TestExchangeIsFoundByItsRequest(t *testing.T) {
	var ctx fasthttp.RequestCtx
	if exchange.FromRequest(&ctx) != nil {
		t.Error("a request without an exchange has one")
	}
	var o owner
	e := exchange.Acquire(&ctx, nil, &o)
	if exchange.FromRequest(&ctx) != e || e.Ctx != &ctx {
		t.Error("the exchange is not the request's")
	}
	e.Host = "a.test"
	ctx.ResetUserValues()
	if o.last.Host != "a.test" {
		t.Error("the owner did not see the exchange as it was")
	}
	if exchange.FromRequest(&ctx) != nil {
		t.Error("the exchange outlives its request")
	}
}

type (
	keyA struct{}
	keyB struct{}
	keyC struct{}
	keyD struct{}
	keyE struct{}
)

func TestPluginsKeepFourValuesAtMost(t *testing.T) {
	var ctx fasthttp.RequestCtx
	e := exchange.Acquire(&ctx, nil, &owner{})
	defer ctx.ResetUserValues()
	if e.Get(keyA{}) != nil {
		t.Error("a value nobody has set")
	}
	for i, k := range []any{keyA{}, keyB{}, keyC{}, keyD{}} {
		e.Set(k, i)
	}
	e.Set(keyB{}, "again") // a known key takes no place
	if e.Get(keyA{}) != 0 || e.Get(keyB{}) != "again" || e.Get(keyD{}) != 3 || e.Get(keyE{}) != nil {
		t.Errorf("got %v %v %v %v", e.Get(keyA{}), e.Get(keyB{}), e.Get(keyD{}), e.Get(keyE{}))
	}
	defer func() {
		if recover() == nil {
			t.Error("a fifth key was accepted")
		}
	}()
	e.Set(keyE{}, 1)
}

func TestContextEndsWhenTheClientGoes(t *testing.T) {
	var ctx fasthttp.RequestCtx
	f := &front{}
	e := exchange.Acquire(&ctx, f, &owner{})
	c := e.Context()
	if e.Context() != c {
		t.Error("a second context was made")
	}
	if c.Err() != nil {
		t.Fatal(c.Err())
	}
	if _, ok := c.Deadline(); ok {
		t.Error("it has a deadline that nobody set")
	}
	f.goAway()
	if !errors.Is(c.Err(), context.Canceled) {
		t.Errorf("the client has gone: %v", c.Err())
	}
	ctx.ResetUserValues()
	if f.aborter != nil {
		t.Error("the registration with the front outlives the request")
	}
}

func TestContextEndsWithTheRequest(t *testing.T) {
	var ctx fasthttp.RequestCtx
	e := exchange.Acquire(&ctx, &front{}, &owner{})
	c := e.Context()
	ctx.ResetUserValues()
	if !errors.Is(c.Err(), context.Canceled) {
		t.Errorf("the request is over: %v", c.Err())
	}
}

func TestContextEndsAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ctx fasthttp.RequestCtx
		e := exchange.Acquire(&ctx, &front{}, &owner{})
		e.Deadline = time.Now().Add(time.Minute)
		c := e.Context()
		time.Sleep(time.Minute - time.Nanosecond)
		synctest.Wait()
		if c.Err() != nil {
			t.Fatalf("too early: %v", c.Err())
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !errors.Is(c.Err(), context.DeadlineExceeded) {
			t.Errorf("got %v", c.Err())
		}
		ctx.ResetUserValues()
	})
}

func TestARequestThatAsksForNoContextPaysNothing(t *testing.T) {
	var ctx fasthttp.RequestCtx
	f := &front{}
	exchange.Acquire(&ctx, f, &owner{})
	ctx.ResetUserValues()
	if f.calls != 0 {
		t.Errorf("the front was told %d times", f.calls)
	}
}

func TestTheFirstRefusalCounts(t *testing.T) {
	var ctx fasthttp.RequestCtx
	e := exchange.Acquire(&ctx, nil, &owner{})
	defer ctx.ResetUserValues()
	first := reason.BodyCut.Because("at byte 5")
	if err := e.Refuse(first); err != first {
		t.Errorf("got %v", err)
	}
	if err := e.Refuse(reason.Internal); err != reason.Internal || e.Refusal != first {
		t.Errorf("got %v, noted %v", err, e.Refusal)
	}
}

func TestStep(t *testing.T) {
	var ctx fasthttp.RequestCtx
	e := exchange.Acquire(&ctx, nil, &owner{})
	defer ctx.ResetUserValues()
	if a, b, c := e.Step(1), e.Step(1), e.Step(-1); a != 0 || b != 1 || c != 2 || e.Step(0) != 1 {
		t.Errorf("got %d %d %d", a, b, c)
	}
}

// spoil sets every exported field, so that a field added later cannot be
// forgotten when an exchange is recycled.
func spoil(t *testing.T, e *exchange.Exchange) {
	t.Helper()
	v := reflect.ValueOf(e).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() || f.Name == "Ctx" || f.Name == "Front" {
			continue
		}
		switch f.Type.Kind() {
		case reflect.Pointer:
			v.Field(i).Set(reflect.New(f.Type.Elem()))
		case reflect.Slice:
			v.Field(i).Set(reflect.MakeSlice(f.Type, 3, 8))
		case reflect.String:
			v.Field(i).SetString("left over")
		case reflect.Bool:
			v.Field(i).SetBool(true)
		}
	}
	e.Identity = exchange.Identity{Method: "left over", Claims: map[string]any{"sub": "left over"}}
	e.Upstream.Status, e.WAF.Blocked, e.Start = 200, true, time.Now()
	for _, k := range []any{keyA{}, keyB{}, keyC{}, keyD{}} {
		e.Set(k, "left over")
	}
	for range 6 {
		e.Hold(&ledger{}, 1)
	}
	e.Step(7)
	e.Context()
}

func TestARecycledExchangeKnowsNothingOfItsPast(t *testing.T) {
	var ctx fasthttp.RequestCtx
	recycled := 0
	for range 200 { // the pool gives no promise which one it returns
		f := &front{}
		e := exchange.Acquire(&ctx, f, nil)
		if cap(e.Scratch) > 0 {
			recycled++
		}
		e.Scratch = nil
		want := &exchange.Exchange{Ctx: &ctx, Front: f}
		if !reflect.DeepEqual(e, want) {
			t.Fatalf("got %+v", e)
		}
		spoil(t, e)
		ctx.ResetUserValues()
	}
	if recycled == 0 {
		t.Error("no exchange was ever recycled: nothing was shown")
	}
}

func TestAHugeScratchIsNotKept(t *testing.T) {
	var ctx fasthttp.RequestCtx
	for range 50 {
		e := exchange.Acquire(&ctx, nil, nil)
		if cap(e.Scratch) > 16<<10 {
			t.Fatalf("%d bytes were kept", cap(e.Scratch))
		}
		e.Scratch = make([]byte, 0, 200<<10)
		ctx.ResetUserValues()
	}
}

func TestAnExchangeAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("not counted: the race detector allocates too")
		return
	}
	var ctx fasthttp.RequestCtx
	o, value := &owner{}, any("x")
	if n := testing.AllocsPerRun(1000, func() {
		e := exchange.Acquire(&ctx, nil, o)
		e.Set(keyA{}, value)
		_ = e.Get(keyA{})
		_ = exchange.FromRequest(&ctx)
		ctx.ResetUserValues()
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkExchange(b *testing.B) {
	var ctx fasthttp.RequestCtx
	o := &owner{}
	b.ReportAllocs()
	for b.Loop() {
		exchange.Acquire(&ctx, nil, o)
		ctx.ResetUserValues()
	}
}
