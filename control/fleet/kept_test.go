package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/local"
)

// deaf is a store that tells of no changes.
type deaf struct{ store.Store }

func (deaf) Watch(context.Context, func(string)) error { return errors.New("nothing is told") }

// away is a store that cannot be reached.
type away struct{ store.Store }

var errAway = errors.New("nobody is there")

func (away) Latest(context.Context) (uint64, error)              { return 0, errAway }
func (away) Watch(context.Context, func(string)) error           { return errAway }
func (away) List(context.Context, string) ([]store.Value, error) { return nil, errAway }

func (away) Get(context.Context, string, string) ([]byte, error)              { return nil, errAway }
func (away) Delete(context.Context, string, string) error                     { return errAway }
func (away) Put(context.Context, string, string, []byte, time.Duration) error { return errAway }

func open(t *testing.T) store.Store {
	t.Helper()
	s, err := local.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// What the store does not tell of is found within a second, and a node speaks
// every five.
func TestLostNotificationsCostASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		a := join(t, "a", deaf{s}, options{})
		time.Sleep(300 * time.Millisecond)
		r := a.key.New(1, pack(t, "one"), "ann", "why", time.Now())
		if err := s.Publish(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if a.history() != "one" {
			t.Errorf("after a second it runs %q", a.history())
		}
		if !strings.Contains(a.log.String(), "found by asking") {
			t.Error("it is not in the log")
		}
		said := func() time.Time {
			list, err := fleet.Members(t.Context(), s)
			if err != nil || len(list) != 1 || list[0].Revision != 1 || list[0].Role != "control" {
				t.Fatalf("%+v, %v", list, err)
			}
			return list[0].Time
		}
		first := said()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if d := said().Sub(first); d <= 0 || d > 5*time.Second {
			t.Errorf("it spoke again after %v", d)
		}
		a.leave()
		if list, err := fleet.Members(t.Context(), s); err != nil || len(list) != 0 {
			t.Errorf("after it has left: %+v, %v", list, err)
		}
	})
}

// What keeps a node from running a revision may go away by itself.
func TestARefusedRevisionIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		a := join(t, "a", s, options{})
		a.publish("one")
		time.Sleep(2 * time.Second)
		a.publish("two!a")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if s := a.Status(); s.Revision != 1 || s.Refused != 2 || time.Since(s.ErrorAt) < 9*time.Minute {
			t.Errorf("%+v", s)
		}
		if n := a.tries.Load(); n < 12 || n > 20 { // 1 s, 2 s, 4 s and so on up to a minute
			t.Errorf("tried %d times in ten minutes", n)
		}
		if n := strings.Count(a.log.String(), "a revision was refused"); n != 1 {
			t.Errorf("logged %d times", n)
		}
		a.mended.Store(true)
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if s := a.Status(); s.Revision != 2 || s.Refused != 0 || s.Error != "" || a.history() != "one two!a" || !strings.Contains(a.log.String(), "what was in its way has gone") {
			t.Errorf("%q, %+v", a.history(), s)
		}
		list, err := fleet.Members(t.Context(), s)
		if err != nil || len(list) != 1 || list[0].Revision != 2 || list[0].Error != "" {
			t.Errorf("the others do not know: %+v, %v", list, err)
		}
		// It is over: nothing more is tried.
		n := a.tries.Load()
		time.Sleep(10 * time.Minute)
		if a.tries.Load() != n {
			t.Error("it goes on trying")
		}
		// A newer one takes its place.
		a.mended.Store(false)
		a.publish("three!a")
		time.Sleep(2 * time.Second)
		a.publish("four")
		time.Sleep(10 * time.Minute)
		if s := a.Status(); s.Revision != 4 || s.Error != "" {
			t.Errorf("%+v", s)
		}
		a.leave()
	})
}

// A revision that a node began with, though not all of it works there, is tried
// again as well, and what works of it stays.
func TestALiveRevisionThatIsBrokenInPartIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		a := join(t, "a", s, options{})
		a.publish("one!b")
		time.Sleep(2 * time.Second)
		b := join(t, "b", s, options{gateway: true, trusted: revision.Keyring{a.key.Public()}, broken: true})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if s := b.Status(); s.Revision != 1 || s.Error != "" || s.Refused != 0 || b.tries.Load() < 12 {
			t.Errorf("%d tries, %+v", b.tries.Load(), s)
		}
		b.mended.Store(true)
		time.Sleep(time.Minute + time.Second)
		if b.broken.Load() {
			t.Error("it is still broken")
		}
		b.leave()
		a.leave()
	})
}

func TestTwoNodesOfOneNameAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		a := join(t, "a", s, options{})
		time.Sleep(time.Second)
		twin := join(t, "a", s, options{})
		time.Sleep(30 * time.Second)
		if !strings.Contains(a.log.String(), "same name") && !strings.Contains(twin.log.String(), "same name") {
			t.Errorf("nobody complains:\n%s%s", a.log, twin.log)
		}
		a.leave()
		twin.leave()
	})
}

func TestTheCopyOnDisk(t *testing.T) {
	s := open(t)
	a := join(t, "a", s, options{})
	for i := range uint64(3) {
		a.publish(fmt.Sprint("v", i))
		eventually(t, "it is live", func() error {
			if s := a.Status(); s.Revision != i+1 {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	a.leave()
	path := filepath.Join(a.dir, "revision.json")
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start := func(text []byte) *member {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		m := join(t, "a", away{s}, options{dir: a.dir})
		t.Cleanup(m.leave)
		return m
	}
	if m := start(whole); m.history() != "v2" || !m.Status().FromDisk {
		t.Errorf("it runs %q", m.history())
	}
	// What somebody has changed is not run.
	var f map[string]any
	if err := json.Unmarshal(whole, &f); err != nil {
		t.Fatal(err)
	}
	list := f["revisions"].([]any)
	list[len(list)-1].(map[string]any)["packed"] = pack(t, "evil")
	changed, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"another config": changed, "garbage": []byte("{"), "empty": {}, "cut off": whole[:len(whole)/2], "another form": []byte(`{"good":3,"revisions":[{}]}`),
	} {
		m := start(text)
		if m.history() != "" || !strings.Contains(m.log.String(), "a revision on disk is not used") {
			t.Errorf("%s: it runs %q\n%s", name, m.history(), m.log)
		}
		m.leave()
	}
	// Somebody else's key.
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	m := join(t, "a", away{s}, options{dir: a.dir, gateway: true, trusted: revision.Keyring{key(t).Public()}})
	if m.history() != "" {
		t.Errorf("it runs %q", m.history())
	}
}

// A revision that a node refuses is not what it starts from.
func TestTheLastGoodOneIsKept(t *testing.T) {
	s := open(t)
	a := join(t, "a", s, options{})
	a.publish("one")
	a.runs(1, "one")
	a.publish("two!a")
	a.refuses(2, "two!a: no such file")
	a.leave()
	a = join(t, "a", s, options{dir: a.dir})
	if s := a.Status(); s.Revision != 1 || s.Refused != 2 || a.history() != "one" {
		t.Errorf("with the store: %q, %+v", a.history(), s)
	}
	a.leave()
	a = join(t, "a", away{s}, options{dir: a.dir})
	if s := a.Status(); s.Revision != 1 || a.history() != "one" {
		t.Errorf("without: %q, %+v", a.history(), s)
	}
}

// The store keeps so many revisions and no more; it is said that others go.
func TestOldRevisionsAreNotKept(t *testing.T) {
	s := open(t)
	a := join(t, "a", s, options{})
	for i := range 15 {
		a.publish(fmt.Sprint("v", i))
	}
	a.leave()
	a = join(t, "a", s, options{dir: a.dir, keep: 10})
	a.publish("next")
	list, err := a.History(t.Context(), 0, 100)
	if err != nil || len(list) != 10 || list[9].Number != 7 {
		t.Errorf("%d are left, %v", len(list), err)
	}
	if _, err := a.Revision(t.Context(), 6); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(a.log.String(), "old revisions are no longer kept; nobody can go back to them (node.control.history)\" removed=6 oldest=7") {
		t.Errorf("it is not in the log:\n%s", a.log)
	}
	a.runs(16, "v14 next") // or the next one might be all it sees
	a.publish("and-next")
	if list, err := a.History(t.Context(), 0, 100); err != nil || len(list) != 10 {
		t.Errorf("%d are left, %v", len(list), err)
	}
	a.runs(17, "v14 next and-next")
}

func TestDraftsThatAreNone(t *testing.T) {
	a := join(t, "a", open(t), options{})
	for name, d := range map[string]fleet.Draft{
		"no message":     {Data: pack(t, "x"), Message: " \n"},
		"long message":   {Data: pack(t, "x"), Message: strings.Repeat("x", 5000)},
		"not text":       {Data: pack(t, "x"), Message: "x", Author: "\xff"},
		"not packed":     {Data: []byte("listeners: {}"), Message: "x"},
		"too large":      {Data: make([]byte, revision.MaxSize+1), Message: "x"},
		"file of others": {Data: []byte(`{"files":[{"name":"../x","data":""}]}`), Message: "x"},
	} {
		_, err := a.Publish(t.Context(), d)
		if e := new(fleet.DraftError); !errors.As(err, &e) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := a.Publish(t.Context(), fleet.Draft{Data: pack(t, "x?"), Message: "x"}); err == nil || !strings.Contains(err.Error(), "cannot be parsed") {
		t.Errorf("got %v", err)
	}
	if n, err := a.Latest(t.Context()); n != 0 || err != nil {
		t.Errorf("%d were published, %v", n, err)
	}
}
