package secrets

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// holder is what stands under the name of a lock. Token makes it another text
// each time, so that nobody renews or ends a lock that is no longer its own.
type holder struct {
	Node     string `json:"node"`
	Instance string `json:"instance"`
	Token    string `json:"token"`
}

// errLost says that a lock is no longer ours, or may not be.
var errLost = errors.New("the lock of this order was lost")

// Lock implements acme.Locker: a value that ends by itself when its holder does
// not renew it. What the lock is for must not rely on it alone, since a process
// may sleep: certificates are stored by compare-and-set.
func (s *Shared) Lock(ctx context.Context, name string) (context.Context, func(), error) {
	value, err := json.Marshal(holder{s.s.Node, s.instance, rand.Text()})
	if err != nil {
		return nil, nil, err
	}
	for {
		heard := s.moved.heard()
		if err := s.ready(ctx); err != nil {
			return nil, nil, err
		}
		if wait := s.steady(); wait > 0 {
			sleep(ctx, wait, nil)
		} else if since, got, err := s.acquire(ctx, name, value); err != nil {
			return nil, nil, err
		} else if got {
			held, unlock := s.hold(ctx, name, value, since)
			return held, unlock, nil
		} else {
			sleep(ctx, poll, heard)
		}
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
	}
}

// acquire tries once. A lock of a store that was just emptied counts for
// nothing: somebody else may hold it, and be about to say so again.
func (s *Shared) acquire(ctx context.Context, name string, value []byte) (since time.Time, got bool, err error) {
	if ok, err := s.settled(ctx); !ok {
		return since, false, err
	}
	since = time.Now()
	err = s.ask(ctx, func(ctx context.Context) error {
		return s.s.Store.Swap(ctx, lockFolder, name, nil, value, s.s.Lease)
	})
	if errors.Is(err, store.ErrConflict) {
		return since, false, nil
	}
	ok := false
	if err == nil {
		ok, err = s.settled(ctx)
	}
	if !ok {
		s.release(ctx, name, value)
	}
	return since, ok, err
}

// settled is false if the store has just lost its locks, which another node may
// have found first.
func (s *Shared) settled(ctx context.Context) (bool, error) {
	if err := s.ask(ctx, s.verify); err != nil || s.steady() > 0 {
		return false, err
	}
	err := s.ask(ctx, func(ctx context.Context) error {
		_, err := s.s.Store.Get(ctx, entryFolder, lostEntry)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// hold renews a lock until it is given back or lost.
func (s *Shared) hold(ctx context.Context, name string, value []byte, since time.Time) (context.Context, func()) {
	held, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		taken := false // somebody else had it the last time
		for {
			sleep(held, s.s.Lease/10, nil)
			if held.Err() != nil {
				return
			}
			began := time.Now()
			err := s.renew(held, name, value)
			if held.Err() != nil {
				return
			}
			switch {
			case err == nil:
				since, taken = began, false
			case errors.Is(err, store.ErrConflict) && !taken:
				taken = true // perhaps by one who is about to see that the store was emptied
			case errors.Is(err, store.ErrConflict):
				s.s.Log.Error("another node has the lock that this one held; its order is given up", "lock", name)
				cancel(errLost)
				return
			case time.Since(since) > s.s.Lease*8/10:
				s.s.Log.Error("a lock could not be renewed in time; its order is given up", "lock", name, "error", err)
				cancel(fmt.Errorf("%w: %w", errLost, err))
				return
			}
		}
	})
	return held, sync.OnceFunc(func() {
		cancel(context.Canceled)
		wg.Wait()
		s.release(ctx, name, value)
	})
}

// renew gives a lock another lease. One that a store has lost is taken again.
func (s *Shared) renew(ctx context.Context, name string, value []byte) error {
	err := s.try(ctx, func(ctx context.Context) error {
		return s.s.Store.Swap(ctx, lockFolder, name, value, value, s.s.Lease)
	})
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	return s.try(ctx, func(ctx context.Context) error {
		return s.s.Store.Swap(ctx, lockFolder, name, nil, value, s.s.Lease)
	})
}

// release ends a lock, also for a node that is being stopped. If that fails the
// lease ends it.
func (s *Shared) release(ctx context.Context, name string, value []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = s.ask(ctx, func(ctx context.Context) error {
		return s.s.Store.Swap(ctx, lockFolder, name, value, nil, 0)
	})
}

// listLocks notes who orders what, for the status.
func (s *Shared) listLocks(ctx context.Context) {
	var list []store.Value
	err := s.try(ctx, func(ctx context.Context) (err error) {
		list, err = s.s.Store.List(ctx, lockFolder)
		return err
	})
	if err != nil {
		return
	}
	locks := make([]LockStatus, 0, len(list))
	for _, v := range list {
		var h holder
		if json.NewDecoder(bytes.NewReader(v.Data)).Decode(&h) != nil || h.Node == "" {
			h.Node = "somebody unknown"
		}
		locks = append(locks, LockStatus{Name: v.Name, Node: h.Node})
	}
	s.mu.Lock()
	s.locks = locks
	s.mu.Unlock()
}
