package secrets

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
)

// Get implements acme.Cache.
func (s *Shared) Get(ctx context.Context, name string) (data []byte, err error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	err = s.ask(ctx, func(ctx context.Context) error {
		data, err = s.s.Store.Get(ctx, entryFolder, name)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, acme.ErrNone
	}
	return data, err
}

// Replace implements acme.Cache.
func (s *Shared) Replace(ctx context.Context, name string, old, data []byte, ttl time.Duration) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	err := s.ask(ctx, func(ctx context.Context) error {
		return s.s.Store.Swap(ctx, entryFolder, name, old, data, ttl)
	})
	if errors.Is(err, store.ErrConflict) {
		return acme.ErrChanged
	}
	if err == nil && !strings.HasPrefix(name, "attempt-") { // that is looked at when it matters
		s.changed(ctx)
	}
	return err
}

// changed has every node look at everything. Where that fails they do it within
// a minute.
func (s *Shared) changed(ctx context.Context) {
	_ = s.ask(ctx, func(ctx context.Context) error {
		return s.s.Store.Put(ctx, entryFolder, versionEntry, []byte(rand.Text()), 0)
	})
}
