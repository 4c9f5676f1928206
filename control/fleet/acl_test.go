package fleet_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
)

// withACL is a server with deploy/redis-acl.conf, whose example is a user too.
func withACL(t *testing.T) *redistest.Server {
	t.Helper()
	text, err := os.ReadFile("../../deploy/redis-acl.conf")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "acl.conf")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "# user ", "user ")), 0o600); err != nil {
		t.Fatal(err)
	}
	return redistest.Start(t, "--include", path)
}

// The users in deploy/redis-acl.conf can do what their nodes have to, and nothing
// else.
func TestTheUsersOfTheDeployment(t *testing.T) {
	server := withACL(t)
	as := func(user, password string) store.Store {
		return connect(t, server, func(s *redis.Settings) { s.Username, s.Password = user, password })
	}
	a := join(t, "a", as("gatehouse-control", "change-me-control"), options{poll: often})
	ring := revision.Keyring{a.key.Public()}
	b := join(t, "b", as("gatehouse-gateway", "change-me-gateway"), options{gateway: true, trusted: ring, poll: often})
	edge := join(t, "edge-1", as("gatehouse-edge-1", "change-me"), options{gateway: true, trusted: ring, poll: often})
	nodes := []*member{a, b, edge}
	eventually(t, "all are there", func() error {
		list, err := edge.Members(t.Context())
		if err == nil && len(list) != 3 {
			err = errors.New("not yet")
		}
		return err
	})
	got, err := a.Apply(t.Context(), fleet.Draft{Data: pack(t, "one"), Message: "why"}, time.Minute, true)
	if err != nil || len(got.Outcome.Running) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	server.Kill(t)
	server.Run(t)
	afterwards(t, nodes, "two") // a may restore as well

	// What every node does with the rest of the store.
	for _, n := range nodes[:2] {
		ctx, s := t.Context(), n.store
		for doing, err := range map[string]error{
			"ping":     s.Ping(ctx),
			"a secret": s.Put(ctx, "secrets", n.name, []byte("x"), time.Minute),
			"a lease":  errors.Join(s.Register(ctx, n.name, []byte("x"), time.Minute), s.Renew(ctx, n.name, time.Minute), s.Cancel(ctx, n.name)),
		} {
			if err != nil {
				t.Errorf("%s: %s: %v", n.name, doing, err)
			}
		}
		if _, _, err := s.Snapshot(ctx); err != nil {
			t.Error(err)
		}
		if _, err := s.Take(ctx, []store.Take{{Key: n.name, Buckets: []store.Bucket{{Interval: time.Second, Burst: 2}}, Cost: 1}}); err != nil {
			t.Error(err)
		}
	}
	// What nobody but a control node may do.
	forged := a.key.New(3, pack(t, "three"), "ann", "why", time.Now())
	for _, n := range nodes[1:] {
		if err := n.store.Publish(t.Context(), forged); err == nil || !strings.Contains(err.Error(), "the ACL of the Redis user is too narrow") {
			t.Errorf("%s publishes: %v", n.name, err)
		}
	}
	if err := edge.store.Put(t.Context(), "nodes", "b", []byte("{}"), time.Minute); err == nil {
		t.Error("edge-1 speaks for b")
	}
	// A value that is too large for any node keeps nobody from reading the others.
	if err := a.store.Put(t.Context(), "nodes", "huge", []byte("x"), time.Hour); err != nil {
		t.Fatal(err)
	}
	server.Do(t, "AUTH", "gatehouse-control", "change-me-control")
	server.Do(t, "SETRANGE", "gatehouse:{values:nodes}:value:huge", store.MaxValue, "x")
	for _, n := range nodes {
		eventually(t, n.name+" lists all", func() error { // they write themselves into an empty store
			list, err := n.store.List(t.Context(), "nodes")
			if err == nil && len(list) != 4 {
				err = fmt.Errorf("there are %d", len(list))
			}
			return err
		})
	}
	for user, password := range map[string]string{"gatehouse-control": "change-me-control", "gatehouse-gateway": "change-me-gateway", "gatehouse-edge-1": "change-me", "default": ""} {
		c := goredis.NewClient(&goredis.Options{Addr: server.Address, Username: user, Password: password, DialTimeout: time.Minute, ReadTimeout: time.Minute})
		for _, command := range [][]any{
			{"SET", "other", "x"},
			{"GET", "other"},
			{"FLUSHALL"},
			{"KEYS", "*"},
			{"CONFIG", "GET", "*"},
			{"ACL", "LIST"},
			{"SHUTDOWN"},
			{"PUBLISH", "other", "x"},
			{"SCRIPT", "FLUSH"},
			{"REPLICAOF", "NO", "ONE"},
		} {
			if err := c.Do(t.Context(), command...).Err(); err == nil || !goredis.HasErrorPrefix(err, "NOPERM") && !goredis.HasErrorPrefix(err, "NOAUTH") && !goredis.HasErrorPrefix(err, "WRONGPASS") {
				t.Errorf("%s: %v: %v", user, command, err)
			}
		}
		if user != "gatehouse-control" {
			for _, command := range [][]any{{"SET", "gatehouse:{revisions}:latest", "1"}, {"DEL", "gatehouse:{revisions}:1"}} {
				if err := c.Do(t.Context(), command...).Err(); err == nil {
					t.Errorf("%s: %v", user, command)
				}
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
