package local

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

const (
	// sweepAt is how many buckets, counters and places there must be before full
	// and ended ones are looked for.
	sweepAt = 1024
	// writeBack is how long what was counted may be in memory only: what a crash
	// forgets.
	writeBack = time.Second
)

// counted is the part of the file that has counters: their sum and when they
// end, in Unix milliseconds, eight bytes each.
var counted = []byte("counters")

// limits implements store.Limits. Buckets and places are in memory only: they
// are full and free again soon after a stop. Counters, which last for a month,
// are written to the file.
type limits struct {
	file *Store

	mu       sync.Mutex // guards all below; taken before file.mu
	buckets  map[string][]time.Time
	places   map[string]map[string]place
	counters map[string]counter // nil: not read yet
	changed  map[string]struct{}
	lent     bool        // the file is another process': nothing can be counted
	timer    *time.Timer // runs write; nil: nothing has changed
	sweep    int
}

type counter struct {
	sum int64
	end time.Time
}

type place struct {
	n   int64
	seq uint64
	end time.Time
}

func (l *limits) init(s *Store) {
	l.file, l.sweep = s, sweepAt
	l.buckets, l.places, l.changed = map[string][]time.Time{}, map[string]map[string]place{}, map[string]struct{}{}
}

// Take implements store.Limits.
func (l *limits) Take(_ context.Context, takes []store.Take) ([]store.Taken, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.forget(now)
	out := make([]store.Taken, len(takes))
	for i := range takes {
		out[i] = l.take(&takes[i], now)
	}
	return out, nil
}

func (l *limits) take(t *store.Take, now time.Time) store.Taken {
	full := l.buckets[t.Key]
	if len(full) != len(t.Buckets) {
		full = make([]time.Time, len(t.Buckets))
		l.buckets[t.Key] = full
	}
	got := t.Cost
	for i, b := range t.Buckets {
		used := max(0, full[i].Sub(now))
		got = min(got, int64((time.Duration(b.Burst)*b.Interval-used)/b.Interval))
	}
	if got < t.Cost && (t.AtLeast == 0 || got < t.AtLeast) {
		got = 0
	}
	out := store.Taken{Got: got, Used: make([]time.Duration, len(t.Buckets))}
	for i, b := range t.Buckets {
		if full[i].Before(now) {
			full[i] = now
		}
		full[i] = full[i].Add(time.Duration(got) * b.Interval)
		out.Used[i] = full[i].Sub(now)
	}
	return out
}

// Count implements store.Limits. A crash forgets what was counted in the last
// second; a stop forgets nothing.
func (l *limits) Count(_ context.Context, counts []store.Count) ([]store.Counted, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.read(); err != nil {
		return nil, err
	}
	now := time.Now()
	l.forget(now)
	out := make([]store.Counted, len(counts))
	for i := range counts {
		out[i] = l.count(&counts[i], now)
	}
	return out, nil
}

func (l *limits) count(q *store.Count, now time.Time) store.Counted {
	c := l.counters[q.Key]
	if !now.Before(c.end) {
		c = counter{}
	}
	n := max(q.N, -c.sum)
	if left := q.Limit - c.sum; n > 0 && q.Limit > 0 && n > left {
		n = 0
		if q.AtLeast > 0 && left >= q.AtLeast {
			n = left
		}
	}
	if n != 0 {
		c.sum, c.end = c.sum+n, q.End
		l.counters[q.Key] = c
		l.changed[q.Key] = struct{}{}
		if l.timer == nil {
			l.timer = time.AfterFunc(writeBack, func() { _ = l.write() }) // tried again by the next change
		}
	}
	return store.Counted{Sum: c.sum, Added: n}
}

// errLent is said at once instead of waiting: there are requests that wait.
var errLent = errors.New("store: the file of counters is another process' now, or closed")

// read gets the counters from the file. Holds mu.
func (l *limits) read() error {
	if l.lent {
		return errLent
	}
	if l.counters != nil {
		return nil
	}
	found := map[string]counter{}
	err := l.file.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(counted)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			if len(v) == 16 { // else it is nothing of ours
				sum := int64(binary.BigEndian.Uint64(v) &^ (1 << 63))
				found[string(k)] = counter{sum, time.UnixMilli(int64(binary.BigEndian.Uint64(v[8:]) &^ (1 << 63)))}
			}
			return nil
		})
	})
	if err == nil {
		l.counters = found
	}
	return err
}

// write puts what has changed into the file, and removes what has ended.
func (l *limits) write() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if len(l.changed) == 0 {
		return nil
	}
	now := time.Now()
	err := l.file.update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(counted)
		if err != nil {
			return err
		}
		for key := range l.changed {
			c, there := l.counters[key]
			if there && now.Before(c.end) {
				v := binary.BigEndian.AppendUint64(nil, uint64(c.sum))
				err = errors.Join(err, b.Put([]byte(key), binary.BigEndian.AppendUint64(v, uint64(c.end.UnixMilli()))))
			} else {
				err = errors.Join(err, b.Delete([]byte(key)))
			}
		}
		return err
	})
	if err == nil {
		clear(l.changed)
	}
	return err
}

// release writes what has changed, and forgets it: the next process may change it.
// Nothing is counted until reclaim.
func (l *limits) release() error {
	err := l.write()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counters, l.lent = nil, true
	return err
}

func (l *limits) reclaim() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lent = false
}

// Hold implements store.Limits.
func (l *limits) Hold(_ context.Context, holds []store.Hold) ([]store.Held, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.forget(now)
	out := make([]store.Held, len(holds))
	for i := range holds {
		out[i] = l.hold(&holds[i], now)
	}
	return out, nil
}

func (l *limits) hold(h *store.Hold, now time.Time) store.Held {
	owners := l.places[h.Key]
	if owners == nil {
		owners = map[string]place{}
		l.places[h.Key] = owners
	}
	var others int64
	for name, p := range owners {
		if !now.Before(p.end) {
			delete(owners, name)
		} else if name != h.Owner {
			others += p.n
		}
	}
	if own, there := owners[h.Owner]; there && own.seq > h.Seq {
		return store.Held{Got: own.n, Others: others}
	}
	got := max(0, min(h.Want, h.Limit-others))
	owners[h.Owner] = place{got, h.Seq, now.Add(h.TTL)}
	return store.Held{Got: got, Others: others}
}

// forget drops what has come back by itself, once there is twice as much as
// was left the last time.
func (l *limits) forget(now time.Time) {
	if len(l.buckets)+len(l.counters)+len(l.places) < l.sweep {
		return
	}
	for key, full := range l.buckets {
		if !slices.ContainsFunc(full, now.Before) {
			delete(l.buckets, key)
		}
	}
	for key, c := range l.counters {
		if !now.Before(c.end) {
			delete(l.counters, key)
			l.changed[key] = struct{}{}
		}
	}
	for key, owners := range l.places {
		for name, p := range owners {
			if !now.Before(p.end) {
				delete(owners, name)
			}
		}
		if len(owners) == 0 {
			delete(l.places, key)
		}
	}
	l.sweep = max(sweepAt, 2*(len(l.buckets)+len(l.counters)+len(l.places)))
}
