package local

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// maxChanges is how many changes of leases are remembered.
const maxChanges = 4096

// leases implements store.Leases.
type leases struct {
	mu      sync.Mutex // guards all below
	byID    map[string]*store.Lease
	changes []store.Change // the last ones
	next    uint64         // the position after the last one
	changed func()
}

func (l *leases) init(changed func()) { l.byID, l.changed = map[string]*store.Lease{}, changed }

// note takes a change down. l.mu is held.
func (l *leases) note(c store.Change) {
	l.changes = append(l.changes, c)
	l.next++
	if len(l.changes) >= 2*maxChanges {
		l.changes = slices.Clone(l.changes[maxChanges:])
	}
}

// Register implements store.Leases.
func (l *leases) Register(_ context.Context, id string, data []byte, ttl time.Duration) error {
	l.mu.Lock()
	lease := &store.Lease{ID: id, Data: bytes.Clone(data), Expires: time.Now().Add(ttl)}
	l.byID[id] = lease
	l.note(store.Change{Lease: *lease})
	l.mu.Unlock()
	l.changed()
	return nil
}

// Renew implements store.Leases.
func (l *leases) Renew(_ context.Context, id string, ttl time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease := l.byID[id]
	if lease == nil {
		return store.ErrNotFound
	}
	again := *lease // what was handed out does not change
	again.Expires = time.Now().Add(ttl)
	l.byID[id] = &again
	return nil
}

// Cancel implements store.Leases.
func (l *leases) Cancel(_ context.Context, id string) error {
	l.mu.Lock()
	gone := l.remove(id)
	l.mu.Unlock()
	if gone {
		l.changed()
	}
	return nil
}

func (l *leases) remove(id string) bool {
	if l.byID[id] == nil {
		return false
	}
	delete(l.byID, id)
	l.note(store.Change{Removed: true, Lease: store.Lease{ID: id}})
	return true
}

func position(n uint64) store.Position { return store.Position(strconv.FormatUint(n, 10)) }

// Snapshot implements store.Leases.
func (l *leases) Snapshot(context.Context) ([]store.Lease, store.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]store.Lease, 0, len(l.byID))
	for _, lease := range l.byID {
		list = append(list, *lease)
	}
	slices.SortFunc(list, func(a, b store.Lease) int { return cmp.Compare(a.ID, b.ID) })
	return list, position(l.next), nil
}

// Changes implements store.Leases.
func (l *leases) Changes(_ context.Context, since store.Position) ([]store.Change, store.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from, err := strconv.ParseUint(string(since), 10, 64)
	first := l.next - uint64(len(l.changes))
	if err != nil || from < first || from > l.next {
		return nil, "", store.ErrGap
	}
	return slices.Clone(l.changes[from-first:]), position(l.next), nil
}

// Expire implements store.Leases.
func (l *leases) Expire(_ context.Context, limit int) (overdue int, err error) {
	now := time.Now()
	l.mu.Lock()
	var ids []string
	for id, lease := range l.byID {
		if !lease.Expires.After(now) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids[:min(limit, len(ids))] {
		l.remove(id)
	}
	l.mu.Unlock()
	if min(limit, len(ids)) > 0 {
		l.changed()
	}
	return len(ids), nil
}

// sweepAt is how many buckets or counters there must be before full and ended
// ones are looked for.
const sweepAt = 1024

// limits implements store.Limits.
type limits struct {
	mu       sync.Mutex // guards all below
	buckets  map[string][]time.Time
	counters map[string]counter
	sweep    int
}

type counter struct {
	sum int64
	end time.Time
}

func (l *limits) init() {
	l.buckets, l.counters, l.sweep = map[string][]time.Time{}, map[string]counter{}, sweepAt
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

// Count implements store.Limits.
func (l *limits) Count(_ context.Context, key string, n, limit int64, end time.Time) (sum int64, added bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.forget(now)
	c := l.counters[key]
	if !now.Before(c.end) {
		c = counter{end: end}
	}
	if limit > 0 && c.sum+n > limit {
		return c.sum, false, nil
	}
	c.sum += n
	l.counters[key] = c
	return c.sum, true, nil
}

// forget drops what has come back by itself, once there is twice as much as
// was left the last time.
func (l *limits) forget(now time.Time) {
	if len(l.buckets)+len(l.counters) < l.sweep {
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
		}
	}
	l.sweep = max(sweepAt, 2*(len(l.buckets)+len(l.counters)))
}
