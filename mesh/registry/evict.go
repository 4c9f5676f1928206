package registry

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

const (
	// sweepEvery is how often leases that are over are looked for, and as much
	// again at random, so that nodes do not do it in step.
	sweepEvery = 3 * time.Second
	// window is the time in which no more than the allowance may be evicted.
	window = 2 * time.Minute
	// budget is the whole allowance in tokens of a limit in the store, which all
	// nodes that evict share.
	budget = 1_000_000
)

// evict removes leases that are over, until ctx is done. All nodes may do so at
// the same time: the store counts what has gone.
func (r *Registry) evict(ctx context.Context) {
	for {
		sleep(ctx, sweepEvery+rand.N(sweepEvery))
		if ctx.Err() != nil {
			return
		}
		// That the store is away is known from reading it.
		_ = r.Evict(ctx)
	}
}

// Evict removes the leases that are over, unless those are too many at once:
// then it is likely that heartbeats do not get here, not that so many instances
// have died.
func (r *Registry) Evict(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	overdue, all, err := r.s.Store.Expire(ctx, 0)
	if err != nil {
		return err
	}
	free := true
	if overdue > 0 && r.s.Preserve > 0 {
		if free, err = r.afford(ctx, overdue, all); err != nil {
			return err
		}
	}
	if overdue > 0 && free {
		if _, _, err = r.s.Store.Expire(ctx, overdue); err != nil {
			return err
		}
	}
	r.evicted(overdue, all, free)
	return nil
}

// afford takes what evicting so many costs, if it is to be had.
func (r *Registry) afford(ctx context.Context, overdue, all int) (bool, error) {
	may := allowance(all, r.s.Preserve)
	if overdue > may {
		return false, nil
	}
	cost := (int64(overdue)*budget + int64(may) - 1) / int64(may)
	got, err := r.s.Store.Take(ctx, []store.Take{{
		Key: "registry-evictions", Cost: cost,
		Buckets: []store.Bucket{{Interval: window / budget, Burst: budget}},
	}})
	return err == nil && got[0].Got > 0, err
}

func (r *Registry) evicted(overdue, all int, free bool) {
	now := time.Now()
	r.mu.Lock()
	was := r.status.Preserving
	r.status.Overdue, r.status.Leases = overdue, all
	switch {
	case free:
		r.status.Preserving = time.Time{}
		r.status.Evicted += uint64(overdue)
	case was.IsZero():
		r.status.Preserving = now
	}
	r.mu.Unlock()
	switch {
	case free && overdue > 0:
		r.s.Log.Info("instances that were not heard of any more have been evicted", "evicted", overdue, "of", all)
	case !free && was.IsZero():
		r.s.Log.Warn("too many instances are not heard of any more at once: none is evicted", "overdue", overdue, "of", all)
	}
	if free && !was.IsZero() {
		r.s.Log.Info("instances are evicted again")
	}
}
