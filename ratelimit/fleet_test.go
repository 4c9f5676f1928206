package ratelimit

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSharesAreNoMoreThanTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := Window{
			Limit: rapid.Int64Range(1, 1000).Draw(t, "limit"), Per: time.Duration(rapid.Int64Range(1, 3600).Draw(t, "s")) * time.Second,
			Burst: rapid.Int64Range(1, 1000).Draw(t, "burst"),
		}
		n := rapid.IntRange(1, 50).Draw(t, "nodes")
		c := newClock()
		nodes := make([]*Local, n)
		for i := range nodes {
			l, err := NewLocal(Settings{Windows: []Window{w}, Now: c.now})
			if err != nil {
				t.Fatal(err)
			}
			l.Share(n)
			nodes[i] = l
		}
		drain := func() (got int64) {
			var d Decision
			for _, l := range nodes {
				for l.Take([]byte("k"), 1, &d) == nil && d.Allowed {
					got++
				}
			}
			return got
		}
		// A burst of less than the nodes is the only thing rounded up.
		burst := max(w.Burst, int64(n))
		if got := drain(); got > burst || got < min(w.Burst-int64(n)+1, w.Burst) {
			t.Fatalf("%d nodes grant %d at once of %d", n, got, w.Burst)
		}
		if w.Burst < int64(n) {
			return
		}
		got := int64(0)
		step := max(time.Second, w.Per/time.Duration(w.Limit))
		for range 200 {
			c.advance(step)
			got += drain()
		}
		if most := int64(200*step)*w.Limit/int64(w.Per) + int64(n); got > most {
			t.Fatalf("%d nodes grant %d, the whole is %d", n, got, most)
		}
	})
}

func TestAShareGrantsWhatTheWholeBurstCan(t *testing.T) {
	c := newClock()
	l := newLocal(t, Settings{Windows: perMinute(60, 10), Now: c.now})
	l.Share(5) // one in 5 s, two at once
	if d := take(t, l, "k", 8); !d.Allowed || d.Remaining != 0 {
		t.Fatalf("a costly request never gets through: %+v", d)
	}
	if d := take(t, l, "k", 11); d.Allowed || d.RetryAfter != Never {
		t.Errorf("%+v", d)
	}
	if d := take(t, l, "k", 1); d.Allowed || d.RetryAfter != 35*time.Second {
		t.Errorf("what was advanced is paid off: %+v", d)
	}
	l.Share(1)
	if d := take(t, l, "k", 1); d.Allowed || d.RetryAfter != 31*time.Second {
		t.Errorf("%+v", d)
	}
	slow := newLocal(t, Settings{Windows: []Window{{Limit: 1, Per: 24 * time.Hour, Burst: 365 * 40}}, Now: c.now})
	slow.Share(1000) // far beyond what nanoseconds can say
	if d := take(t, slow, "k", 365*40); !d.Allowed || d.Reset <= 0 {
		t.Errorf("%+v", d)
	}
}

func TestJudgeSaysWhatALocalBucketWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, ws := newClock(), windows(t)
		l, err := NewLocal(Settings{Windows: ws, Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		r, err := NewRates(ws)
		if err != nil || r.Len() != len(ws) {
			t.Fatal(err)
		}
		for range 20 {
			c.advance(time.Duration(rapid.Int64Range(0, 5e6).Draw(t, "wait")))
			cost := rapid.Uint32Range(0, 8).Draw(t, "cost")
			var want, got Decision
			_ = l.Take([]byte("k"), cost, &want) // Local never fails
			used := make([]time.Duration, len(ws))
			for i := range used {
				used[i] = time.Duration(max(0, tatOf(l, "k", i)-c.now()))
			}
			r.Judge(used, int64(cost), want.Allowed, &got)
			if got != want {
				t.Fatalf("cost %d: got %+v, want %+v", cost, got, want)
			}
			if (int64(cost) > r.Most()) != (want.RetryAfter == Never) {
				t.Fatalf("cost %d of at most %d: %+v", cost, r.Most(), want)
			}
		}
	})
	var d Decision
	r, _ := NewRates(perMinute(60, 3))
	d.Squeezed = true // of another decision
	if r.Judge([]time.Duration{0}, 1, false, &d); d.Allowed || d.Squeezed || d.RetryAfter <= 0 {
		t.Errorf("refused, and to come again at once: %+v", d)
	}
	if interval, burst := r.Bucket(0); interval != time.Second || burst != 3 {
		t.Errorf("%v, %d", interval, burst)
	}
}
