package registry

import (
	"context"
	"errors"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// follow keeps the copy equal to the store, until ctx is done.
func (r *Registry) follow(ctx context.Context) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	looked := r.looked
	for ctx.Err() == nil {
		last := time.Now()
		waiters := r.waiting.take()
		err := r.look(ctx)
		for _, c := range waiters {
			close(c)
		}
		r.answered(ctx, err)
		if looked != nil {
			close(looked)
			looked = nil
		}
		r.sweep()
		r.save(false)
		select {
		case <-ctx.Done():
		case <-r.kick:
			r.collect(ctx, last)
		case <-tick.C:
		}
	}
	r.save(true)
}

// collect waits until enough time has passed since the last look, or somebody
// waits for the next one: many changes in a row are cheaper together.
func (r *Registry) collect(ctx context.Context, last time.Time) {
	t := time.NewTimer(gather - time.Since(last))
	defer t.Stop()
	for !r.waiting.any() {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			return
		case <-r.kick:
		}
	}
}

// look reads what has changed in the store.
func (r *Registry) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := r.lookAtLeases(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	due := r.news || time.Since(r.values) >= pollValues
	r.news = false
	r.mu.Unlock()
	if !due {
		return nil
	}
	if err := r.lookAtValues(ctx); err != nil {
		r.mu.Lock()
		r.news = true // what there was is still to be read
		r.mu.Unlock()
		return err
	}
	r.values = time.Now()
	return nil
}

func (r *Registry) lookAtLeases(ctx context.Context) error {
	if r.position == "" || time.Since(r.full) >= resync && !r.full.IsZero() {
		return r.snapshot(ctx)
	}
	changes, next, err := r.s.Store.Changes(ctx, r.position)
	if errors.Is(err, store.ErrGap) {
		return r.snapshot(ctx)
	}
	if err != nil {
		return err
	}
	if r.full.IsZero() { // the copy on disk was right; so was its age
		r.full = time.Now()
	}
	r.position = next
	if len(changes) == 0 {
		return nil
	}
	e := r.table.edit()
	defer e.done()
	for _, c := range changes {
		if c.Removed {
			e.remove(false, c.Lease.ID)
		} else {
			e.put(false, c.Lease.ID, c.Lease.Data)
		}
	}
	r.disk.dirty()
	return nil
}

// snapshot reads all leases. What the store does not have is not gone yet:
// whether it ended or the store has lost it cannot be told, so that it gets the
// time in which a live instance says so again.
func (r *Registry) snapshot(ctx context.Context) error {
	list, at, err := r.s.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(list))
	e := r.table.edit()
	e.afresh(false)
	for _, l := range list {
		there[l.ID] = true
		e.put(false, l.ID, l.Data)
	}
	for id := range r.table.leases {
		if !there[id] {
			e.lose(false, id)
		}
	}
	e.done()
	r.position, r.full = at, time.Now()
	r.disk.dirty()
	return nil
}

// lookAtValues reads all static entries. Those that a store without a marker
// does not have were lost, not removed.
func (r *Registry) lookAtValues(ctx context.Context) error {
	list, err := r.s.Store.List(ctx, folder)
	if err != nil {
		return err
	}
	marked := false
	there := make(map[string]bool, len(list))
	e := r.table.edit()
	e.afresh(true)
	for _, v := range list {
		if v.Name == marker {
			marked = true
			continue
		}
		there[v.Name] = true
		e.put(true, v.Name, v.Data)
	}
	lost := false
	for name := range r.table.statics {
		switch {
		case there[name]:
		case marked:
			e.remove(true, name)
		default:
			lost = true
			e.lose(true, name)
		}
	}
	if e.done() {
		r.disk.dirty()
	}
	if lost && r.s.Evicts {
		return r.mark(ctx)
	}
	return nil
}

// mark gives a store that has lost them its static entries back, and marks it
// as one that has them all.
func (r *Registry) mark(ctx context.Context) error {
	_, err := r.s.Store.Get(ctx, folder, marker)
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return err
	}
	known := r.table.all(true)
	for name, entry := range known {
		if err := r.s.Store.Swap(ctx, folder, name, nil, entry.raw, 0); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	if len(known) > 0 {
		r.s.Log.Warn("the store had lost the static services; this node has restored them", "instances", len(known))
	}
	if err := r.s.Store.Swap(ctx, folder, marker, nil, []byte("{}"), 0); !errors.Is(err, store.ErrConflict) {
		return err
	}
	return nil
}

// answered notes whether the store has answered.
func (r *Registry) answered(ctx context.Context, err error) {
	if err != nil && ctx.Err() != nil {
		return // the node stops
	}
	now := time.Now()
	r.mu.Lock()
	was := r.status
	if r.status.StoreUp = err == nil; err == nil {
		r.status.Answered, r.status.Error, r.status.FromDisk = now, "", false
	} else {
		r.status.Error = err.Error()
	}
	r.mu.Unlock()
	if was.StoreUp != (err == nil) || was.Error == "" && err != nil {
		r.table.tell() // how far it can be trusted is news as well
	}
	switch {
	case err != nil && (was.StoreUp || was.Error == ""):
		r.s.Log.Warn("services cannot be read from the store; the last known ones stay", "instances", r.table.size(), "error", err)
	case err == nil && !was.StoreUp && was.Error != "":
		r.s.Log.Info("services can be read from the store again")
	}
}

// sweep drops leases that the store has lost and nobody has registered again.
// While that would be too much at once, they stay. Static entries are given back
// to the store instead.
func (r *Registry) sweep() {
	r.mu.Lock()
	up := r.status.StoreUp
	r.mu.Unlock()
	if !up {
		return
	}
	missing, all := r.table.missing()
	if len(missing) == 0 {
		return
	}
	now := time.Now()
	many := r.s.Preserve > 0 && len(missing) > allowance(all, r.s.Preserve)
	e := r.table.edit()
	defer e.done()
	for _, m := range missing {
		if age := now.Sub(m.Missing); age >= longest || !many && age >= m.TTL.D() {
			e.remove(false, m.place())
			r.disk.dirty()
		}
	}
}

// allowance is how many of all entries may end at once: a percentage, and in
// small registries up to half, but three at most.
func allowance(all, percent int) int {
	return max(all*percent/100, min(3, all/2), min(1, all))
}
