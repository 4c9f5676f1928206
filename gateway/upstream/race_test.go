package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Everything at once: requests that fail and succeed, health that changes,
// ejections, looks at the status, reloads. Nothing is lost or counted twice.
func TestEverythingAtOnce(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			r := &recorder{}
			s := Settings{
				Name: "users", Algorithm: a, Endpoints: weighted(1, 2, 3, 4, 5), PanicThreshold: 50, Observer: r,
				SlowStart: 5 * time.Millisecond, LocalZone: "a", Breaker: BreakerSettings{MaxRequests: 6, MaxConnections: 9},
				Outlier: OutlierSettings{
					Enabled: true, Interval: time.Millisecond, BaseEjection: time.Millisecond, MaxEjectedPercent: 60,
				},
			}
			s.Endpoints[0].Zone, s.Endpoints[1].Zone, s.Endpoints[4].Priority = "a", "a", 1
			u, err := New(s, nil)
			if err != nil {
				t.Fatal(err)
			}
			start(t, u)
			var mu sync.Mutex
			current := u
			load := func() *Upstream {
				mu.Lock()
				defer mu.Unlock()
				return current
			}
			const workers, each = 8, 300
			var requests, others sync.WaitGroup
			for w := range workers {
				requests.Go(func() {
					random := rand.New(rand.NewPCG(uint64(w), 0))
					for range each {
						p := PickRequest{Hash: random.Uint64(), HasHash: random.IntN(2) == 0}
						e, err := load().Pick(&p)
						if err != nil {
							if !errors.Is(err, reason.UpstreamOverflow) {
								t.Error(err)
							}
							continue
						}
						if random.IntN(3) == 0 {
							e.Done(Result{Status: 200, Latency: time.Millisecond})
						} else {
							e.Done(Result{Failure: FailedReset})
						}
					}
				})
			}
			stop := make(chan struct{})
			var old []*Upstream
			others.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					now := load()
					setHealth(now, health(i%3), i%5)
					now.Status()
					if i%5 != 0 {
						continue
					}
					next, err := New(s, now)
					if err != nil {
						t.Error(err)
						return
					}
					next.Start(context.Background())
					mu.Lock()
					current = next
					mu.Unlock()
					now.Retire()
					old = append(old, now) // requests may still hold it
				}
			})
			requests.Wait()
			close(stop)
			others.Wait()
			u = load()
			sum := 0
			for _, n := range r.outcomes {
				sum += n
			}
			if sum != workers*each {
				t.Errorf("%d outcomes, want %d", sum, workers*each)
			}
			if n := u.Breaker().Requests(); n != 0 {
				t.Errorf("%d requests still active", n)
			}
			for _, e := range u.Status().Endpoints {
				if e.Active != 0 {
					t.Errorf("%s: %d active", e.Address, e.Active)
				}
			}
			for _, o := range append(old, u) {
				o.Close(context.Background())
			}
		})
	}
}
