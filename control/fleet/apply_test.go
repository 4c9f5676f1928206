package fleet_test

import (
	"cmp"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// unsure is a store that fails while revision 3 is published: it does not take it,
// then takes it without a word, and then answers. With never it does not take it.
type unsure struct {
	store.Store
	asked atomic.Int64
	never bool
}

func (u *unsure) Publish(ctx context.Context, r *store.Revision) error {
	switch {
	case r.Number != 3:
	case u.asked.Add(1) == 1, u.never:
		return errAway
	case u.asked.Load() == 2:
		return cmp.Or(u.Store.Publish(ctx, r), errAway)
	}
	return u.Store.Publish(ctx, r)
}

func (u *unsure) Revision(ctx context.Context, n uint64) (*store.Revision, error) {
	if n == 3 && u.asked.Load() < 3 {
		return nil, errAway
	}
	return u.Store.Revision(ctx, n)
}

// A revision that a node refuses must not stay because the store was away just
// then, for less than half a minute.
func TestARollbackOutlivesFailuresOfTheStore(t *testing.T) {
	for _, never := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &unsure{Store: open(t), never: never}
			a := join(t, "a", s, options{})
			a.publish("one")
			began := time.Now()
			got, err := a.Apply(t.Context(), fleet.Draft{Data: pack(t, "two!a"), Message: "why"}, time.Minute, true)
			took := time.Since(began)
			if err != nil {
				t.Fatal(err)
			}
			last, err := s.Latest(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if never {
				if got.Rollback != 0 || !strings.Contains(got.Error, "it could not be taken back: "+errAway.Error()) || last != 2 || took < 30*time.Second || took > time.Minute {
					t.Errorf("%+v after %v; the last is %d", got, took, last)
				}
			} else if got.BackTo != 1 || got.Rollback != 3 || got.Error != "" || last != 3 || s.asked.Load() != 3 {
				t.Errorf("%+v; the last is %d, asked %d times", got, last, s.asked.Load())
			}
			a.leave()
		})
	}
}
