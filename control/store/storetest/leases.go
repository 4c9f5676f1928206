package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

func leases(t *testing.T, s store.Store, again func() store.Store) {
	ctx := t.Context()
	is(t, s.Renew(ctx, "a", time.Hour), store.ErrNotFound)
	no(t, s.Cancel(ctx, "a"))
	_, start, err := s.Snapshot(ctx)
	no(t, err)
	no(t, s.Register(ctx, "a", []byte("1"), time.Hour))
	no(t, s.Register(ctx, "b", []byte{0, 255}, time.Hour))
	no(t, s.Renew(ctx, "a", 2*time.Hour))
	other := again()
	list, at, err := other.Snapshot(ctx)
	no(t, err)
	if len(list) != 2 {
		t.Fatalf("got %v", list)
	}
	for _, l := range list {
		left, want := time.Until(l.Expires), time.Hour
		if l.ID == "a" {
			want = 2 * time.Hour
		}
		if left > want+time.Minute || left < want-time.Minute {
			t.Errorf("%s ends in %v", l.ID, left)
		}
	}
	no(t, s.Register(ctx, "a", []byte("2"), time.Hour))
	no(t, s.Cancel(ctx, "b"))
	no(t, s.Cancel(ctx, "b"))
	no(t, s.Register(ctx, "c", []byte("3"), time.Hour))
	changes, next, err := other.Changes(ctx, at)
	no(t, err)
	got := map[string]string{}
	for _, c := range changes {
		got[c.Lease.ID] = fmt.Sprint(string(c.Lease.Data), c.Removed)
	}
	if want := map[string]string{"a": "2false", "b": "true", "c": "3false"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if changes, last, err := other.Changes(ctx, next); err != nil || len(changes) > 0 || last != next {
		t.Errorf("%v, %q after %q, %v", changes, last, next, err)
	}
	// From the very beginning, all or a gap.
	changes, _, err = other.Changes(ctx, start)
	if !errors.Is(err, store.ErrGap) && (err != nil || len(changes) < 3) {
		t.Errorf("%v, %v", changes, err)
	}
}

func leasesExpire(t *testing.T, s store.Store, again func() store.Store) {
	ctx := t.Context()
	for i := range 5 {
		no(t, s.Register(ctx, fmt.Sprint("short", i), nil, 20*time.Millisecond))
	}
	no(t, s.Register(ctx, "long", []byte("x"), time.Hour))
	time.Sleep(60 * time.Millisecond) // far more than the leases have
	_, at, err := s.Snapshot(ctx)
	no(t, err)
	no(t, s.Renew(ctx, "short0", time.Hour)) // whoever comes late is still there
	for _, c := range []struct{ limit, overdue, all int }{{0, 4, 6}, {1, 4, 6}, {100, 3, 5}, {100, 0, 2}} {
		if n, all, err := again().Expire(ctx, c.limit); err != nil || n != c.overdue || all != c.all {
			t.Errorf("up to %d: %d of %d overdue, %v", c.limit, n, all, err)
		}
	}
	list, _, err := s.Snapshot(ctx)
	if err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	changes, _, err := s.Changes(ctx, at)
	removed := 0
	for _, c := range changes {
		if c.Removed {
			removed++
		}
	}
	if err != nil || removed != 4 {
		t.Errorf("%v, %v", changes, err)
	}
}

func leasesReplace(t *testing.T, s store.Store, again func() store.Store) {
	ctx, other := t.Context(), again()
	_, err := s.Lease(ctx, "a")
	is(t, err, store.ErrNotFound)
	is(t, s.Replace(ctx, "a", []byte("0"), []byte("1"), time.Hour), store.ErrConflict)
	no(t, s.Replace(ctx, "a", nil, []byte("1"), time.Hour))
	is(t, other.Replace(ctx, "a", nil, []byte("2"), time.Hour), store.ErrConflict)
	is(t, other.Replace(ctx, "a", []byte("0"), []byte("2"), time.Hour), store.ErrConflict)
	first, err := other.Lease(ctx, "a")
	no(t, err)
	_, at, err := s.Snapshot(ctx)
	no(t, err)
	no(t, other.Replace(ctx, "a", []byte("1"), []byte{0, 255}, 0))
	l, err := s.Lease(ctx, "a")
	if err != nil || l.ID != "a" || !bytes.Equal(l.Data, []byte{0, 255}) || !l.Expires.Equal(first.Expires) {
		t.Errorf("%+v, first %+v, %v", l, first, err)
	}
	no(t, s.Replace(ctx, "a", []byte{0, 255}, []byte("3"), 2*time.Hour))
	if l, err = s.Lease(ctx, "a"); err != nil || l.Expires.Before(first.Expires.Add(30*time.Minute)) {
		t.Errorf("%+v, first %+v, %v", l, first, err)
	}
	if changes, _, err := other.Changes(ctx, at); err != nil || len(changes) == 0 || string(changes[len(changes)-1].Lease.Data) != "3" {
		t.Errorf("%v, %v", changes, err)
	}
}

func renewAll(t *testing.T, s store.Store, _ func() store.Store) {
	ctx := t.Context()
	if missing, err := s.RenewAll(ctx, nil); err != nil || len(missing) > 0 {
		t.Errorf("%v, %v", missing, err)
	}
	var list []store.Renewal
	for i := range 1203 {
		id := fmt.Sprint("i", i)
		list = append(list, store.Renewal{ID: id, TTL: 2 * time.Hour})
		if i%400 != 1 {
			no(t, s.Register(ctx, id, nil, time.Minute))
		}
	}
	missing, err := s.RenewAll(ctx, list)
	if want := []string{"i1", "i401", "i801", "i1201"}; err != nil || !reflect.DeepEqual(missing, want) {
		t.Errorf("%v, %v", missing, err)
	}
	all, _, err := s.Snapshot(ctx)
	no(t, err)
	for _, l := range all {
		if time.Until(l.Expires) < time.Hour {
			t.Fatalf("%s ends in %v", l.ID, time.Until(l.Expires))
		}
	}
}

func gap(t *testing.T, s store.Store, _ func() store.Store) {
	ctx := t.Context()
	for _, bad := range []store.Position{"", "x", "1.2.3", "other.1", "999999"} {
		_, _, err := s.Changes(ctx, bad)
		is(t, err, store.ErrGap)
	}
}
