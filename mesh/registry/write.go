package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

var (
	// ErrNotFound: there is no such instance. A heartbeat that gets it has to be
	// followed by a registration.
	ErrNotFound = errors.New("there is no such instance")
	// ErrStale: the instance is not what If-Match says.
	ErrStale = errors.New("the instance has changed in the meantime")
	// ErrFull: there are as many instances as there may be.
	ErrFull = errors.New("the registry is full")
	// ErrExists: an entry of the other kind has this ID: with a lease, or static.
	ErrExists = errors.New("there is an instance of this ID already")
	// ErrBusy: too many change the same entry at once.
	ErrBusy = errors.New("too many change this instance at once")
)

// tries is how often somebody else may be first.
const tries = 8

// Expect says what an entry must be for it to be changed.
type Expect struct {
	// Tag of the entry; empty: any.
	Tag string
	// Absent: there must be none.
	Absent bool
}

func (x Expect) check(e *Entry) error {
	if x.Absent && e != nil || x.Tag != "" && (e == nil || e.Tag != x.Tag) {
		return ErrStale
	}
	return nil
}

// Register makes or replaces an entry: with a lease if it has a TTL, else a
// static one. What somebody has overridden stays so. created says that there was
// none. The error is an *InvalidError if the instance is not right.
func (r *Registry) Register(ctx context.Context, i Instance, x Expect) (entry *Entry, created bool, err error) {
	r.Use()
	if i.Override != "" {
		return nil, false, invalid("override", "is set by itself, not by registering")
	}
	if err := i.Validate(); err != nil {
		return nil, false, err
	}
	return r.change(ctx, i.key(), i.Static(), i.TTL.D(), func(old *Entry) (*Instance, error) {
		if err := x.check(old); err != nil {
			return nil, err
		}
		next := i
		next.Changed = time.Now().UTC().Truncate(time.Millisecond)
		next.Registered = next.Changed
		if old != nil {
			next.Override, next.Registered = old.Override, old.Registered
		}
		return &next, nil
	})
}

// update changes an entry that is there.
func (r *Registry) update(ctx context.Context, service, id string, x Expect, f func(*Instance) error) (*Entry, error) {
	r.Use()
	if err := CheckNames(service, id); err != nil {
		return nil, err
	}
	k := key(service, id)
	static, err := r.isStatic(ctx, k)
	if err != nil {
		return nil, err
	}
	e, _, err := r.change(ctx, k, static, 0, func(old *Entry) (*Instance, error) {
		if old == nil || !old.Missing.IsZero() {
			return nil, ErrNotFound
		}
		if err := x.check(old); err != nil {
			return nil, err
		}
		next := *old.Instance
		next.Metadata = maps.Clone(next.Metadata)
		if err := f(&next); err != nil {
			return nil, err
		}
		next.Changed = time.Now().UTC().Truncate(time.Millisecond)
		return &next, next.Validate()
	})
	return e, err
}

// SetStatus notes what an instance says of itself.
func (r *Registry) SetStatus(ctx context.Context, service, id string, s Status, x Expect) (*Entry, error) {
	return r.update(ctx, service, id, x, func(i *Instance) error { i.Status = s; return nil })
}

// Override sets a status that counts instead of the instance's own; "" ends
// that.
func (r *Registry) Override(ctx context.Context, service, id string, s Status, x Expect) (*Entry, error) {
	return r.update(ctx, service, id, x, func(i *Instance) error { i.Override = s; return nil })
}

// SetMetadata adds and replaces entries of the metadata; empty ones are removed.
func (r *Registry) SetMetadata(ctx context.Context, service, id string, m map[string]string, x Expect) (*Entry, error) {
	return r.update(ctx, service, id, x, func(i *Instance) error {
		if i.Metadata == nil {
			i.Metadata = map[string]string{}
		}
		for k, v := range m {
			if i.Metadata[k] = v; v == "" {
				delete(i.Metadata, k)
			}
		}
		return nil
	})
}

// isStatic finds out which kind of entry there is.
func (r *Registry) isStatic(ctx context.Context, k string) (bool, error) {
	switch {
	case r.table.at(true, staticName(k)) != nil:
		return true, nil
	case r.table.at(false, k) != nil:
		return false, nil
	}
	_, err := r.s.Store.Get(ctx, folder, staticName(k)) // it may be new
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// change replaces an entry by what f makes of it, however many do so at the same
// time. f gets nil if there is none; an entry that the store has lost is what
// this node last knew of it.
func (r *Registry) change(ctx context.Context, k string, static bool, ttl time.Duration, f func(old *Entry) (*Instance, error)) (*Entry, bool, error) {
	place := k
	if static {
		place = staticName(k)
		if err := r.mark(ctx); err != nil {
			return nil, false, err
		}
	}
	old, sure := r.table.at(static, place), false
	for range tries {
		next, err := f(old)
		if (errors.Is(err, ErrNotFound) || errors.Is(err, ErrStale)) && !sure {
			// This node's copy may be behind.
			if old, err = r.fetch(ctx, static, place, old); err != nil {
				return nil, false, err
			}
			sure = true
			continue
		}
		if err != nil {
			return nil, false, err
		}
		created := old == nil || !old.Missing.IsZero()
		if created {
			if err := r.room(next, static); err != nil {
				return nil, false, err
			}
		}
		raw, err := next.encode()
		if err != nil {
			return nil, false, err
		}
		var before []byte
		if !created {
			before = old.raw
		}
		if ttl > 0 && !created && same(old.Instance, next) {
			err = r.s.Store.Renew(ctx, place, ttl) // nothing to tell anybody
			raw = old.raw
		} else {
			err = r.replace(ctx, static, place, before, raw, ttl)
		}
		switch {
		case err == nil:
			r.sync(ctx, static)
			return &Entry{Instance: next, Tag: tag(raw), raw: raw}, created, nil
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
			if old, err = r.fetch(ctx, static, place, old); err != nil {
				return nil, false, err
			}
			sure = true
		default:
			return nil, false, err
		}
	}
	return nil, false, ErrBusy
}

// same is true if nothing but times differ.
func same(a, b *Instance) bool {
	x := *b
	x.Changed, x.Registered = a.Changed, a.Registered
	one, errA := a.encode()
	two, errB := x.encode()
	return errA == nil && errB == nil && string(one) == string(two)
}

func (r *Registry) room(i *Instance, static bool) error {
	if r.table.size() >= r.s.MaxInstances {
		return fmt.Errorf("%w: it may have %d instances", ErrFull, r.s.MaxInstances)
	}
	other := i.key()
	if !static {
		other = staticName(i.key())
	}
	if e := r.table.at(!static, other); e != nil && e.Missing.IsZero() {
		if static {
			return fmt.Errorf("%w, with a lease", ErrExists)
		}
		return fmt.Errorf("%w, a static one", ErrExists)
	}
	return nil
}

func (r *Registry) replace(ctx context.Context, static bool, place string, old, raw []byte, ttl time.Duration) error {
	if static {
		return r.s.Store.Swap(ctx, folder, place, old, raw, 0)
	}
	return r.s.Store.Replace(ctx, place, old, raw, ttl)
}

// fetch reads an entry from the store. Where that has none it is last, marked as
// missing, or nil. One that cannot be read is overwritten.
func (r *Registry) fetch(ctx context.Context, static bool, place string, last *Entry) (*Entry, error) {
	var raw []byte
	var err error
	if static {
		raw, err = r.s.Store.Get(ctx, folder, place)
	} else {
		var l *store.Lease
		if l, err = r.s.Store.Lease(ctx, place); err == nil {
			raw = l.Data
		}
	}
	if errors.Is(err, store.ErrNotFound) {
		if last == nil {
			return nil, nil
		}
		gone := *last
		if gone.Missing.IsZero() {
			gone.Missing = time.Now()
		}
		return &gone, nil
	}
	if err != nil {
		return nil, err
	}
	i, err := read(static, place, raw)
	if err != nil { // something else is there: it gives way
		i = &Instance{}
	}
	return &Entry{Instance: i, Tag: tag(raw), raw: raw}, nil
}

// Heartbeat renews an instance's lease. ErrNotFound asks to register again. It
// is always right for a static entry.
func (r *Registry) Heartbeat(ctx context.Context, service, id string) error {
	r.Use()
	if err := CheckNames(service, id); err != nil {
		return err
	}
	k := key(service, id)
	e := r.table.at(false, k)
	if e == nil {
		if r.table.at(true, staticName(k)) != nil {
			return nil
		}
		var err error
		if e, err = r.fetch(ctx, false, k, nil); err != nil {
			return err
		}
		if e == nil || e.TTL == 0 {
			return ErrNotFound
		}
	}
	err := r.beats.renew(ctx, store.Renewal{ID: k, TTL: e.TTL.D()})
	if errors.Is(err, store.ErrNotFound) {
		return ErrNotFound
	}
	return err
}

// Deregister removes an entry of either kind.
func (r *Registry) Deregister(ctx context.Context, service, id string, x Expect) error {
	r.Use()
	if err := CheckNames(service, id); err != nil {
		return err
	}
	k := key(service, id)
	static, err := r.isStatic(ctx, k)
	if err != nil {
		return err
	}
	place := k
	if static {
		place = staticName(k)
		if err := r.mark(ctx); err != nil {
			return err
		}
	}
	now, err := r.fetch(ctx, static, place, nil)
	if err != nil {
		return err
	}
	if now == nil {
		// What this node only remembers it forgets.
		e := r.table.edit()
		known := r.table.kind(static)[place] != nil
		e.remove(static, place)
		if e.done(); !known {
			return ErrNotFound
		}
		return nil
	}
	if err := x.check(now); err != nil {
		return err
	}
	if static {
		err = r.s.Store.Delete(ctx, folder, place)
	} else {
		err = r.s.Store.Cancel(ctx, place)
	}
	if err == nil {
		r.sync(ctx, static)
	}
	return err
}
