package ratelimit

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// clock is time that only moves when told.
type clock struct{ ns atomic.Int64 }

func newClock() *clock { c := new(clock); c.ns.Store(1); return c }

func (c *clock) now() int64              { return c.ns.Load() }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

func newLocal(t testing.TB, s Settings) *Local {
	t.Helper()
	l, err := NewLocal(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func take(t testing.TB, l *Local, key string, cost uint32) Decision {
	t.Helper()
	var d Decision
	if err := l.Take([]byte(key), cost, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func perMinute(limit, burst int64) []Window {
	return []Window{{Limit: limit, Per: time.Minute, Burst: burst}}
}

func TestBurstThenRate(t *testing.T) {
	c := newClock()
	l := newLocal(t, Settings{Windows: perMinute(60, 3), Now: c.now})
	for i := range 3 {
		if d := take(t, l, "ann", 1); !d.Allowed || d.Remaining != int64(2-i) || d.RetryAfter != 0 {
			t.Fatalf("request %d: %+v", i, d)
		}
	}
	d := take(t, l, "ann", 1)
	want := Decision{Limit: 60, Reset: 3 * time.Second, Next: time.Second, RetryAfter: time.Second}
	if d != want {
		t.Fatalf("got %+v, want %+v", d, want)
	}
	if d := take(t, l, "bob", 1); !d.Allowed {
		t.Fatalf("another key pays for ann: %+v", d)
	}
	c.advance(time.Second - 1)
	if d := take(t, l, "ann", 1); d.Allowed || d.RetryAfter != 1 {
		t.Fatalf("a nanosecond early: %+v", d)
	}
	c.advance(1)
	if d := take(t, l, "ann", 1); !d.Allowed {
		t.Fatalf("in time: %+v", d)
	}
}

func TestNothingIsChargedWhenOneWindowRefuses(t *testing.T) {
	c := newClock()
	l := newLocal(t, Settings{Now: c.now, Windows: []Window{
		{Limit: 10, Per: time.Second, Burst: 10},
		{Limit: 12, Per: time.Hour, Burst: 12},
	}})
	for range 10 {
		if d := take(t, l, "k", 1); !d.Allowed {
			t.Fatal(d)
		}
	}
	if d := take(t, l, "k", 1); d.Allowed || d.Window != 0 || d.RetryAfter != 100*time.Millisecond {
		t.Fatalf("the second's window: %+v", d)
	}
	c.advance(time.Second)
	for range 2 { // the refused request must not have cost the hour anything
		if d := take(t, l, "k", 1); !d.Allowed || d.Window != 1 {
			t.Fatal(d)
		}
	}
	if d := take(t, l, "k", 1); d.Allowed || d.Window != 1 || d.Limit != 12 || d.RetryAfter <= time.Second {
		t.Fatalf("the hour's window: %+v", d)
	}
	if d := take(t, l, "k", 0); !d.Allowed || d.Remaining != 0 {
		t.Fatalf("asking costs nothing: %+v", d)
	}
}

func TestCost(t *testing.T) {
	c := newClock()
	l := newLocal(t, Settings{Windows: perMinute(60, 10), Now: c.now})
	if d := take(t, l, "k", 11); d.Allowed || d.RetryAfter != Never || d.Remaining != 10 {
		t.Fatalf("more than the burst: %+v", d)
	}
	if d := take(t, l, "k", 7); !d.Allowed || d.Remaining != 3 {
		t.Fatalf("%+v", d)
	}
	if d := take(t, l, "k", 4); d.Allowed || d.RetryAfter != time.Second || d.Remaining != 3 {
		t.Fatalf("%+v", d)
	}
}

func TestBadWindowsAreRefused(t *testing.T) {
	ok := Window{Limit: 1, Per: time.Second, Burst: 1}
	for want, ws := range map[string][]Window{
		"windows: must be 1 to 8, got 0": nil,
		"windows: must be 1 to 8, got 9": {ok, ok, ok, ok, ok, ok, ok, ok, ok},
		"windows[1].limit":               {ok, {Limit: 0, Per: time.Second, Burst: 1}},
		"windows[0].per":                 {{Limit: 1, Per: time.Microsecond, Burst: 1}},
		"windows[0].burst: must":         {{Limit: 1, Per: time.Second, Burst: 0}},
		"one unit a nanosecond":          {{Limit: 1e9 + 1, Per: time.Second, Burst: 1}},
		"over 50 years":                  {{Limit: 1, Per: 24 * time.Hour, Burst: 1e6}},
	} {
		if _, err := NewLocal(Settings{Windows: ws}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// model is GCRA written the other way round, as a leaky bucket for every key:
// the level rises by the cost and leaks with time.
type model struct {
	level map[string][]int64 // nanoseconds of work in the bucket
	at    int64
}

func (m *model) take(rates []rate, key string, cost, now int64) bool {
	for _, levels := range m.level {
		for i := range levels {
			levels[i] = max(0, levels[i]-(now-m.at))
		}
	}
	m.at = now
	l := m.level[key]
	if l == nil {
		l = make([]int64, len(rates))
		m.level[key] = l
	}
	for i, r := range rates {
		if cost > r.burst || l[i]+cost*r.interval > r.depth {
			return false
		}
	}
	for i, r := range rates {
		l[i] += cost * r.interval
	}
	return true
}

func windows(t *rapid.T) []Window {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Window {
		return Window{
			Limit: rapid.Int64Range(1, 50).Draw(t, "limit"),
			Per:   time.Duration(rapid.Int64Range(1, 100).Draw(t, "ms")) * time.Millisecond,
			Burst: rapid.Int64Range(1, 30).Draw(t, "burst"),
		}
	}), 1, 3).Draw(t, "windows")
}

func TestEqualsLeakyBucketWhenThereIsRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		l, err := NewLocal(Settings{Windows: windows(t), Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		m := &model{level: map[string][]int64{}}
		for range rapid.IntRange(1, 200).Draw(t, "n") {
			c.advance(time.Duration(rapid.Int64Range(0, 5e6).Draw(t, "wait")))
			key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
			cost := rapid.Uint32Range(0, 8).Draw(t, "cost")
			want := m.take(l.whole, key, int64(cost), c.now())
			var d Decision
			_ = l.Take([]byte(key), cost, &d) // Local never fails
			if d.Allowed != want {
				t.Fatalf("%s cost %d: got %+v, want %v", key, cost, d, want)
			}
			if d.Allowed != (d.RetryAfter == 0) || d.Remaining < 0 || d.Remaining > l.whole[d.Window].burst {
				t.Fatalf("inconsistent: %+v", d)
			}
			if !d.Allowed && d.RetryAfter != Never {
				then := c.now() + int64(d.RetryAfter)
				var longest int64
				for i := range l.whole {
					tat := tatOf(l, key, i)
					if w := waitFor(&l.whole[i], tat, then, int64(cost)); w > 0 {
						t.Fatalf("window %d refuses %v after RetryAfter", i, w)
					}
					longest = max(longest, waitFor(&l.whole[i], tat, then-1, int64(cost)))
				}
				if longest == 0 {
					t.Fatal("a nanosecond less would have done")
				}
			}
		}
	})
}

func hashOf(l *Local, key string) uint64 { return maphash.String(l.seed, key) | 1 }

// tatOf reads one bucket's time.
func tatOf(l *Local, key string, window int) int64 {
	h := hashOf(l, key)
	s := &l.shards[h>>32&l.mask]
	i := s.find(h)
	if i < 0 {
		return 0
	}
	return s.tats[i*len(l.whole)+window]
}

// With far more keys than room, every grant must still be one that a bucket of
// the key's own would have given.
func TestNeverLooserThanOneBucketForEachKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		l, err := NewLocal(Settings{Windows: windows(t), MaxKeys: 8, Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		m := &model{level: map[string][]int64{}}
		keys := rapid.IntRange(1, 400).Draw(t, "keys")
		for i := range rapid.IntRange(100, 1500).Draw(t, "n") {
			if i%7 == 0 {
				c.advance(time.Duration(rapid.Int64Range(0, 2e6).Draw(t, "wait")))
			}
			key := fmt.Sprint(rapid.IntRange(0, keys).Draw(t, "key"))
			var d Decision
			_ = l.Take([]byte(key), 1, &d) // Local never fails
			if d.Allowed && !m.take(l.whole, key, 1, c.now()) {
				t.Fatalf("key %s was granted too much", key)
			}
		}
	})
}

func TestManyKeysNeitherResetOthersNorGrowMemory(t *testing.T) {
	c := newClock()
	l := newLocal(t, Settings{Windows: perMinute(6, 5), MaxKeys: 1000, Now: c.now})
	const victims = 200
	for i := range victims {
		for range 3 {
			take(t, l, fmt.Sprint("victim", i), 1)
		}
	}
	var key [16]byte
	var d Decision
	for i := range 200_000 {
		binary.LittleEndian.PutUint64(key[:], uint64(i))
		_ = l.Take(key[:], 1, &d) // Local never fails
	}
	for i := range victims {
		if d := take(t, l, fmt.Sprint("victim", i), 0); d.Remaining != 2 {
			t.Fatalf("victim %d: %d left, want 2", i, d.Remaining)
		}
	}
	if n := l.Slots(); n > 3*1000 {
		t.Fatalf("%d slots for at most 1000 keys", n)
	}
	if l.Squeezed() == 0 {
		t.Fatal("200000 keys fitted into 1000 buckets")
	}
	// Once all is refilled, the tables shrink and strangers have a bucket again.
	c.advance(time.Hour)
	for i := range 100 {
		take(t, l, fmt.Sprint("new", i), 1)
	}
	before := l.Squeezed()
	if d := take(t, l, "stranger", 1); d.Remaining != 4 || l.Squeezed() != before {
		t.Fatalf("a stranger after the flood: %+v", d)
	}
	if n := l.Slots(); n > len(l.shards)*4*minSlots {
		t.Fatalf("%d slots after an hour of quiet", n)
	}
}

// An exhausted key in an overflow bucket must not be given a new burst when a
// slot becomes free.
func TestLeavingTheOverflowKeepsTheDebt(t *testing.T) {
	c := newClock()
	l := newLocal(t, Settings{Windows: perMinute(1, 2), MaxKeys: 1, Now: c.now})
	s := &l.shards[0]
	n := 0
	for l.Squeezed() == 0 {
		take(t, l, fmt.Sprint("filler", n), 1)
		n++
	}
	var poor string
	for i := 0; ; i++ { // a key that found no room
		poor = fmt.Sprint("poor", i)
		was := l.Squeezed()
		d := take(t, l, poor, 2)
		if squeezed := l.Squeezed() > was; squeezed != d.Squeezed {
			t.Fatalf("the decision says %v, the limiter %v", d.Squeezed, squeezed)
		}
		if d.Squeezed {
			break
		}
	}
	take(t, l, poor, 2)
	for i := range s.tats { // every bucket is full again, but the overflow is not
		s.tats[i] = 0
	}
	if d := take(t, l, poor, 2); d.Allowed {
		t.Fatalf("moving to a bucket of its own paid the debt: %+v", d)
	}
	if s.find(hashOf(l, poor)) < 0 {
		t.Fatal("the key found no room: the test proves nothing")
	}
}

func TestVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocal(t, Settings{Windows: []Window{{Limit: 2, Per: time.Second, Burst: 1}}})
		if d := take(t, l, "ann", 1); !d.Allowed {
			t.Fatal(d)
		}
		if d := take(t, l, "ann", 1); d.Allowed {
			t.Fatal(d)
		}
		time.Sleep(500 * time.Millisecond)
		if d := take(t, l, "ann", 1); !d.Allowed {
			t.Fatal(d)
		}
	})
}

func TestConcurrentTakesGrantExactlyTheBurst(t *testing.T) {
	c := newClock()
	l := newLocal(t, Settings{Windows: perMinute(1, 1000), Now: c.now})
	var granted atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var d Decision
			for i := range 1000 {
				_ = l.Take([]byte("hot"), 1, &d) // Local never fails
				if d.Allowed {
					granted.Add(1)
				}
				_ = l.Take(fmt.Appendf(nil, "%d-%d", g, i), 1, &d)
			}
		})
	}
	wg.Wait()
	if granted.Load() != 1000 {
		t.Fatalf("%d granted, want 1000", granted.Load())
	}
	if n := l.Keys(); n > 8001 || n < 7999 { // hardly ever does one find no slot in reach
		t.Fatalf("%d keys, want 8001", n)
	}
}

func TestKnownKeyDoesNotAllocate(t *testing.T) {
	l := newLocal(t, Settings{Windows: []Window{
		{Limit: 100, Per: time.Second, Burst: 100}, {Limit: 1000, Per: time.Hour, Burst: 1000},
	}})
	key := []byte("192.0.2.1")
	var d Decision
	if n := testing.AllocsPerRun(1000, func() { _ = l.Take(key, 1, &d) }); n != 0 {
		t.Fatalf("Take: %v allocations, want 0", n)
	}
}

// TestRaise: a key is as used as it is said to be, never less, and those that
// have no bucket of their own are let alone.
func TestRaise(t *testing.T) {
	now := int64(1)
	l, err := NewLocal(Settings{Windows: []Window{{Limit: 10, Per: 10 * time.Second, Burst: 10}, {Limit: 100, Per: time.Hour, Burst: 100}}, MaxKeys: 64, Now: func() int64 { return now }})
	if err != nil {
		t.Fatal(err)
	}
	look := func(key string) int64 {
		var d Decision
		if err := l.Take([]byte(key), 0, &d); err != nil {
			t.Fatal(err)
		}
		return d.Remaining
	}
	l.Raise([]byte("none"), []time.Duration{0, 0}, time.Second)
	l.Raise([]byte("old"), []time.Duration{time.Second, time.Second}, 2*time.Second)
	if l.Keys() != 0 {
		t.Errorf("%d buckets for what is full", l.Keys())
	}
	for _, c := range []struct {
		used, ago time.Duration
		want      int64
	}{{4 * time.Second, 0, 6}, {3 * time.Second, 0, 6}, {6 * time.Second, time.Second, 5}, {time.Hour, 0, 0}} {
		if l.Raise([]byte("k"), []time.Duration{c.used, 0}, c.ago); look("k") != c.want {
			t.Errorf("%v used %v ago: %d remain, want %d", c.used, c.ago, look("k"), c.want)
		}
	}
	if now += int64(3 * time.Second); look("k") != 3 {
		t.Errorf("%d remain of what comes back", look("k"))
	}
	for i := range 20_000 {
		l.Raise(fmt.Append(nil, i), []time.Duration{10 * time.Second, time.Hour}, 0)
	}
	refused := 0
	for i := range 100 {
		if look(fmt.Sprint("new", i)) == 0 {
			refused++
		}
	}
	if refused > 0 || l.Squeezed() == 0 {
		t.Errorf("%d of 100 others are refused, %d had no bucket", refused, l.Squeezed())
	}
}
