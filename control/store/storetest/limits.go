package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

func limits(t *testing.T, s store.Store, _ func() store.Store) {
	ctx := t.Context()
	two := []store.Bucket{{Interval: time.Hour, Burst: 3}, {Interval: time.Minute, Burst: 10}}
	for i, c := range []struct {
		take store.Take
		got  int64
		used []time.Duration
	}{
		{store.Take{Key: "a", Buckets: two, Cost: 0}, 0, []time.Duration{0, 0}},
		{store.Take{Key: "a", Buckets: two, Cost: 2}, 2, []time.Duration{2 * time.Hour, 2 * time.Minute}},
		{store.Take{Key: "a", Buckets: two, Cost: 2}, 0, []time.Duration{2 * time.Hour, 2 * time.Minute}},
		{store.Take{Key: "b}", Buckets: two, Cost: 4}, 0, []time.Duration{0, 0}},
		{store.Take{Key: "a", Buckets: two, Cost: 1}, 1, []time.Duration{3 * time.Hour, 3 * time.Minute}},
		{store.Take{Key: "a", Buckets: two, Cost: 1}, 0, []time.Duration{3 * time.Hour, 3 * time.Minute}},
		{store.Take{Key: "a", Buckets: minute(5), Cost: 5}, 5, []time.Duration{5 * time.Minute}},
	} {
		out, err := s.Take(ctx, []store.Take{c.take})
		no(t, err)
		if len(out) != 1 || out[0].Got != c.got || len(out[0].Used) != len(c.used) {
			t.Fatalf("take %d: got %+v, want %d", i, out, c.got)
		}
		for j, want := range c.used {
			if d := want - out[0].Used[j]; d < -time.Millisecond || d > 30*time.Second {
				t.Errorf("take %d: bucket %d is full in %v, want %v", i, j, out[0].Used[j], want)
			}
		}
	}
	// What is taken comes back.
	fast := []store.Bucket{{Interval: 50 * time.Millisecond, Burst: 1}}
	var no1 store.Take
	inTime(t, fast[0].Interval, func(key string) error {
		no1 = store.Take{Key: key, Buckets: fast, Cost: 1}
		out, err := s.Take(ctx, []store.Take{no1, no1, {Key: "other" + key, Buckets: fast, Cost: 1}})
		if err != nil || out[0].Got != 1 || out[1].Got != 0 || out[2].Got != 1 {
			return fmt.Errorf("%+v, %w", out, err)
		}
		return nil
	})
	eventually(t, "the token's return", func() bool {
		out, err := s.Take(ctx, []store.Take{no1})
		return err == nil && out[0].Got == 1
	})
}

// inTime tries something that is over after d, with one key after the other,
// until it took less than that: a busy machine may look too late.
func inTime(t *testing.T, d time.Duration, try func(key string) error) {
	t.Helper()
	eventually(t, "something is done in time", func() bool {
		began := time.Now()
		err := try(fmt.Sprint("at", began.UnixNano()))
		if time.Since(began) >= d {
			return false
		}
		no(t, err)
		return true
	})
}

func exact(t *testing.T, s store.Store, again func() store.Store) {
	var got atomic.Int64
	var wg sync.WaitGroup
	for _, s := range []store.Store{s, again(), again()} {
		wg.Go(func() {
			for range 40 {
				out, err := s.Take(t.Context(), []store.Take{
					{Key: "shared", Buckets: []store.Bucket{{Interval: time.Hour, Burst: 70}}, Cost: 1},
					{Key: "plenty", Buckets: []store.Bucket{{Interval: time.Hour, Burst: 7000}}, Cost: 1},
				})
				if err != nil || out[1].Got != 1 {
					t.Errorf("%+v, %v", out, err)
					return
				}
				got.Add(out[0].Got)
			}
		})
	}
	wg.Wait()
	if got.Load() != 70 {
		t.Errorf("%d of 120 requests were let through by a limit of 70", got.Load())
	}
}

func tokens(t *testing.T, s store.Store, _ func() store.Store) {
	take := func(cost, least int64) int64 {
		t.Helper()
		out, err := s.Take(t.Context(), []store.Take{{Key: "k", Buckets: []store.Bucket{{Interval: time.Hour, Burst: 25}}, Cost: cost, AtLeast: least}})
		no(t, err)
		return out[0].Got
	}
	if a, b, c, d := take(10, 1), take(10, 1), take(10, 6), take(10, 1); a != 10 || b != 10 || c != 0 || d != 5 {
		t.Errorf("got %d, %d, %d, %d", a, b, c, d)
	}
	if n := take(10, 1); n != 0 {
		t.Errorf("got %d of nothing", n)
	}
}

func counters(t *testing.T, s store.Store, again func() store.Store) {
	ctx, end := t.Context(), time.Now().Add(time.Hour)
	for i, c := range []struct{ n, limit, least, sum, added int64 }{
		{5, 0, 0, 5, 5},
		{5, 10, 0, 10, 5},
		{1, 10, 0, 10, 0},
		{0, 10, 0, 10, 0},
		{7, 0, 0, 17, 7},
		{1, 10, 1, 17, 0},
		{5, 20, 4, 17, 0},
		{5, 20, 3, 20, 3},
		{-4, 10, 0, 16, -4},
		{-100, 0, 0, 0, -16},
		{2, 0, 0, 2, 2},
		{-1 << 53, 10, 0, 0, -2},
		{0, 0, 0, 0, 0},
	} {
		out, err := again().Count(ctx, []store.Count{{Key: "day", N: c.n, Limit: c.limit, AtLeast: c.least, End: end}})
		if err != nil || len(out) != 1 || out[0] != (store.Counted{Sum: c.sum, Added: c.added}) {
			t.Errorf("count %d: %+v, %v; want %d, %d", i, out, err, c.sum, c.added)
		}
	}
	var short store.Count
	inTime(t, 50*time.Millisecond, func(key string) error {
		short = store.Count{Key: key, N: 3, Limit: 3, End: time.Now().Add(50 * time.Millisecond)}
		out, err := s.Count(ctx, []store.Count{short, {Key: "other" + key, N: 1, End: end}, {Key: "none", End: end}})
		if err != nil || len(out) != 3 || out[0].Sum != 3 || out[1].Sum != 1 || out[2].Sum != 0 {
			return fmt.Errorf("%+v, %w", out, err)
		}
		return nil
	})
	short.End = end
	eventually(t, "the end of the window", func() bool {
		out, err := s.Count(ctx, []store.Count{short})
		return err == nil && out[0].Added == 3
	})
}

func places(t *testing.T, s store.Store, again func() store.Store) {
	ctx := t.Context()
	for i, c := range []struct {
		owner               string
		want, limit, got, o int64
	}{
		{"a", 3, 10, 3, 0},
		{"b", 9, 10, 7, 3},
		{"a", 5, 10, 3, 7},
		{"b", 1, 10, 1, 3},
		{"a", 5, 10, 5, 1},
		{"c", 0, 10, 0, 6},
		{"a", 0, 10, 0, 1},
		{"b", 4, 2, 2, 0},
		{"a", 1, 2, 0, 2},
		{"b", 0, 2, 0, 0},
		{"a", 1, 2, 1, 0},
	} {
		out, err := again().Hold(ctx, []store.Hold{{Key: "k", Owner: c.owner, Seq: uint64(10 + i), Want: c.want, Limit: c.limit, TTL: time.Minute}})
		if err != nil || len(out) != 1 || out[0] != (store.Held{Got: c.got, Others: c.o}) {
			t.Errorf("hold %d: %+v, %v; want %d, %d", i, out, err, c.got, c.o)
		}
	}
	// What was asked for earlier and comes later changes nothing.
	for _, seq := range []uint64{5, 1} {
		out, err := s.Hold(ctx, []store.Hold{{Key: "late", Owner: "a", Seq: seq, Want: int64(seq), Limit: 9, TTL: time.Minute}})
		if err != nil || out[0].Got != 5 {
			t.Errorf("%+v, %v", out, err)
		}
	}
	// Whoever is not heard of again holds nothing.
	dead := store.Hold{Key: "short", Owner: "dead", Want: 2, Limit: 2, TTL: 50 * time.Millisecond}
	live := store.Hold{Key: "short", Owner: "live", Want: 2, Limit: 2, TTL: 50 * time.Millisecond}
	out, err := s.Hold(ctx, []store.Hold{dead, {Key: "other", Owner: "x", Want: 1, Limit: 1, TTL: time.Minute}})
	if err != nil || out[0].Got != 2 || out[1].Got != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	eventually(t, "the places of the dead", func() bool {
		out, err := s.Hold(ctx, []store.Hold{live})
		return err == nil && out[0].Got == 2
	})
}
