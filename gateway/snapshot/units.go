package snapshot

import (
	"context"
	"sync"
)

// Unit is something with a life: an upstream, a plugin instance. It outlives
// its snapshot when the next one has the same unit with the same digest.
type Unit interface {
	Start(ctx context.Context) error
	Close(ctx context.Context) error
}

// Units are the units of one snapshot, by key ("upstream/users",
// "route/users/plugin/0/jwt"). They are built by one goroutine and read by many
// afterwards.
type Units struct {
	byKey map[string]*held
	fresh []*held // in the order built
	onErr func(key string, err error)
}

type held struct {
	key, digest string
	unit        Unit
	mu          sync.Mutex // guards refs
	refs        int
}

// NewUnits returns an empty set. onErr hears of units that fail to close.
func NewUnits(onErr func(key string, err error)) *Units {
	return &Units{byKey: map[string]*held{}, onErr: onErr}
}

// Grow makes room for n units in a set that has none yet.
func (u *Units) Grow(n int) { u.byKey = make(map[string]*held, n) }

// Reuse takes the unit of that key over from prev if its digest is the same.
func (u *Units) Reuse(prev *Units, key, digest string) (Unit, bool) {
	if prev == nil {
		return nil, false
	}
	h := prev.byKey[key]
	if h == nil || h.digest == "" || h.digest != digest {
		return nil, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refs == 0 {
		return nil, false
	}
	h.refs++
	u.byKey[key] = h
	return h.unit, true
}

// Lookup finds a unit by key; nil if there is none.
func (u *Units) Lookup(key string) Unit {
	if u == nil {
		return nil
	}
	if h := u.byKey[key]; h != nil {
		return h.unit
	}
	return nil
}

// Add owns a new unit.
func (u *Units) Add(key, digest string, unit Unit) {
	h := &held{key: key, digest: digest, unit: unit, refs: 1}
	u.byKey[key] = h
	u.fresh = append(u.fresh, h)
}

// Start starts what is new, in the order built, and returns what could not be
// started, by key. Those too are closed by Release; no later set reuses them.
func (u *Units) Start(ctx context.Context) map[string]error {
	failed := map[string]error{}
	for _, h := range u.fresh {
		if err := h.unit.Start(ctx); err != nil {
			failed[h.key] = err
			h.digest = ""
		}
	}
	u.fresh = nil
	return failed
}

// Retire tells the units that next does not share that they have been
// replaced: those with a method Retire end their background work now, although
// requests may still use them.
func (u *Units) Retire(next *Units) {
	for key, h := range u.byKey {
		if next.byKey[key] == h {
			continue
		}
		if r, ok := h.unit.(interface{ Retire() }); ok {
			r.Retire()
		}
	}
}

// Each calls f for every unit, in no order.
func (u *Units) Each(f func(key string, unit Unit)) {
	for key, h := range u.byKey {
		f(key, h.unit)
	}
}

// Release gives up every unit and closes those nobody else holds.
func (u *Units) Release() {
	for key, h := range u.byKey {
		h.mu.Lock()
		h.refs--
		last := h.refs == 0
		h.mu.Unlock()
		if !last {
			continue
		}
		if err := h.unit.Close(context.Background()); err != nil && u.onErr != nil {
			u.onErr(key, err)
		}
	}
}

// Len is how many units the set holds.
func (u *Units) Len() int { return len(u.byKey) }
