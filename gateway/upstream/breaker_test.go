package upstream

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Limits are never exceeded, whoever asks at the same time.
func TestBreakerUnderContention(t *testing.T) {
	b := NewBreaker(BreakerSettings{MaxRequests: 5, MaxConnections: 5, MaxPending: 5, MaxRetries: 5})
	f := func(name string, try func() bool, release func(), n func() int64) {
		var in, most atomic.Int64
		var granted atomic.Int64
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 2000 {
					if !try() {
						continue
					}
					granted.Add(1)
					now := in.Add(1)
					for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
					}
					in.Add(-1)
					release()
				}
			})
		}
		wg.Wait()
		if most.Load() > 5 || granted.Load() == 0 || n() != 0 {
			t.Errorf("%s: %d at once, %d granted, %d left", name, most.Load(), granted.Load(), n())
		}
	}
	f("connections", b.TryConnection, b.ReleaseConnection, b.Connections)
	f("pending", b.TryPending, b.ReleasePending, b.Pending)
	f("retries", b.TryRetry, b.ReleaseRetry, b.Retries)
}

func TestBreakerLimits(t *testing.T) {
	r := &recorder{}
	u := start(t, made(t, Settings{Endpoints: equal(2), Observer: r, Breaker: BreakerSettings{MaxRequests: 3, MaxConnections: 2}}, nil))
	var open []*Endpoint
	for range 3 {
		open = append(open, pick(t, u, PickRequest{}))
	}
	if _, err := u.Pick(&PickRequest{}); !errors.Is(err, reason.UpstreamOverflow) {
		t.Fatalf("got %v", err)
	}
	if n := u.Breaker().Requests(); n != 3 || r.outcomes[Overflow] != 1 || r.outcomes[Picked] != 3 {
		t.Errorf("%d requests, outcomes %v", n, r.outcomes)
	}
	open[0].Done(Result{Status: 200})
	pick(t, u, PickRequest{})
	b := u.Breaker()
	for want := range 3 {
		if got := b.TryConnection(); got != (want < 2) {
			t.Errorf("connection %d: allowed %v, the limit is 2", want+1, got)
		}
	}
	if b.TryPending() || b.TryRetry() {
		t.Error("a limit of 0 lets something through")
	}
	if st := u.Status(); st.Requests != 3 || st.Conns != 2 || st.Pending != 0 || st.Retries != 0 {
		t.Errorf("status %+v", st)
	}
	standard := made(t, Settings{Endpoints: equal(1)}, nil)
	if got := standard.settings.Breaker; got != (BreakerSettings{1024, 1024, 1024, 3}) {
		t.Errorf("defaults %+v", got)
	}
}
