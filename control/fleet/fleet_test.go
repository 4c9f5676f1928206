package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
)

// three is a control node and two gateways that trust it, on one server.
func three(t *testing.T, b ...func(*redis.Settings)) (*redistest.Server, [3]*member) {
	t.Helper()
	server := redistest.Start(t)
	var list [3]*member
	list[0] = join(t, "a", connect(t, server), options{poll: often})
	ring := revision.Keyring{list[0].key.Public()}
	list[1] = join(t, "b", connect(t, server, b...), options{gateway: true, trusted: ring, poll: often})
	list[2] = join(t, "c", connect(t, server), options{gateway: true, trusted: ring, poll: often})
	eventually(t, "all have said that they are there", func() error {
		members, err := list[0].Members(t.Context())
		if err == nil && len(members) != 3 {
			err = fmt.Errorf("%+v", members)
		}
		return err
	})
	return server, list
}

func TestARevisionReachesEveryNode(t *testing.T) {
	_, nodes := three(t)
	a := nodes[0]
	for i := range uint64(3) {
		expect := i
		got, err := a.Apply(t.Context(), fleet.Draft{Data: pack(t, fmt.Sprint("v", i)), Author: "ann", Message: "why", Expect: &expect}, time.Minute, true)
		if err != nil || got.Error != "" || got.Rollback != 0 || strings.Join(got.Outcome.Running, " ") != "a b c" {
			t.Fatalf("%+v, %+v, %v", got, got.Outcome, err)
		}
	}
	for _, n := range nodes {
		n.runs(3, "v0 v1 v2")
		if s := n.Status(); s.Author != "ann" || s.Message != "why" || s.Published.IsZero() || s.Since.IsZero() {
			t.Errorf("%+v", s)
		}
	}
	stale := uint64(2)
	_, err := a.Publish(t.Context(), fleet.Draft{Data: pack(t, "x"), Message: "why", Expect: &stale})
	if e := new(fleet.StaleError); !errors.As(err, &e) || e.Latest != 3 {
		t.Errorf("got %v", err)
	}
	if _, err := nodes[1].Publish(t.Context(), fleet.Draft{Data: pack(t, "x"), Message: "why"}); !errors.Is(err, fleet.ErrNoControl) {
		t.Errorf("got %v", err)
	}
}

func TestARefusedRevisionIsTakenBack(t *testing.T) {
	_, nodes := three(t)
	a := nodes[0]
	a.publish("one")
	for _, n := range nodes {
		n.runs(1, "one")
	}
	got, err := a.Apply(t.Context(), fleet.Draft{Data: pack(t, "two!c"), Author: "ann", Message: "why"}, time.Minute, true)
	if err != nil || got.BackTo != 1 || got.Rollback != 3 || got.Error != "" || len(got.Outcome.Refused) != 1 || got.Outcome.Refused[0].Node != "c" {
		t.Fatalf("%+v, %v", got, err)
	}
	nodes[0].runs(3, "one two!c one")
	nodes[1].runs(3, "one two!c one")
	nodes[2].runs(3, "one")
	r, err := a.Revision(t.Context(), 3)
	if err != nil || r.Message != "back to 1 because c refused: two!c: no such file" || r.Author != "ann" {
		t.Errorf("%+v, %v", r, err)
	}
	// Without an earlier one there is nothing to go back to.
	server := redistest.Start(t)
	alone := join(t, "z", connect(t, server), options{})
	got, err = alone.Apply(t.Context(), fleet.Draft{Data: pack(t, "one!z"), Message: "why"}, time.Minute, true)
	if err != nil || got.Rollback != 0 || !strings.Contains(got.Error, "no earlier revision") {
		t.Errorf("%+v, %v", got, err)
	}
	alone.refuses(1, "one!z: no such file")
	alone.publish("two")
	alone.runs(2, "two")
}

func TestASilentNodeTakesNothingBack(t *testing.T) {
	t.Parallel()
	server, nodes := three(t)
	a := nodes[0]
	a.publish("one")
	for _, n := range nodes {
		n.runs(1, "one")
	}
	nodes[1].leave() // says so, and is not waited for
	s := connect(t, server)
	for name, text := range map[string]string{
		"d": `{"node":"d","instance":"x","revision":1}`,
		"e": `{"node":"e","instance":"x","file":true}`, // follows no revisions, and is not waited for
	} {
		if err := s.Put(t.Context(), "nodes", name, []byte(text), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	ran := "one"
	for wait := 2 * time.Second; ; wait *= 2 { // on a busy machine the others are silent as well
		text := fmt.Sprint("within-", wait)
		got, err := a.Apply(t.Context(), fleet.Draft{Data: pack(t, text), Message: "why"}, wait, true)
		if err != nil || got.Rollback != 0 || !slices.Contains(got.Outcome.Silent, "d") || len(got.Outcome.Refused) != 0 || wait > time.Minute {
			t.Fatalf("%+v, %+v, %v", got, got.Outcome, err)
		}
		ran += " " + text
		nodes[2].runs(got.Revision.Number, ran)
		if len(got.Outcome.Silent) == 1 {
			break
		}
	}
}

func TestTwoControlNodesAtOnce(t *testing.T) {
	server := redistest.Start(t)
	a := join(t, "a", connect(t, server), options{})
	dir := t.TempDir()
	key, _, err := revision.LoadOrCreateKey(dir + "/control.key")
	if err != nil {
		t.Fatal(err)
	}
	a.leave() // it has to trust b as well
	a = join(t, "a", a.store, options{dir: a.dir, trusted: revision.Keyring{key.Public()}})
	b := join(t, "b", connect(t, server), options{dir: dir, trusted: revision.Keyring{a.key.Public()}})
	const rounds = 20
	type result struct {
		r   *store.Revision
		err error
	}
	for i := range uint64(rounds) {
		results := make(chan result, 2)
		for _, m := range []*member{a, b} {
			go func() {
				r, err := m.Publish(t.Context(), fleet.Draft{Data: pack(t, fmt.Sprint(m.name, i)), Author: m.name, Message: "why", Expect: &i})
				results <- result{r, err}
			}()
		}
		won := 0
		for range 2 {
			got := <-results
			stale := new(fleet.StaleError)
			switch {
			case got.err == nil && got.r.Number == i+1:
				won++
			case !errors.Is(got.err, store.ErrConflict) && !errors.As(got.err, &stale):
				t.Errorf("round %d: %v", i, got.err)
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d have won", i, won)
		}
	}
	for _, m := range []*member{a, b} {
		eventually(t, "all is one", func() error {
			if s := m.Status(); s.Revision != rounds || s.Error != "" {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	if a.Status().Digest != b.Status().Digest {
		t.Error("two configs")
	}
}

func TestWhatIsNotSignedNeverRuns(t *testing.T) {
	server, nodes := three(t)
	a, intruder := nodes[0], connect(t, server)
	a.publish("one")
	for _, n := range nodes {
		n.runs(1, "one")
	}
	other := key(t)
	put := func(r *store.Revision) {
		t.Helper()
		if err := intruder.Publish(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	put(other.New(2, pack(t, "evil"), "ann", "why", time.Now()))
	for _, n := range nodes {
		n.refuses(2, "signed with a key that this node does not trust")
	}
	// Ours, with other data.
	r := a.key.New(3, pack(t, "fine"), "ann", "why", time.Now())
	r.Data = pack(t, "evil")
	put(r)
	for _, n := range nodes {
		n.refuses(3, "its signature is wrong")
	}
	// Ours, with another number.
	r = a.key.New(1, pack(t, "older"), "ann", "why", time.Now())
	r.Number = 4
	put(r)
	for _, n := range nodes {
		n.refuses(4, "its signature is wrong")
		if n.history() != "one" {
			t.Errorf("%s ran %s", n.name, n.history())
		}
	}
	// The next real one ends it.
	a.publish("two")
	for _, n := range nodes {
		n.runs(5, "one two")
	}
	// Back to a revision that was real once.
	server.Do(t, "SET", "gatehouse:{revisions}:latest", "1")
	for _, n := range nodes {
		n.refuses(1, "") // a finds that 2 to 4 are not known, so nothing is restored
		if n.history() != "one two" {
			t.Errorf("%s ran %s", n.name, n.history())
		}
	}
	if _, err := a.Publish(t.Context(), fleet.Draft{Data: pack(t, "x"), Message: "why"}); err == nil || !strings.Contains(err.Error(), "revision 5 was published already") {
		t.Errorf("got %v", err)
	}
	server.Do(t, "SET", "gatehouse:{revisions}:latest", "5")
	for _, n := range nodes {
		n.runs(5, "one two")
	}
	// Not even over a restart.
	b := nodes[1]
	b.leave()
	server.Do(t, "SET", "gatehouse:{revisions}:latest", "1")
	again := join(t, "b", b.store, options{dir: b.dir, poll: often, gateway: true, trusted: revision.Keyring{a.key.Public()}})
	again.refuses(1, "older than revision 5")
	if again.history() != "two" {
		t.Errorf("it runs %s", again.history())
	}
}

func key(t *testing.T) *revision.Key {
	t.Helper()
	k, _, err := revision.LoadOrCreateKey(t.TempDir() + "/control.key")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAnEmptiedStoreIsRestored(t *testing.T) {
	t.Parallel()
	server, nodes := three(t)
	a := nodes[0]
	for i := range 12 {
		a.publish(fmt.Sprint("v", i))
		for _, n := range nodes {
			eventually(t, "it is there", func() error {
				if s := n.Status(); s.Revision != uint64(i+1) {
					return fmt.Errorf("%+v", s)
				}
				return nil
			})
		}
	}
	server.Kill(t)
	for _, n := range nodes {
		eventually(t, n.name+" says that the store is away", func() error {
			if s := n.Status(); s.Store.Up || s.Store.Error == "" || s.Revision != 12 {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	before := nodes[1].history()
	server.Run(t)
	for _, n := range nodes {
		n.runs(12, before)
		eventually(t, "the store answers", func() error {
			if s := n.Status(); !s.Store.Up || s.Store.Error != "" {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	eventually(t, "all are restored", func() error {
		list, err := a.History(t.Context(), 0, 100)
		if err == nil && (len(list) != 10 || list[0].Number != 12 || list[9].Number != 3) {
			err = fmt.Errorf("there are %d revisions", len(list))
		}
		if err == nil && !strings.Contains(a.log.String(), "this node has restored them") {
			err = errors.New("it is not in the log")
		}
		return err
	})
	a.publish("next")
	for _, n := range nodes {
		n.runs(13, before+" next")
	}
	// The last write is lost, as in a failover.
	server.Do(t, "EVAL", "redis.call('SET', KEYS[1], '12') redis.call('DEL', KEYS[2])", 2, // at once, or it would be restored between
		"gatehouse:{revisions}:latest", "gatehouse:{revisions}:13")
	eventually(t, "it is back", func() error {
		n, err := a.Latest(t.Context())
		if err == nil && n != 13 {
			err = fmt.Errorf("it is at %d", n)
		}
		return err
	})
	for _, n := range nodes {
		n.runs(13, before+" next")
	}
	// Emptied while only gateways were there: they keep what they have, and say so.
	a.leave()
	server.Do(t, "FLUSHALL")
	for _, n := range nodes[1:] {
		n.refuses(0, "older than revision 13")
	}
	a = join(t, "a", a.store, options{dir: a.dir})
	a.runs(13, "next")
	for _, n := range nodes[1:] {
		n.runs(13, before+" next")
	}
}

func TestAStoreThatHangs(t *testing.T) {
	t.Parallel()
	server, nodes := three(t, func(s *redis.Settings) { s.Timeout = 500 * time.Millisecond })
	a, b := nodes[0], nodes[1]
	a.publish("one")
	for _, n := range nodes {
		n.runs(1, "one")
	}
	server.Pause(t)
	eventually(t, "it is noticed", func() error {
		if s := b.Status(); s.Store.Up {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	b.leave()
	again := join(t, "b", b.store, options{dir: b.dir, poll: often, gateway: true, trusted: revision.Keyring{a.key.Public()}})
	if s := again.Status(); s.Revision != 1 || !s.FromDisk || s.Store.Up || again.history() != "one" {
		t.Errorf("started without the store: %+v", s)
	}
	if !strings.Contains(again.log.String(), "last good one on disk") {
		t.Error("it is not in the log")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := a.Publish(ctx, fleet.Draft{Data: pack(t, "two"), Message: "why"}); err == nil {
		t.Error("published into a store that hangs")
	}
	server.Resume(t)
	again.runs(1, "one")
	n, err := a.Latest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.publish("three")
	again.runs(n+1, map[uint64]string{1: "one three", 2: "one two three"}[n])
}

func TestAWrongPassword(t *testing.T) {
	server := redistest.Start(t)
	right := connect(t, server, func(s *redis.Settings) { s.Username, s.Password = "gate", "right" })
	server.Do(t, "ACL", "SETUSER", "gate", "on", ">right", "~*", "&*", "+@all")
	a := join(t, "a", right, options{})
	a.publish("one")
	a.runs(1, "one")
	a.leave()
	wrong := connect(t, server, func(s *redis.Settings) { s.Username, s.Password = "gate", "wrong" })
	a = join(t, "a", wrong, options{dir: a.dir})
	eventually(t, "it says why it starts from disk", func() error { // the start may not have waited for the reason
		if s := a.Status(); s.Revision != 1 || !s.FromDisk || s.Store.Up || !strings.Contains(s.Store.Error, "Redis refuses the user or the password") {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if strings.Contains(a.log.String(), "wrong") {
		t.Errorf("the password is in the log:\n%s", a.log)
	}
	fresh := join(t, "f", wrong, options{})
	if s := fresh.Status(); s.Revision != 0 || fresh.history() != "" {
		t.Errorf("%+v", s)
	}
}

func TestGarbageUnderOurKeys(t *testing.T) {
	server, nodes := three(t)
	a := nodes[0]
	a.publish("one")
	for _, n := range nodes {
		n.runs(1, "one")
	}
	const latest, second = "gatehouse:{revisions}:latest", "gatehouse:{revisions}:2"
	for _, c := range []struct {
		do     []any
		number uint64
		undo   []any
	}{
		{[]any{"SET", latest, "many"}, 0, []any{"SET", latest, "1"}},
		{[]any{"SET", latest, "2"}, 2, []any{"SET", latest, "1"}}, // which is not there
		{[]any{"EVAL", "redis.call('DEL', KEYS[1]); redis.call('LPUSH', KEYS[1], 'x')", "1", latest}, 0, []any{"SET", latest, "1"}},
		{[]any{"EVAL", "redis.call('SET', KEYS[1], '2'); redis.call('SET', KEYS[2], 'x')", "2", latest, second}, 2, []any{"SET", latest, "1"}},
		{[]any{"EVAL", "redis.call('SET', KEYS[1], '2'); redis.call('DEL', KEYS[2]); redis.call('HSET', KEYS[2], 'head', '{', 'data', 'x')", "2", latest, second}, 2, []any{"SET", latest, "1"}},
		{[]any{"SET", latest, "18446744073709551615"}, 0, []any{"SET", latest, "1"}},
	} {
		server.Do(t, c.do...)
		for _, n := range nodes {
			n.refuses(c.number, "malformed data")
		}
		server.Do(t, c.undo...)
		for _, n := range nodes {
			n.runs(1, "one")
		}
	}
	server.Do(t, "DEL", second)
	// Among the nodes.
	s := connect(t, server)
	for name, text := range map[string]string{"x": "{", "y": "{}", "z": `{"node":"other","instance":"i"}`} {
		if err := s.Put(t.Context(), "nodes", name, []byte(text), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	list, err := a.Members(t.Context())
	if err != nil || len(list) != 6 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, m := range list[3:] {
		if m.Instance != "" || !strings.Contains(m.Error, "was not written by a node") {
			t.Errorf("%+v", m)
		}
	}
	got, err := a.Apply(t.Context(), fleet.Draft{Data: pack(t, "two"), Message: "why"}, time.Minute, true)
	if err != nil || len(got.Outcome.Silent)+len(got.Outcome.Refused) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A primary that dies costs neither a revision nor a restart.
func TestAFailover(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinels(t)
	open := func() store.Store {
		return connect(t, s.Servers[0], func(r *redis.Settings) { r.Addresses, r.Sentinel = s.Addresses, redistest.Name })
	}
	a := join(t, "a", open(), options{})
	b := join(t, "b", open(), options{gateway: true, trusted: revision.Keyring{a.key.Public()}})
	a.publish("one")
	a.runs(1, "one")
	b.runs(1, "one")
	s.Servers[0].Kill(t)
	var next uint64
	eventually(t, "something can be published again", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		r, err := a.Publish(ctx, fleet.Draft{Data: pack(t, "two"), Message: "why"})
		if err == nil {
			next = r.Number
		}
		return err
	})
	// An answer may have been lost: then it was published twice.
	a.runs(next, "one two")
	b.runs(next, "one two")
}
