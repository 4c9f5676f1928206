package snapshot_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func TestReferencesAreCountedByManyAtOnce(t *testing.T) {
	for range 200 {
		var closed atomic.Int32
		units := snapshot.NewUnits(nil)
		units.Add("u", "1", closing{&closed})
		s := snapshot.New("1", nil, units)
		var done sync.WaitGroup
		for range 8 {
			done.Go(func() {
				for range 50 {
					if !s.TryRef() {
						return
					}
					if closed.Load() != 0 {
						t.Error("closed while it is referenced")
					}
					s.Release()
				}
			})
		}
		s.Release() // somewhere in between it is replaced
		done.Wait()
		<-s.Retired()
		if s.TryRef() || closed.Load() != 1 {
			t.Fatalf("closed %d times", closed.Load())
		}
	}
}

type closing struct{ n *atomic.Int32 }

func (c closing) Start(context.Context) error { return nil }
func (c closing) Close(context.Context) error { c.n.Add(1); return errors.New("it hurts") }

// tracked notes the order of things.
type tracked struct {
	name string
	fail bool
	log  *[]string
}

func (u *tracked) Start(context.Context) error {
	*u.log = append(*u.log, "start "+u.name)
	if u.fail {
		return errors.New("cannot")
	}
	return nil
}

func (u *tracked) Close(context.Context) error { *u.log = append(*u.log, "close "+u.name); return nil }
func (u *tracked) Retire()                     { *u.log = append(*u.log, "retire "+u.name) }

func TestWhatCouldNotBeStartedIsNotTakenOver(t *testing.T) {
	var log []string
	first := snapshot.NewUnits(nil)
	for _, name := range []string{"c", "a", "b"} {
		first.Add(name, "1", &tracked{name, name == "a", &log})
	}
	failed := first.Start(t.Context())
	if len(failed) != 1 || failed["a"] == nil {
		t.Errorf("failed: %v", failed)
	}
	if want := []string{"start c", "start a", "start b"}; !slices.Equal(log, want) {
		t.Errorf("got %v; later ones may need earlier ones", log)
	}
	log = nil
	second := snapshot.NewUnits(nil)
	if _, ok := second.Reuse(first, "a", "1"); ok {
		t.Error("a broken unit was taken over")
	}
	if _, ok := second.Reuse(first, "b", ""); ok {
		t.Error("a unit without a digest was taken over")
	}
	if _, ok := second.Reuse(nil, "b", "1"); ok {
		t.Error("out of nothing")
	}
	if u, ok := second.Reuse(first, "b", "1"); !ok || u.(*tracked).name != "b" {
		t.Error("b was not taken over")
	}
	if failed := second.Start(t.Context()); len(failed) != 0 || len(log) != 0 {
		t.Errorf("what runs already was started again: %v %v", failed, log)
	}
	first.Retire(second)
	first.Release()
	slices.Sort(log)
	if want := []string{"close a", "close c", "retire a", "retire c"}; !slices.Equal(log, want) {
		t.Errorf("got %v", log)
	}
	if _, ok := snapshot.NewUnits(nil).Reuse(first, "c", "1"); ok {
		t.Error("a closed unit was taken over")
	}
	second.Release()
	if log[len(log)-1] != "close b" {
		t.Errorf("got %v", log)
	}
}

func TestUnitsAreFoundByKey(t *testing.T) {
	var none *snapshot.Units
	if none.Lookup("a") != nil {
		t.Error("nothing has something")
	}
	var log []string
	u := snapshot.NewUnits(nil)
	a := &tracked{"a", false, &log}
	u.Add("a", "", a)
	if u.Lookup("a") != a || u.Lookup("b") != nil || u.Len() != 1 {
		t.Error("lookup")
	}
	all := map[string]snapshot.Unit{}
	u.Each(func(key string, unit snapshot.Unit) { all[key] = unit })
	if !maps.Equal(all, map[string]snapshot.Unit{"a": a}) {
		t.Errorf("got %v", all)
	}
}

func TestWhoCannotBeClosedIsTold(t *testing.T) {
	var n atomic.Int32
	var told []string
	u := snapshot.NewUnits(func(key string, err error) { told = append(told, key+": "+err.Error()) })
	u.Add("a", "1", closing{&n})
	u.Release()
	if !slices.Equal(told, []string{"a: it hurts"}) {
		t.Errorf("got %v", told)
	}
}
