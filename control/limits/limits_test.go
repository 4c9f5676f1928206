package limits

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

func TestNoRequestWaitsLongerThanTheDeadline(t *testing.T) {
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		var live atomic.Int64
		live.Store(4)
		n := node(f, &live, 0)
		defer n.Close()
		limiters := map[string]ratelimit.Limiter{}
		for name, s := range map[string]ratelimit.SharedSettings{
			"exact": {}, "leased": {Leased: true}, "open": {OnFailure: ratelimit.LetPass}, "closed": {OnFailure: ratelimit.RefuseAll},
		} {
			s.Name, s.Windows = name, per(100, 8, time.Hour)
			limiters[name] = limiter(t, n, s)
		}
		timed := func(name string) (ratelimit.Decision, time.Duration) {
			began := time.Now()
			return take(t, limiters[name], "k", 1), time.Since(began)
		}
		f.delay.Store(int64(time.Millisecond))
		if d, took := timed("exact"); !d.Allowed || d.Source != ratelimit.Store || d.Remaining != 7 || took != time.Millisecond {
			t.Errorf("%+v after %v", d, took)
		}
		// Far too slow: three times the deadline is waited out, then nobody waits.
		f.delay.Store(int64(time.Hour))
		for i := range 10 {
			d, took := timed("exact")
			want := Deadline
			if i >= tolerated {
				want = 0
			}
			// A quarter of the burst is this node's, of which the store has counted one.
			if d.Source != ratelimit.Share || d.Allowed != (i < 1) || took != want {
				t.Errorf("request %d: %+v after %v, want %v", i, d, took, want)
			}
		}
		for name, want := range map[string]ratelimit.Decision{
			"leased": {Allowed: true, Source: ratelimit.Share}, "open": {Allowed: true, Source: ratelimit.Open}, "closed": {Source: ratelimit.Closed},
		} {
			if d, took := timed(name); d.Allowed != want.Allowed || d.Source != want.Source || took != 0 {
				t.Errorf("%s: %+v after %v", name, d, took)
			}
		}
		// It is tried, and asked again once it answers in time.
		calls := f.calls.Load()
		time.Sleep(10 * time.Second)
		if tried := f.calls.Load() - calls; tried < 10 || tried > 110 {
			t.Errorf("tried %d times in 10 s", tried)
		}
		f.delay.Store(int64(Deadline) + 1)
		time.Sleep(10 * time.Second)
		if d, _ := timed("exact"); d.Source != ratelimit.Share {
			t.Errorf("a store that is too slow is asked again: %+v", d)
		}
		f.delay.Store(0)
		time.Sleep(2 * time.Second)
		if d, _ := timed("exact"); !d.Allowed || d.Source != ratelimit.Store {
			t.Errorf("%+v", d)
		}
		f.broken.Store(true)
		if d, _ := timed("exact"); d.Source != ratelimit.Share {
			t.Errorf("%+v", d)
		}
		if !n.health.away() {
			t.Error("an error is no reason to ask no more")
		}
	})
}

func TestOneSlowAnswerIsNoReasonToAskNoMore(t *testing.T) {
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		n := node(f, nil, 0)
		defer n.Close()
		l := limiter(t, n, ratelimit.SharedSettings{Name: "x", Windows: per(100, 10, time.Hour)})
		for range 5 {
			f.delay.Store(int64(5 * time.Millisecond))
			if d := take(t, l, "k", 1); d.Source != ratelimit.Share {
				t.Errorf("%+v", d)
			}
			time.Sleep(time.Second)
			f.delay.Store(0)
			if d := take(t, l, "k", 0); d.Source != ratelimit.Store || n.health.away() {
				t.Errorf("%+v", d)
			}
		}
		// What came too late was charged all the same.
		if d := take(t, l, "k", 0); d.Remaining != 5 {
			t.Errorf("%+v", d)
		}
	})
}

// TestLateAnswersDoNotAddUp: what the store grants, in time or late, is not
// granted by the nodes once more, but for what is under way.
func TestLateAnswersDoNotAddUp(t *testing.T) {
	for _, leased := range []bool{false, true} {
		for _, nodes := range []int{1, 4} {
			f := newFake(t)
			synctest.Test(t, func(t *testing.T) {
				var live atomic.Int64
				live.Store(int64(nodes))
				const limit = 40
				var limiters []ratelimit.Limiter
				for range nodes {
					n := node(f, &live, 0)
					defer n.Close()
					limiters = append(limiters, limiter(t, n, ratelimit.SharedSettings{Name: "x", Windows: per(limit, limit, time.Hour), Leased: leased}))
				}
				granted, by := 0, map[ratelimit.Source]int{}
				for i := range 5 * limit {
					f.delay.Store(int64(i%2) * int64(2*Deadline))
					if d := take(t, limiters[i/2%nodes], "k", 1); d.Allowed {
						granted++
						by[d.Source]++
					}
					time.Sleep(10 * time.Millisecond)
				}
				if granted < limit/2 || granted > limit+nodes || !leased && (by[ratelimit.Share] < limit/4 || by[ratelimit.Store] < limit/4) {
					t.Errorf("%d nodes, leased %v: %d granted of %d, by %v", nodes, leased, granted, limit, by)
				}
			})
		}
	}
}

func TestQuestionsTravelTogether(t *testing.T) {
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		n := node(f, nil, 0)
		defer n.Close()
		l := limiter(t, n, ratelimit.SharedSettings{Name: "x", Windows: per(1000, 400, time.Hour)})
		f.delay.Store(int64(Deadline / 4))
		var granted atomic.Int64
		done := make(chan struct{})
		for range 500 {
			go func() {
				if d := take(t, l, "k", 1); d.Allowed && d.Source == ratelimit.Store {
					granted.Add(1)
				}
				done <- struct{}{}
			}()
		}
		for range 500 {
			<-done
		}
		if granted.Load() != 400 || f.calls.Load() > 20 {
			t.Errorf("%d granted of 400, with %d round trips", granted.Load(), f.calls.Load())
		}
	})
}

func TestLeasesAreSpentWithoutTheStore(t *testing.T) {
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		n := node(f, nil, 0)
		defer n.Close()
		l := limiter(t, n, ratelimit.SharedSettings{Name: "x", Windows: per(1000, 1000, 10*time.Second), Leased: true})
		f.delay.Store(int64(time.Millisecond))
		waited, allowed := 0, 0
		for range 500 {
			began := time.Now()
			d := take(t, l, "k", 1)
			if time.Since(began) > 0 {
				waited++
			} else if d.Source != ratelimit.Lease {
				t.Fatalf("%+v", d)
			}
			if d.Allowed {
				allowed++
			}
			time.Sleep(3 * time.Millisecond)
		}
		if allowed != 500 || waited > 6 {
			t.Errorf("%d of 500 allowed, %d waited", allowed, waited)
		}
		if calls := f.calls.Load(); calls > 60 {
			t.Errorf("the store was asked %d times for 500 requests", calls)
		}
		// Used up, it is refused without a question until there may be more.
		for range 3 {
			for take(t, l, "k", 1).Allowed {
			}
			time.Sleep(5 * time.Millisecond) // a lease may be on its way
		}
		calls := f.calls.Load()
		d := take(t, l, "k", 1)
		for range 50 {
			if x := take(t, l, "k", 1); x.Allowed || x.Source != ratelimit.Lease || x.RetryAfter <= 0 {
				t.Fatalf("%+v", x)
			}
		}
		if f.calls.Load() > calls+1 {
			t.Errorf("%d questions for what is known", f.calls.Load()-calls)
		}
		time.Sleep(d.RetryAfter + 10*time.Millisecond)
		if d := take(t, l, "k", 1); !d.Allowed {
			t.Errorf("%+v", d)
		}
		if d := take(t, l, "k", 1001); d.Allowed || d.RetryAfter != ratelimit.Never {
			t.Errorf("%+v", d)
		}
		// What nobody uses lapses.
		time.Sleep(time.Minute)
		if d := take(t, l, "k", 900); !d.Allowed {
			t.Errorf("%+v", d)
		}
	})
}

func TestALeaseIsGoodWhileTheStoreIsAway(t *testing.T) {
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		n := node(f, nil, 0)
		defer n.Close()
		l := limiter(t, n, ratelimit.SharedSettings{Name: "x", Windows: per(1000, 1000, 10*time.Second), Leased: true, OnFailure: ratelimit.RefuseAll})
		for range 100 {
			take(t, l, "k", 1)
		}
		synctest.Wait()
		f.broken.Store(true)
		if d := take(t, l, "k", 1); !d.Allowed || d.Source != ratelimit.Lease {
			t.Errorf("%+v", d)
		}
		time.Sleep(2 * leaseTime)
		for range 2 {
			if d := take(t, l, "k", 1); d.Allowed || d.Source != ratelimit.Closed {
				t.Errorf("%+v", d)
			}
		}
		f.broken.Store(false)
		time.Sleep(time.Second)
		if d := take(t, l, "k", 1); !d.Allowed {
			t.Errorf("%+v", d)
		}
	})
}

// TestALateLeaseIsNotLost: what is left of it is held, the part of the request
// that could not wait for it is spent.
func TestALateLeaseIsNotLost(t *testing.T) {
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		n := node(f, nil, 0)
		defer n.Close()
		l := limiter(t, n, ratelimit.SharedSettings{Name: "x", Windows: per(10, 10, time.Hour), Leased: true})
		f.delay.Store(int64(20 * time.Millisecond))
		if d := take(t, l, "k", 1); d.Source != ratelimit.Share {
			t.Errorf("%+v", d)
		}
		time.Sleep(100 * time.Millisecond)
		began := time.Now() // who spends what is held may ask for more, and does not wait for that
		if d := take(t, l, "k", 1); !d.Allowed || d.Source != ratelimit.Lease || time.Since(began) > 0 {
			t.Errorf("%+v after %v", d, time.Since(began))
		}
		time.Sleep(100 * time.Millisecond)
	})
}

func TestManyKeysAreForgotten(t *testing.T) {
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		n := node(f, nil, 0)
		defer n.Close()
		l := limiter(t, n, ratelimit.SharedSettings{Name: "x", Windows: per(10, 10, time.Second), Leased: true, MaxKeys: 64}).(*leased)
		for i := range 20_000 {
			key := strings.Repeat("k", 1+i%7) + string(rune('a'+i%26)) + time.Duration(i).String()
			if d := take(t, l, key, 1); !d.Allowed {
				t.Fatalf("key %d: %+v", i, d)
			}
		}
		held := 0
		for i := range l.shards {
			held += len(l.shards[i].entries)
		}
		if held > leasedShards*l.max {
			t.Errorf("%d keys are remembered", held)
		}
	})
}

func TestKeysAreDigests(t *testing.T) {
	a, b := newSpace("limit", "r1", per(1, 1, time.Second)), newSpace("limit", "r2", per(1, 1, time.Second))
	seen := map[string]bool{}
	for _, s := range []space{a, b, newSpace("limit", "r1", per(2, 1, time.Second)), newSpace("quota", "r1", per(1, 1, time.Second))} {
		for _, key := range []string{"", "192.0.2.1", strings.Repeat("alice@example.com", 1000)} {
			k := s.key([]byte(key))
			if seen[k] || len(k) != 41 || key != "" && strings.Contains(k, key) || s.key([]byte(key)) != k {
				t.Errorf("%q is %q", key, k)
			}
			seen[k] = true
		}
	}
}

func TestANodeAloneCountsByItself(t *testing.T) {
	f := newFake(t)
	n := New(Settings{Store: f, Alone: true})
	defer n.Close()
	l := limiter(t, n, ratelimit.SharedSettings{Windows: per(10, 2, time.Hour)})
	for i := range 3 {
		if d := take(t, l, "k", 1); d.Allowed != (i < 2) || d.Source != ratelimit.Own {
			t.Errorf("%+v", d)
		}
	}
	s, err := n.Slots(ratelimit.SlotsSettings{Name: "x", Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	id, ok, from := s.Enter([]byte("k"))
	if _, more, _ := s.Enter([]byte("k")); !ok || more || from != ratelimit.Own {
		t.Errorf("%v, %v, %v", ok, more, from)
	}
	s.Leave(id)
	if f.calls.Load() != 0 {
		t.Error("the store was asked")
	}
}

func TestSpendingALeaseDoesNotAllocate(t *testing.T) {
	n := node(newFake(t), nil, time.Minute)
	defer n.Close()
	l := limiter(t, n, ratelimit.SharedSettings{Windows: per(1_000_000, 1_000_000, time.Minute), Leased: true})
	key := []byte("192.0.2.1")
	var d ratelimit.Decision
	for range 5000 { // until leases are large
		if err := l.Take(key, 1, &d); err != nil || !d.Allowed {
			t.Fatal(d, err)
		}
	}
	eventually(t, "leases are spent without an allocation", func() bool {
		return testing.AllocsPerRun(100, func() { _ = l.Take(key, 1, &d) }) == 0 && d.Source == ratelimit.Lease
	})
}

func BenchmarkLeased(b *testing.B) {
	n := node(newFake(b), nil, time.Minute)
	defer n.Close()
	l := limiter(b, n, ratelimit.SharedSettings{Windows: per(1_000_000_000, 1_000_000_000, time.Second), Leased: true})
	key := []byte("192.0.2.1")
	var d ratelimit.Decision
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Take(key, 1, &d)
	}
}
