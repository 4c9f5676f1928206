package snapshot_test

import (
	"context"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
)

type unit struct{ started, closed int }

func (u *unit) Start(context.Context) error { u.started++; return nil }
func (u *unit) Close(context.Context) error { u.closed++; return nil }

func TestUnitLivesUntilTheLastSnapshotWithItIsGone(t *testing.T) {
	kept, gone := &unit{}, &unit{}
	first := snapshot.NewUnits(nil)
	first.Add("upstream/a", "1", kept)
	first.Add("upstream/b", "1", gone)
	if failed := first.Start(t.Context()); len(failed) > 0 {
		t.Fatal(failed)
	}
	second := snapshot.NewUnits(nil)
	if _, ok := second.Reuse(first, "upstream/a", "1"); !ok {
		t.Fatal("unchanged unit was not taken over")
	}
	if _, ok := second.Reuse(first, "upstream/b", "2"); ok {
		t.Fatal("changed unit was taken over")
	}
	if failed := second.Start(t.Context()); len(failed) > 0 {
		t.Fatal(failed)
	}
	a := snapshot.New("1", nil, first)
	if !a.TryRef() {
		t.Fatal("a current snapshot can be referenced")
	}
	a.Release() // no longer current
	if kept.closed+gone.closed != 0 {
		t.Fatal("closed while a request was in flight")
	}
	a.Release() // the request ends
	<-a.Retired()
	if gone.closed != 1 || kept.closed != 0 || kept.started != 1 {
		t.Fatalf("gone %+v, kept %+v", gone, kept)
	}
	if a.TryRef() {
		t.Fatal("a retired snapshot was referenced")
	}
	second.Release()
	if kept.closed != 1 {
		t.Fatal("the last snapshot did not close its unit")
	}
}
