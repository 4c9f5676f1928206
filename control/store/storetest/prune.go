package storetest

import (
	"reflect"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

func prune(t *testing.T, s store.Store, _ func() store.Store) {
	ctx := t.Context()
	want := func(oldest uint64, removed int) {
		t.Helper()
		if n, err := s.Prune(ctx, oldest); n != removed || err != nil {
			t.Errorf("pruned to %d: %d removed, %v; want %d", oldest, n, err, removed)
		}
	}
	want(7, 0)
	var all []*store.Revision
	for n := uint64(1); n <= 300; n++ {
		all = append(all, revision(n))
	}
	no(t, s.Restore(ctx, all))
	want(0, 0)
	want(1, 0)
	want(3, 2)
	want(3, 0)
	_, err := s.Revision(ctx, 2)
	is(t, err, store.ErrNotFound)
	if r, err := s.Revision(ctx, 3); err != nil || !reflect.DeepEqual(r, revision(3)) {
		t.Errorf("%+v, %v", r, err)
	}
	want(290, 287)
	list, err := s.History(ctx, 0, 1000)
	if err != nil || len(list) != 11 || list[10].Number != 290 {
		t.Errorf("%d are left, %v", len(list), err)
	}
	want(1000, 10)
	if n, err := s.Latest(ctx); n != 300 || err != nil {
		t.Errorf("the latest is %d, %v", n, err)
	}
	no(t, s.Publish(ctx, revision(301)))
}
