package fleet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
)

// afterwards publishes and wants it live on all: whatever has happened to the
// store, it is over, nobody was restarted, and every node has everything.
func afterwards(t *testing.T, nodes []*member, text string) {
	t.Helper()
	var r *store.Revision
	eventually(t, "something can be published", func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err = nodes[0].Publish(ctx, fleet.Draft{Data: pack(t, text), Message: "why"})
		return err
	})
	for _, n := range nodes {
		eventually(t, n.name+" runs "+text, func() error {
			if s := n.Status(); s.Revision != r.Number || s.Error != "" || s.FromDisk || !s.Store.Up || !strings.HasSuffix(n.history(), text) {
				return fmt.Errorf("%q, %+v", n.history(), s)
			}
			return nil
		})
	}
}

// cannotPublish wants publishing to fail, for a reason that is named.
func (m *member) cannotPublish(why string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	_, err := m.Publish(ctx, fleet.Draft{Data: pack(m.t, "never"), Message: "why"})
	if err == nil || !strings.Contains(err.Error(), why) || errors.Is(err, store.ErrConflict) {
		m.t.Errorf("%s: got %v, want %q", m.name, err, why)
	}
}

// Redis answers what is read and refuses what is written: nodes run on, nothing
// is half published, and it is said.
func TestAStoreThatCannotBeWrittenTo(t *testing.T) {
	t.Parallel()
	server, list := three(t)
	nodes := list[:]
	nodes[0].publish("one")
	for _, n := range nodes {
		n.runs(1, "one")
	}
	for _, c := range []struct {
		name, why string
		do, undo  []any
	}{
		{"out of memory", "Redis is out of memory", []any{"CONFIG", "SET", "maxmemory", "1"}, []any{"CONFIG", "SET", "maxmemory", "0"}},
		{"a replica", "this Redis server is a replica", []any{"REPLICAOF", "127.0.0.1", "1"}, []any{"REPLICAOF", "NO", "ONE"}},
	} {
		server.Do(t, c.do...)
		nodes[0].cannotPublish(c.why)
		if n, err := nodes[0].Latest(t.Context()); err != nil || nodes[1].Status().Revision != n {
			t.Errorf("%s: the latest is %d, %v", c.name, n, err)
		}
		server.Do(t, c.undo...)
		afterwards(t, nodes, "after-"+strings.ReplaceAll(c.name, " ", "-"))
	}
	if nodes[2].history() != "one after-out-of-memory after-a-replica" {
		t.Errorf("c ran %s", nodes[2].history())
	}
}

// A password that is changed under running nodes is a store that is away.
func TestAPasswordThatIsChanged(t *testing.T) {
	server := redistest.Start(t)
	server.Do(t, "ACL", "SETUSER", "gate", "on", ">right", "~*", "&*", "+@all")
	user := func(s *redis.Settings) { s.Username, s.Password = "gate", "right" }
	a := join(t, "a", connect(t, server, user), options{poll: often})
	b := join(t, "b", connect(t, server, user), options{poll: often, gateway: true, trusted: revision.Keyring{a.key.Public()}})
	a.publish("one")
	a.runs(1, "one")
	b.runs(1, "one")
	server.Do(t, "MULTI") // or a connection more is what finds out first, and the old ones go on
	server.Do(t, "ACL", "SETUSER", "gate", "resetpass", ">other")
	server.Do(t, "CLIENT", "KILL", "USER", "gate")
	server.Do(t, "EXEC")
	// The log tells it once, each time: a machine that stalls makes the store look away.
	logged := func(n *member) (away, back int) {
		text := n.log.String()
		return strings.Count(text, "the store is away"), strings.Count(text, "the store answers again")
	}
	for _, n := range []*member{a, b} {
		eventually(t, n.name+" says so", func() error {
			if s := n.Status(); s.Store.Up || !strings.Contains(s.Store.Error, "Redis refuses the user or the password") || s.Revision != 1 || s.Error != "" {
				return fmt.Errorf("%+v", s)
			}
			if away, back := logged(n); away != back+1 {
				return fmt.Errorf("logged %d times, and %d times that it is back", away, back)
			}
			return nil
		})
	}
	a.cannotPublish("Redis refuses the user or the password")
	server.Do(t, "ACL", "SETUSER", "gate", ">right")
	afterwards(t, []*member{a, b}, "two")
	if b.history() != "one two" {
		t.Errorf("b ran %s", b.history())
	}
	for _, n := range []*member{a, b} {
		eventually(t, n.name+" has said that it is over", func() error {
			if away, back := logged(n); away != back {
				return fmt.Errorf("logged %d times, and %d times that it is back", away, back)
			}
			return nil
		})
	}
}

// Each of our keys replaced by each other type, and by texts that are not ours.
func TestForeignDataUnderEveryKey(t *testing.T) {
	t.Parallel()
	server, list := three(t)
	nodes := list[:]
	a := nodes[0]
	a.publish("one")
	for _, n := range nodes {
		n.runs(1, "one")
	}
	const p = "gatehouse:{revisions}:"
	replace := func(key string, command ...any) {
		t.Helper()
		server.Do(t, "MULTI")
		server.Do(t, "DEL", key)
		server.Do(t, command...)
		server.Do(t, "EXEC")
	}
	types := func(key string) [][]any {
		return [][]any{
			{"SET", key, "x"},
			{"SET", key, ""},
			{"LPUSH", key, "x"},
			{"SADD", key, "x"},
			{"ZADD", key, "1", "x"},
			{"XADD", key, "*", "x", "y"},
			{"HSET", key, "x", "y"},
		}
	}
	head := fmt.Sprint(server.Do(t, "HGET", p+"1", "head"))
	data := fmt.Sprint(server.Do(t, "HGET", p+"1", "data"))
	back := func() {
		t.Helper()
		server.Do(t, "DEL", p+"latest", p+"2")
		server.Do(t, "SET", p+"latest", "1")
		for _, n := range nodes {
			n.runs(1, "one")
		}
	}
	for _, command := range types(p + "latest") {
		replace(p+"latest", command...)
		nodes[2].refuses(0, "malformed data")
		a.cannotPublish("malformed data")
		back()
	}
	second := append(types(p+"2"),
		[]any{"HSET", p + "2", "head", head[:len(head)/2], "data", data},
		[]any{"HSET", p + "2", "head", head, "data", data}, // says that it is 1
		[]any{"HSET", p + "2", "head", "", "data", ""},
		[]any{"HSET", p + "2", "head", "[]", "data", data},
		[]any{"HSET", p + "2", "head", strings.Replace(head, `"number":1`, `"number":2`, 1)},
	)
	for _, command := range second {
		server.Do(t, "DEL", p+"2")
		server.Do(t, command...)
		server.Do(t, "SET", p+"latest", "2")
		nodes[2].refuses(2, "malformed data")
		back()
	}
	// What is not what was signed, well-formed or not.
	cut := strings.Replace(head, `"number":1`, `"number":2`, 1)
	for _, text := range []string{data, data[:len(data)/2], "", "{"} {
		server.Do(t, "HSET", p+"2", "head", cut, "data", text)
		server.Do(t, "SET", p+"latest", "2")
		nodes[2].refuses(2, "")
		back()
	}
	// The list of nodes.
	for _, command := range types("gatehouse:{values:nodes}:names") {
		if command[0] == "ZADD" {
			continue // that is its type; a name without a value is nobody
		}
		replace("gatehouse:{values:nodes}:names", command...)
		if _, err := a.Members(t.Context()); !errors.Is(err, store.ErrMalformed) {
			t.Errorf("%v: %v", command[0], err)
		}
	}
	server.Do(t, "DEL", "gatehouse:{values:nodes}:names")
	afterwards(t, nodes, "two")
	if nodes[2].history() != "one two" {
		t.Errorf("c ran %s", nodes[2].history())
	}
}

// Clocks that are minutes apart matter to nobody.
func TestClocksThatDiffer(t *testing.T) {
	server := redistest.Start(t)
	a := join(t, "a", connect(t, server), options{poll: often, ahead: 17 * time.Minute})
	b := join(t, "b", connect(t, server), options{poll: often, gateway: true, trusted: revision.Keyring{a.key.Public()}, ahead: -23 * time.Minute})
	c := join(t, "c", connect(t, server), options{poll: often, trusted: revision.Keyring{a.key.Public()}, ahead: -8760 * time.Hour})
	a.leave()
	a = join(t, "a", a.store, options{dir: a.dir, poll: often, ahead: 17 * time.Minute, trusted: revision.Keyring{c.key.Public()}})
	b.leave()
	b = join(t, "b", b.store, options{dir: b.dir, poll: often, gateway: true, trusted: revision.Keyring{a.key.Public(), c.key.Public()}, ahead: -23 * time.Minute})
	eventually(t, "all are there", func() error {
		list, err := a.Members(t.Context())
		if err == nil && len(list) != 3 {
			err = fmt.Errorf("%+v", list)
		}
		return err
	})
	for i, from := range []*member{a, c, a, c} {
		got, err := from.Apply(t.Context(), fleet.Draft{Data: pack(t, fmt.Sprint("v", i)), Message: "why"}, time.Minute, true)
		if err != nil || len(got.Outcome.Running) != 3 {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	for _, n := range []*member{a, b, c} {
		n.runs(4, "v0 v1 v2 v3")
	}
}

// flaky is a store that can be cut off.
type flaky struct {
	store.Store
	cut  atomic.Bool
	deaf atomic.Bool // only what it reads of revisions is old
}

func (f *flaky) err() error {
	if f.cut.Load() {
		return errAway
	}
	return nil
}

func (f *flaky) Latest(ctx context.Context) (uint64, error) {
	if err := f.err(); err != nil {
		return 0, err
	}
	if f.deaf.Load() {
		return 1, nil
	}
	return f.Store.Latest(ctx)
}

func (f *flaky) Watch(context.Context, func(string)) error { return errAway }

func (f *flaky) Put(ctx context.Context, folder, name string, data []byte, ttl time.Duration) error {
	if err := f.err(); err != nil {
		return err
	}
	return f.Store.Put(ctx, folder, name, data, ttl)
}

// A node that was cut off for an hour has missed more than anybody keeps, and
// runs the newest a second after it is back.
func TestANodeThatIsGoneForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		a := join(t, "a", s, options{})
		away := &flaky{Store: s}
		b := join(t, "b", away, options{gateway: true, trusted: revision.Keyring{a.key.Public()}})
		a.publish("first")
		time.Sleep(2 * time.Second)
		away.cut.Store(true)
		for i := range 60 {
			time.Sleep(time.Minute)
			a.publish(fmt.Sprint("v", i))
		}
		if st := b.Status(); st.Revision != 1 || st.Store.Up || time.Since(st.Store.Since) < 59*time.Minute {
			t.Errorf("%+v", st)
		}
		if list, err := fleet.Members(t.Context(), s); err != nil || len(list) != 1 {
			t.Errorf("it is still said to be alive: %+v, %v", list, err)
		}
		away.cut.Store(false)
		time.Sleep(time.Second + time.Millisecond)
		synctest.Wait()
		if st := b.Status(); st.Revision != 61 || !st.Store.Up || b.history() != "first v59" {
			t.Errorf("%q, %+v", b.history(), st)
		}
		a.leave()
		b.leave()
	})
}

// A Cluster whose primary of the revisions dies costs neither a revision nor a
// restart.
func TestAFailoverInACluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartClusterWithReplicas(t)
	open := func() store.Store {
		return connect(t, c.Primaries[0], func(r *redis.Settings) { r.Cluster, r.Addresses = true, c.Addresses() })
	}
	a := join(t, "a", open(), options{poll: often})
	b := join(t, "b", open(), options{poll: often, gateway: true, trusted: revision.Keyring{a.key.Public()}})
	a.publish("one")
	b.runs(1, "one")
	c.PrimaryOf(t, "gatehouse:{revisions}:latest").Kill(t)
	afterwards(t, []*member{a, b}, "two")
	if h := b.history(); h != "one two" {
		t.Errorf("b ran %s", h)
	}
	r, err := a.Revision(t.Context(), 1)
	if err != nil || !bytes.Contains(r.Data, pack(t, "one")) {
		t.Errorf("the first one: %v", err)
	}
}
