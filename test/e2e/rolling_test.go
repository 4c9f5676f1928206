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
	// The waits of the compose file, shortened; a busy machine may need some more probes.
	m := newMachines(t, "interval: 1s, timeout: 1s", "interval: 500ms, timeout: 500ms", "delay: 3s", "delay: 2s",
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
	uploads := &keptUploads{client: &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}}
	defer uploads.client.CloseIdleConnections()
	for name, once := range map[string]func() error{
		"new connections":             func() error { return fetch(fresh, "GET", "http://"+b.web+"/users") },
		"uploads on new ones":         func() error { return fetch(fresh, "POST", "http://"+b.web+"/orders") },
		"kept connections":            func() error { return fetch(kept, "GET", "http://"+b.web+"/users") },
		"uploads on kept connections": func() error { return uploads.ask("http://" + b.web + "/orders") },
		"connections slow to ask":     func() error { return slowToAsk(b.web, 50*time.Millisecond, "/users") },
	} {
		load.ask(name, once)
	}
	load.more(5)
	for _, name := range names {
		g := m.nodes[name]
		serves := func() error {
			if g.metric(`gatehouse_route_requests_total{code="200",route="users"}`) == 0 {
				return fmt.Errorf("%s has served nothing", name)
			}
			return nil
		}
		g.eventually("before its end", serves)
		g.stop()
		load.more(5)
		m.start(name, "node-1").waitReady()
		m.spread(3)
		load.more(5)
		g.eventually("after its start", serves)
	}
	load.stop()
}
