package fleet_test

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// unsure is a store that fails while one revision is published.
type unsure struct {
	store.Store
	number uint64
	// The first tries are not taken, the next ones are and nobody is told, and
	// then it answers.
	none, lost int64
	// blind is true while the revision cannot be read.
	blind func() bool
	tries atomic.Int64
}

func (u *unsure) Publish(ctx context.Context, r *store.Revision) error {
	if r.Number != u.number {
		return u.Store.Publish(ctx, r)
	}
	switch n := u.tries.Add(1); {
	case n <= u.none:
		return errAway
	case n <= u.none+u.lost:
		return cmp.Or(u.Store.Publish(ctx, r), errAway)
	}
	return u.Store.Publish(ctx, r)
}

func (u *unsure) Revision(ctx context.Context, n uint64) (*store.Revision, error) {
	if n == u.number && u.blind() {
		return nil, errAway
	}
	return u.Store.Revision(ctx, n)
}

// A revision that a node refuses must not stay because the store was away just
// then, for less than half a minute; nor is somebody else blamed for one that is
// ours, though the store says nothing but that there is one.
func TestARollbackOutlivesFailuresOfTheStore(t *testing.T) {
	const always = 1 << 30
	for _, c := range []struct {
		name       string
		none, lost int64
		unread     int64 // tries while the revision cannot be read
		want       string
		last       uint64
	}{
		{"not taken, then lost", 1, 1, 2, "", 3},
		{"lost, then there is one that cannot be read", 0, 1, 3, "", 3},
		{"never taken", always, 0, always, "it may not have been taken back: whether revision 3 was published is not known (" + errAway.Error() + "): gatehouse history tells", 2},
		{"never taken, and read", always, 0, 0, "it could not be taken back: " + errAway.Error(), 2},
		{"lost, and never read", 0, 1, always, "it may not have been taken back: whether revision 3 was published is not known (" + errAway.Error() + "): gatehouse history tells", 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &unsure{Store: open(t), number: 3, none: c.none, lost: c.lost}
			s.blind = func() bool { return s.tries.Load() <= c.unread }
			a := join(t, "a", s, options{})
			a.publish("one")
			began := time.Now()
			got, err := a.Apply(t.Context(), fleet.Draft{Data: pack(t, "two!a"), Message: "why"}, time.Minute, true)
			took := time.Since(began)
			if err != nil {
				t.Fatal(err)
			}
			last, err := s.Latest(t.Context())
			if err != nil || last != c.last || got.Error != c.want {
				t.Errorf("%s: %+v; the last is %d, %v", c.name, got, last, err)
			}
			if c.want != "" && (got.Rollback != 0 || took < 30*time.Second || took > time.Minute) {
				t.Errorf("%s: %+v after %v", c.name, got, took)
			}
			if c.want == "" && (got.BackTo != 1 || got.Rollback != 3 || s.tries.Load() != c.unread+1) {
				t.Errorf("%s: %+v, tried %d times", c.name, got, s.tries.Load())
			}
			a.leave()
		})
	}
}

// Whoever publishes learns whether it was done, if the store says so soon, and
// otherwise that it is not known.
func TestAnAnswerThatIsLost(t *testing.T) {
	for _, c := range []struct {
		name       string
		none, lost int64
		unread     time.Duration
		want       string
	}{
		{"taken", 0, 1, 0, ""},
		{"taken, and read later", 0, 1, 2 * time.Second, ""},
		{"not taken", 1, 0, 0, errAway.Error()},
		{"not taken, and read later", 1, 0, 2 * time.Second, errAway.Error()},
		{"taken, and not read", 0, 1, time.Hour, "whether revision 1 was published is not known (" + errAway.Error() + "): gatehouse history tells"},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			s := &unsure{Store: open(t), number: 1, none: c.none, lost: c.lost, blind: func() bool { return time.Since(began) < c.unread }}
			a := join(t, "a", s, options{})
			r, err := a.Publish(t.Context(), fleet.Draft{Data: pack(t, "one"), Message: "why"})
			switch {
			case c.want == "" && (err != nil || r.Number != 1):
				t.Errorf("%s: %+v, %v", c.name, r, err)
			case c.want != "" && (err == nil || err.Error() != c.want):
				t.Errorf("%s: %+v, %v", c.name, r, err)
			}
			a.leave()
		})
	}
}

// What somebody else has published under the number is a conflict, whatever
// became of ours.
func TestAnAnswerThatIsLostAndSomebodyWasFaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		both := open(t)
		other := join(t, "other", both, options{})
		s := &unsure{Store: both, number: 1, none: 1, blind: func() bool { return false }}
		a := join(t, "a", &overtaken{unsure: s, first: func() { other.publish("theirs") }}, options{})
		if r, err := a.Publish(t.Context(), fleet.Draft{Data: pack(t, "ours"), Message: "why"}); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%+v, %v", r, err)
		}
		a.leave()
		other.leave()
	})
}

// overtaken is a store in which something happens just before the first try.
type overtaken struct {
	*unsure
	first func()
}

func (o *overtaken) Publish(ctx context.Context, r *store.Revision) error {
	if o.tries.Load() == 0 {
		o.first()
	}
	return o.unsure.Publish(ctx, r)
}
