// Package storetest is the contract that every store keeps, as tests.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// Run tests stores that open makes; each call must give an empty one. What opens
// it a second time, for another node, is again.
func Run(t *testing.T, open func(t *testing.T) (s store.Store, again func() store.Store)) {
	for name, test := range map[string]func(*testing.T, store.Store, func() store.Store){
		"Revisions":                    revisions,
		"OnlyOneOfManyPublishes":       race,
		"Restore":                      restore,
		"Prune":                        prune,
		"Values":                       values,
		"ValuesEnd":                    valuesEnd,
		"SwapIsALock":                  swap,
		"NamesAreChecked":              names,
		"Leases":                       leases,
		"LeasesExpireWhenTold":         leasesExpire,
		"LeasesAreReplacedKnowingly":   leasesReplace,
		"ManyLeasesAreRenewed":         renewAll,
		"ChangesAreMissedOnlyWithAGap": gap,
		"Limits":                       limits,
		"LimitsOfManyAreExact":         exact,
		"LeasesOfTokens":               tokens,
		"Counters":                     counters,
		"Places":                       places,
		"Watch":                        watch,
	} {
		t.Run(name, func(t *testing.T) {
			s, again := open(t)
			test(t, s, again)
		})
	}
}

func revision(n uint64) *store.Revision {
	return &store.Revision{
		Number: n, Digest: fmt.Sprintf("digest-%d", n), Author: "ann", Message: "why\n\"quoted\" ü", KeyID: "k1",
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Signature: []byte{0, 1, 255}, Data: []byte{0, 'a', 255, '\n'},
	}
}

func no(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func revisions(t *testing.T, s store.Store, again func() store.Store) {
	ctx := t.Context()
	n, err := s.Latest(ctx)
	if no(t, err); n != 0 {
		t.Fatalf("an empty store has revision %d", n)
	}
	_, err = s.Revision(ctx, 1)
	is(t, err, store.ErrNotFound)
	is(t, s.Publish(ctx, revision(0)), store.ErrConflict)
	is(t, s.Publish(ctx, revision(2)), store.ErrConflict)
	for i := uint64(1); i <= 5; i++ {
		no(t, s.Publish(ctx, revision(i)))
	}
	is(t, s.Publish(ctx, revision(5)), store.ErrConflict)
	is(t, s.Publish(ctx, revision(7)), store.ErrConflict)
	other := again()
	if n, err = other.Latest(ctx); err != nil || n != 5 {
		t.Errorf("latest is %d, %v", n, err)
	}
	for i := uint64(1); i <= 5; i++ {
		if r, err := other.Revision(ctx, i); err != nil || !reflect.DeepEqual(r, revision(i)) {
			t.Errorf("got %+v, %v", r, err)
		}
	}
	for _, c := range []struct {
		before uint64
		limit  int
		want   []uint64
	}{
		{0, 10, []uint64{5, 4, 3, 2, 1}},
		{0, 2, []uint64{5, 4}},
		{4, 2, []uint64{3, 2}},
		{1, 2, nil},
		{5, 1, []uint64{4}},
		{6, 1, []uint64{5}},
		{99, 1, []uint64{5}},
	} {
		list, err := s.History(ctx, c.before, c.limit)
		no(t, err)
		var got []uint64
		for _, r := range list {
			got = append(got, r.Number)
			if r.Data != nil || r.Author != "ann" || r.Message != revision(1).Message {
				t.Errorf("%+v", r)
			}
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("before %d, limit %d: got %v, want %v", c.before, c.limit, got, c.want)
		}
	}
}

func race(t *testing.T, s store.Store, again func() store.Store) {
	stores := []store.Store{s, again(), again()}
	var won [3]int
	var wg sync.WaitGroup
	for i, s := range stores {
		wg.Go(func() {
			for range 30 {
				n, err := s.Latest(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				r := revision(n + 1)
				r.Author = fmt.Sprint(i)
				switch err := s.Publish(t.Context(), r); {
				case err == nil:
					won[i]++
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	n, err := s.Latest(t.Context())
	no(t, err)
	list, err := s.History(t.Context(), 0, 1000)
	no(t, err)
	by := map[string]int{}
	for _, r := range list {
		by[r.Author]++
	}
	if int(n) != won[0]+won[1]+won[2] || len(list) != int(n) || by["0"] != won[0] || by["1"] != won[1] || by["2"] != won[2] {
		t.Errorf("%d revisions, %d listed by %v; %v say that they published", n, len(list), by, won)
	}
}

func restore(t *testing.T, s store.Store, _ func() store.Store) {
	ctx := t.Context()
	if err := s.Restore(ctx, nil); err == nil {
		t.Error("nothing was restored")
	}
	if err := s.Restore(ctx, []*store.Revision{revision(3), revision(5)}); err == nil {
		t.Error("a list with a hole was restored")
	}
	no(t, s.Restore(ctx, []*store.Revision{revision(3), revision(4)}))
	is(t, s.Restore(ctx, []*store.Revision{revision(1)}), store.ErrConflict)
	no(t, s.Publish(ctx, revision(5)))
	list, err := s.History(ctx, 0, 10)
	if err != nil || len(list) != 3 || list[2].Number != 3 {
		t.Errorf("%v, %v", list, err)
	}
	if r, err := s.Revision(ctx, 4); err != nil || !reflect.DeepEqual(r, revision(4)) {
		t.Errorf("%+v, %v", r, err)
	}
}

func values(t *testing.T, s store.Store, again func() store.Store) {
	ctx := t.Context()
	_, err := s.Get(ctx, "f", "a")
	is(t, err, store.ErrNotFound)
	no(t, s.Delete(ctx, "f", "a"))
	if list, err := s.List(ctx, "f"); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	all := map[string][]byte{"b": {0, 1, 255}, "a": []byte("text"), "empty": {}, "n:1@x": []byte("x")}
	for name, data := range all {
		no(t, s.Put(ctx, "f", name, data, 0))
	}
	no(t, s.Put(ctx, "f", "nil", nil, time.Hour))
	no(t, s.Put(ctx, "g", "a", []byte("other"), time.Hour))
	no(t, s.Put(ctx, "f", "b", []byte("new"), time.Hour))
	all["b"], all["nil"] = []byte("new"), nil
	other := again()
	list, err := other.List(ctx, "f")
	no(t, err)
	if len(list) != len(all) {
		t.Errorf("got %v", list)
	}
	for i, v := range list {
		if i > 0 && list[i-1].Name >= v.Name {
			t.Errorf("%q comes before %q", list[i-1].Name, v.Name)
		}
		got, err := other.Get(ctx, "f", v.Name)
		if err != nil || !bytes.Equal(got, all[v.Name]) || !bytes.Equal(v.Data, got) {
			t.Errorf("%s: %q and %q, %v", v.Name, got, v.Data, err)
		}
	}
	no(t, other.Delete(ctx, "f", "b"))
	_, err = s.Get(ctx, "f", "b")
	is(t, err, store.ErrNotFound)
	if list, err = s.List(ctx, "g"); err != nil || len(list) != 1 || string(list[0].Data) != "other" {
		t.Errorf("%v, %v", list, err)
	}
}

// eventually waits for what has to come true by the store's own clock.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func valuesEnd(t *testing.T, s store.Store, _ func() store.Store) {
	ctx := t.Context()
	no(t, s.Put(ctx, "f", "short", []byte("1"), 80*time.Millisecond))
	no(t, s.Put(ctx, "f", "long", []byte("2"), time.Hour))
	eventually(t, "the end of a value", func() bool {
		_, err := s.Get(ctx, "f", "short")
		return errors.Is(err, store.ErrNotFound)
	})
	if list, err := s.List(ctx, "f"); err != nil || len(list) != 1 || list[0].Name != "long" {
		t.Errorf("%v, %v", list, err)
	}
	no(t, s.Swap(ctx, "f", "short", nil, []byte("again"), 0))
}

func swap(t *testing.T, s store.Store, again func() store.Store) {
	ctx := t.Context()
	a, b := []byte("node-a"), []byte("node-b")
	no(t, s.Swap(ctx, "locks", "l", nil, a, time.Hour))
	other := again()
	is(t, other.Swap(ctx, "locks", "l", nil, b, time.Hour), store.ErrConflict)
	is(t, other.Swap(ctx, "locks", "l", b, nil, 0), store.ErrConflict)
	no(t, s.Swap(ctx, "locks", "l", a, a, 50*time.Millisecond))
	eventually(t, "the end of the lock", func() bool { return other.Swap(ctx, "locks", "l", nil, b, time.Hour) == nil })
	is(t, s.Swap(ctx, "locks", "l", a, nil, 0), store.ErrConflict)
	no(t, other.Swap(ctx, "locks", "l", b, nil, 0))
	_, err := s.Get(ctx, "locks", "l")
	is(t, err, store.ErrNotFound)
}

func names(t *testing.T, s store.Store, _ func() store.Store) {
	for _, bad := range []string{"", "a/b", "a b", "a}b", "ü", string(make([]byte, 200))} {
		if err := s.Put(t.Context(), "f", bad, nil, 0); err == nil {
			t.Errorf("the name %q was accepted", bad)
		}
		if _, err := s.List(t.Context(), bad); err == nil {
			t.Errorf("the folder %q was accepted", bad)
		}
	}
}

func minute(burst int64) []store.Bucket {
	return []store.Bucket{{Interval: time.Minute, Burst: burst}}
}

// watch has changes told of that another node makes.
func watch(t *testing.T, s store.Store, again func() store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	topics := make(chan string, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		told := func(topic string) {
			select {
			case topics <- topic:
			case <-ctx.Done():
			}
		}
		if err := s.Watch(ctx, told); !errors.Is(err, context.Canceled) {
			t.Errorf("watching ended with %v", err)
		}
	})
	defer wg.Wait()
	defer cancel()
	other := again()
	i := uint64(0)
	for topic, change := range map[string]func() error{
		store.TopicRevisions: func() error { i++; return other.Publish(ctx, revision(i)) },
		store.TopicLeases:    func() error { return other.Register(ctx, "a", nil, time.Hour) },
		"certs":              func() error { return other.Put(ctx, "certs", "a", nil, 0) },
	} {
		// The watch may not have begun: the change is made until it is told of.
		for told := false; !told; {
			no(t, change())
			select {
			case got := <-topics:
				told = got == topic
			case <-time.After(50 * time.Millisecond):
			case <-t.Context().Done():
				t.Fatal("never told")
			}
		}
	}
}
