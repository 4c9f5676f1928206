package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRollingRestartOfAFleet: three nodes that run one config from Redis, behind
// a balancer, are stopped and started one after the other, with clients that ask
// all the time and try nothing twice.
func TestRollingRestartOfAFleet(t *testing.T) {
	// The waits of the compose file, shortened by as much as its probes.
	m := newMachines(t, "interval: 1s, timeout: 1s", "interval: 200ms, timeout: 200ms", "delay: 3s", "delay: 600ms",
		`"node-2:8080"]`, `"node-2:8080", "node-3:8080"]`)
	m.start("users", "users").waitReady()
	m.start("orders", "orders").waitReady()
	names := []string{"node-1", "node-2", "node-3"}
	for _, name := range names {
		m.start(name, "node-1")
	}
	first := m.nodes["node-1"]
	first.eventually("the nodes know each other", func() error {
		if _, out, errs := first.cli("status"); !strings.Contains(out, "\nnode-2") || !strings.Contains(out, "\nnode-3") {
			return fmt.Errorf("%s%s", out, errs)
		}
		return nil
	})
	if code, out, errs := m.publish("1m"); code != 0 || !strings.Contains(out, "live on node-1, node-2, node-3\n") {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	b := m.start("balancer", "balancer")
	b.waitReady()
	m.spread(3)

	load := newLoaders(t)
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	kept := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	defer kept.CloseIdleConnections()
	for name, once := range map[string]func() error{
		"new connections":             func() error { return fetch(fresh, "GET", "http://"+b.web+"/users") },
		"uploads on new ones":         func() error { return fetch(fresh, "POST", "http://"+b.web+"/orders") },
		"kept connections":            func() error { return fetch(kept, "GET", "http://"+b.web+"/users") },
		"uploads on kept connections": func() error { return fetch(kept, "POST", "http://"+b.web+"/orders") },
		"connections slow to ask":     func() error { return slowToAsk(b.web, 50*time.Millisecond, "/users") },
	} {
		load.ask(name, once)
	}
	load.more(5)
	for _, name := range names {
		g := m.nodes[name]
		served := g.metric(`gatehouse_route_requests_total{code="200",route="users"}`)
		if served == 0 {
			t.Errorf("%s has served nothing", name)
		}
		g.stop()
		load.more(5)
		m.start(name, "node-1").waitReady()
		m.spread(3)
		load.more(5)
	}
	load.stop()
	for _, name := range names {
		g := m.nodes[name]
		if g.metric(`gatehouse_route_requests_total{code="200",route="users"}`) == 0 {
			t.Errorf("%s has served nothing since", name)
		}
	}
}
