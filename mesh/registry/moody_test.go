package registry_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// moody is a store that can be away, and lose everything.
type moody struct {
	store.Store // only what is not below
	mu          sync.Mutex
	now         store.Store
	err         error
}

func newMoody(t *testing.T) *moody { t.Helper(); return &moody{now: single(t)} }

// set makes everything fail; nil: nothing any more.
func (m *moody) set(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// empty puts an empty store in the place of the one there was.
func (m *moody) empty(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = single(t)
}

func (m *moody) get() (store.Store, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now, m.err
}

// Watch implements store.Store: it tells nothing.
func (m *moody) Watch(ctx context.Context, _ func(string)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (m *moody) Replace(ctx context.Context, id string, old, data []byte, ttl time.Duration) error {
	s, err := m.get()
	if err != nil {
		return err
	}
	return s.Replace(ctx, id, old, data, ttl)
}

func (m *moody) Lease(ctx context.Context, id string) (*store.Lease, error) {
	s, err := m.get()
	if err != nil {
		return nil, err
	}
	return s.Lease(ctx, id)
}

func (m *moody) Renew(ctx context.Context, id string, ttl time.Duration) error {
	s, err := m.get()
	if err != nil {
		return err
	}
	return s.Renew(ctx, id, ttl)
}

func (m *moody) RenewAll(ctx context.Context, list []store.Renewal) ([]string, error) {
	s, err := m.get()
	if err != nil {
		return nil, err
	}
	return s.RenewAll(ctx, list)
}

func (m *moody) Cancel(ctx context.Context, id string) error {
	s, err := m.get()
	if err != nil {
		return err
	}
	return s.Cancel(ctx, id)
}

func (m *moody) Snapshot(ctx context.Context) ([]store.Lease, store.Position, error) {
	s, err := m.get()
	if err != nil {
		return nil, "", err
	}
	return s.Snapshot(ctx)
}

func (m *moody) Changes(ctx context.Context, p store.Position) ([]store.Change, store.Position, error) {
	s, err := m.get()
	if err != nil {
		return nil, "", err
	}
	return s.Changes(ctx, p)
}

func (m *moody) Expire(ctx context.Context, limit int) (int, int, error) {
	s, err := m.get()
	if err != nil {
		return 0, 0, err
	}
	return s.Expire(ctx, limit)
}

func (m *moody) Get(ctx context.Context, folder, name string) ([]byte, error) {
	s, err := m.get()
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, folder, name)
}

func (m *moody) Put(ctx context.Context, folder, name string, data []byte, ttl time.Duration) error {
	s, err := m.get()
	if err != nil {
		return err
	}
	return s.Put(ctx, folder, name, data, ttl)
}

func (m *moody) Swap(ctx context.Context, folder, name string, old, data []byte, ttl time.Duration) error {
	s, err := m.get()
	if err != nil {
		return err
	}
	return s.Swap(ctx, folder, name, old, data, ttl)
}

func (m *moody) Delete(ctx context.Context, folder, name string) error {
	s, err := m.get()
	if err != nil {
		return err
	}
	return s.Delete(ctx, folder, name)
}

func (m *moody) List(ctx context.Context, folder string) ([]store.Value, error) {
	s, err := m.get()
	if err != nil {
		return nil, err
	}
	return s.List(ctx, folder)
}

func (m *moody) Take(ctx context.Context, takes []store.Take) ([]store.Taken, error) {
	s, err := m.get()
	if err != nil {
		return nil, err
	}
	return s.Take(ctx, takes)
}
