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
