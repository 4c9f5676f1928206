package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

// overRedis makes registries of nodes that share a Redis.
func overRedis(t *testing.T, s redis.Settings, n int) []*registry.Registry {
	t.Helper()
	s.Prefix = strings.ReplaceAll(t.Name(), "/", "-")
	s.Timeout = 500 * time.Millisecond
	list := make([]*registry.Registry, n)
	for i := range list {
		st := redis.New(s)
		t.Cleanup(func() {
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
		list[i] = open(t, registry.Settings{Store: st, Evicts: i == 0, Preserve: 15, Dir: t.TempDir()})
		list[i].Use()
	}
	return list
}

// insist registers an instance: on a busy machine Redis may seem to hang.
func insist(t *testing.T, r *registry.Registry, i registry.Instance) {
	t.Helper()
	eventually(t, i.ID+" can be registered", func() bool {
		_, _, err := r.Register(t.Context(), i, registry.Expect{})
		return err == nil
	})
}

// live registers instances at a node and keeps them alive, as clients do, until
// the test ends.
func live(t *testing.T, r *registry.Registry, n int) {
	t.Helper()
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); all.Wait() })
	for k := range n {
		i := instance("users", fmt.Sprintf("u%02d", k))
		i.TTL = unit.Duration(time.Minute)
		insist(t, r, i)
		all.Go(func() {
			for ctx.Err() == nil {
				if err := r.Heartbeat(ctx, i.Service, i.ID); errors.Is(err, registry.ErrNotFound) {
					_, _, _ = r.Register(ctx, i, registry.Expect{}) // it is tried again
				}
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
}

// keeps wants n instances to be there all the while until is.
func keeps(t *testing.T, list []*registry.Registry, n int, what string, is func(registry.Summary) bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		good := 0
		for _, r := range list {
			s := r.Summary()
			if s.Instances != n {
				t.Fatalf("until %s: %+v", what, s)
			}
			if is(s) {
				good++
			}
		}
		if good == len(list) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not in a minute: %s, %+v", what, list[0].Summary())
		}
	}
}

func away(s registry.Summary) bool  { return !s.StoreUp && s.Error != "" }
func whole(s registry.Summary) bool { return s.StoreUp && s.Missing == 0 && s.Malformed == 0 }

func TestRedisComesAndGoes(t *testing.T) {
	server := redistest.Start(t)
	nodes := overRedis(t, redis.Settings{Addresses: []string{server.Address}}, 2)
	const n = 12
	static := instance("legacy", "l1")
	static.TTL = 0
	insist(t, nodes[0], static)
	live(t, nodes[0], n)
	eventually(t, "both see all", func() bool { return nodes[1].Summary().Instances == n+1 })
	eventually(t, "u03 can be drained", func() bool {
		_, err := nodes[1].Override(t.Context(), "users", "u03", registry.Drain, registry.Expect{})
		return err == nil
	})
	drained := func() {
		t.Helper()
		for _, r := range nodes {
			eventually(t, "u03 is drained", func() bool { return r.Get("users", "u03").Effective() == registry.Drain })
		}
	}

	drained() // or it would not be known to those who are to put it back

	server.Pause(t)
	keeps(t, nodes, n+1, "it is noticed that Redis hangs", away)
	if err := nodes[1].Heartbeat(t.Context(), "users", "u00"); err == nil || errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a heartbeat while Redis hangs: %v", err)
	}
	server.Resume(t)
	keeps(t, nodes, n+1, "Redis answers again", whole)

	server.Do(t, "FLUSHALL")
	eventually(t, "the instances are back in Redis", func() bool {
		return fmt.Sprint(server.Do(t, "HLEN", t.Name()+":{leases}:data")) == fmt.Sprint(n)
	})
	keeps(t, nodes, n+1, "all is back", whole)
	drained()

	server.Kill(t)
	keeps(t, nodes, n+1, "it is noticed that Redis is dead", away)
	server.Run(t)
	keeps(t, nodes, n+1, "all is back in an empty Redis", whole)
	drained()

	// Something else under our keys.
	key := t.Name() + ":{leases}:data"
	server.Do(t, "HSET", key, "users/u00", "garbage")
	server.Do(t, "XADD", t.Name()+":{leases}:changes", "*", "+", "users/u00")
	server.Do(t, "DEL", key)
	server.Do(t, "SET", key, "a string")
	keeps(t, nodes, n+1, "it is noticed", func(s registry.Summary) bool { return strings.Contains(s.Error, "malformed") || s.Missing > 0 })
	server.Do(t, "DEL", key)
	keeps(t, nodes, n+1, "it is mended", whole)
}

func TestRegistryOverAFailover(t *testing.T) {
	s := redistest.StartSentinels(t)
	nodes := overRedis(t, redis.Settings{Addresses: s.Addresses, Sentinel: redistest.Name}, 2)
	live(t, nodes[0], 10)
	eventually(t, "both see all", func() bool { return nodes[1].Summary().Instances == 10 })
	s.Servers[0].Kill(t)
	late := instance("late", "one")
	late.TTL = unit.Duration(time.Hour) // nobody renews it
	eventually(t, "another server takes registrations", func() bool {
		_, _, err := nodes[0].Register(t.Context(), late, registry.Expect{})
		for _, r := range nodes {
			if n := len(r.Instances("users")); n != 10 {
				t.Fatalf("%d instances are left", n)
			}
		}
		return err == nil
	})
	eventually(t, "changes are seen again", func() bool { return nodes[1].Get("late", "one") != nil })
	keeps(t, nodes, 11, "all is as before", whole)
}
