package local

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"strconv"
	"strings"
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
	epoch   string         // tells the positions of this life from those of another
	changed func()
}

func (l *leases) init(changed func()) {
	l.byID, l.changed, l.epoch = map[string]*store.Lease{}, changed, rand.Text()
}

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
	l.put(id, data, time.Now().Add(ttl))
	l.mu.Unlock()
	l.changed()
	return nil
}

// put makes or replaces a lease. l.mu is held.
func (l *leases) put(id string, data []byte, end time.Time) {
	lease := &store.Lease{ID: id, Data: bytes.Clone(data), Expires: end}
	l.byID[id] = lease
	l.note(store.Change{Lease: *lease})
}

// Replace implements store.Leases.
func (l *leases) Replace(_ context.Context, id string, old, data []byte, ttl time.Duration) error {
	l.mu.Lock()
	now, end := l.byID[id], time.Now().Add(ttl)
	if (now == nil) != (old == nil) || now != nil && !bytes.Equal(now.Data, old) {
		l.mu.Unlock()
		return store.ErrConflict
	}
	if ttl == 0 && now != nil {
		end = now.Expires
	}
	l.put(id, data, end)
	l.mu.Unlock()
	l.changed()
	return nil
}

// Lease implements store.Leases.
func (l *leases) Lease(_ context.Context, id string) (*store.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease := l.byID[id]
	if lease == nil {
		return nil, store.ErrNotFound
	}
	out := *lease
	return &out, nil
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

// RenewAll implements store.Leases.
func (l *leases) RenewAll(ctx context.Context, list []store.Renewal) (missing []string, err error) {
	for _, r := range list {
		if l.Renew(ctx, r.ID, r.TTL) != nil {
			missing = append(missing, r.ID)
		}
	}
	return missing, nil
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

// position is the one after all changes so far. l.mu is held.
func (l *leases) position() store.Position {
	return store.Position(l.epoch + "." + strconv.FormatUint(l.next, 10))
}

// Snapshot implements store.Leases.
func (l *leases) Snapshot(context.Context) ([]store.Lease, store.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]store.Lease, 0, len(l.byID))
	for _, lease := range l.byID {
		list = append(list, *lease)
	}
	slices.SortFunc(list, func(a, b store.Lease) int { return cmp.Compare(a.ID, b.ID) })
	return list, l.position(), nil
}

// Changes implements store.Leases.
func (l *leases) Changes(_ context.Context, since store.Position) ([]store.Change, store.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	epoch, text, _ := strings.Cut(string(since), ".")
	from, err := strconv.ParseUint(text, 10, 64)
	first := l.next - uint64(len(l.changes))
	if err != nil || epoch != l.epoch || from < first || from > l.next {
		return nil, "", store.ErrGap
	}
	return slices.Clone(l.changes[from-first:]), l.position(), nil
}

// Expire implements store.Leases.
func (l *leases) Expire(_ context.Context, limit int) (overdue, all int, err error) {
	now := time.Now()
	l.mu.Lock()
	all = len(l.byID)
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
	return len(ids), all, nil
}
