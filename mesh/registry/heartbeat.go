package registry

import (
	"context"
	"slices"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// renewals are heartbeats on their way to the store. Those that come while
// others are under way go together in the next round trip.
type renewals struct {
	mu   sync.Mutex // guards next and over
	next *batch
	over bool
	wake chan struct{}
}

type batch struct {
	list    []store.Renewal
	done    chan struct{}
	missing []string // sorted
	err     error
}

func (b *renewals) init() {
	b.wake = make(chan struct{}, 1)
	b.next = &batch{done: make(chan struct{})}
}

// renew renews one lease.
func (b *renewals) renew(ctx context.Context, r store.Renewal) error {
	b.mu.Lock()
	if b.over {
		b.mu.Unlock()
		return context.Canceled
	}
	mine := b.next
	mine.list = append(mine.list, r)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	select {
	case <-mine.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if mine.err != nil {
		return mine.err
	}
	if _, missing := slices.BinarySearch(mine.missing, r.ID); missing {
		return store.ErrNotFound
	}
	return nil
}

// run sends batches until ctx is done.
func (b *renewals) run(ctx context.Context, s store.Leases) {
	for {
		select {
		case <-ctx.Done():
		case <-b.wake:
		}
		b.mu.Lock()
		now := b.next
		b.next = &batch{done: make(chan struct{})}
		b.over = ctx.Err() != nil
		b.mu.Unlock()
		now.send(ctx, s)
		if ctx.Err() != nil {
			return
		}
	}
}

func (b *batch) send(ctx context.Context, s store.Leases) {
	defer close(b.done)
	if len(b.list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	b.missing, b.err = s.RenewAll(ctx, b.list)
	slices.Sort(b.missing)
}
