package upstream

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// hot is an upstream as it runs, with everything on that costs time per request.
func hot(t testing.TB, a Algorithm, weights ...int) *Upstream {
	t.Helper()
	u, err := New(Settings{Name: "users", Algorithm: a, Endpoints: weighted(weights...), PanicThreshold: 50, Outlier: envoyOutlier}, nil)
	if err != nil {
		t.Fatal(err)
	}
	start(t, u)
	t.Cleanup(func() { u.Close(context.Background()) })
	return u
}

func TestPickAndDoneDoNotAllocate(t *testing.T) {
	for _, a := range algorithms {
		u := hot(t, a, 1, 2, 3, 4)
		e, _ := u.Pick(&PickRequest{})
		e.Done(Result{Status: 200})
		tried := []*Endpoint{e}
		id := e.ID()
		hash := uint64(0)
		n := testing.AllocsPerRun(1000, func() {
			for _, p := range []PickRequest{{}, {Prefer: id}, {Exclude: tried}, {Hash: hash, HasHash: true, Exclude: tried}} {
				hash++
				e, err := u.Pick(&p)
				if err != nil {
					t.Fatal(err)
				}
				e.Done(Result{Status: 200, Latency: time.Millisecond})
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations, want 0", a, n)
		}
	}
	u := hot(t, LeastRequest, 1, 1)
	u.breaker.requests.limit.Store(0)
	if n := testing.AllocsPerRun(1000, func() { u.Pick(&PickRequest{}) }); n != 0 {
		t.Errorf("refusal: %v allocations, want 0", n)
	}
}

func BenchmarkPick(b *testing.B) {
	for _, a := range algorithms {
		for name, weights := range map[string][]int{"equal": {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, "weighted": {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}} {
			u := hot(b, a, weights...)
			b.Run(fmt.Sprintf("%s/%s", a, name), func(b *testing.B) {
				b.ReportAllocs()
				p := PickRequest{HasHash: true}
				for b.Loop() {
					p.Hash++
					e, _ := u.Pick(&p)
					e.host.active.Add(-1)
					u.breaker.requests.n.Add(-1)
				}
			})
		}
	}
}

func BenchmarkDone(b *testing.B) {
	for _, a := range []Algorithm{LeastRequest, PeakEWMA} {
		u := hot(b, a, 1, 1, 1, 1)
		b.Run(string(a), func(b *testing.B) {
			b.ReportAllocs()
			e := u.endpoints[0]
			for b.Loop() {
				e.Done(Result{Status: 200, Latency: time.Millisecond})
			}
		})
	}
}

// BenchmarkRebuild is what a change of health costs.
func BenchmarkRebuild(b *testing.B) {
	for _, a := range algorithms {
		weights := make([]int, 100)
		for i := range weights {
			weights[i] = 1 + i%7
		}
		u := hot(b, a, weights...)
		b.Run(string(a), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				newPicker(u, u.epoch)
			}
		})
	}
}
