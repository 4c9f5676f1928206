package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestKilledUpstreamCostsNoRequest(t *testing.T) {
	a, b, c := startProcess(t, "a"), startProcess(t, "b"), startProcess(t, "c")
	g := start(t, fmt.Sprintf(`upstreams:
  app:
    endpoints: [%q, %q, %q]
    load_balancer: { algorithm: round_robin }
    health_check: { path: /healthz, interval: 500ms, timeout: 500ms, healthy: 1, unhealthy: 2 }
routes: { all: { match: { path: / }, backends: [{ upstream: app }], retries: { attempts: 2, budget_percent: 100 } } }
`, a.addr, b.addr, c.addr))
	g.eventually("all three answer", all(g, "a", "b", "c"))

	load := busy(g, 16)
	for range 3 {
		g.eventually("b serves under load", func() error {
			if n := g.metric(series("gatehouse_upstream_requests_in_flight", "app", b.addr)); n == 0 {
				return fmt.Errorf("nothing in flight at b")
			}
			return nil
		})
		b.kill()
		g.eventually("b is known to be dead", func() error { return is(g.health("app", b.addr), "unhealthy") })
		b.start()
		g.eventually("b is known to live", func() error { return is(g.health("app", b.addr), "healthy") })
	}
	requests, failed, first := load.stop()
	if failed > 0 || requests == 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, requests, first)
	}
	g.eventually("all three answer again", all(g, "a", "b", "c"))
}

func is[T comparable](got, want T) error {
	if got != want {
		return fmt.Errorf("got %v, want %v", got, want)
	}
	return nil
}

// all is nil when exactly these upstreams answer.
func all(g *gatehouse, names ...string) func() error {
	return func() error {
		got := g.names(8 * len(names))
		for _, n := range names {
			if got[n] == 0 {
				return fmt.Errorf("got %v, want %v", got, names)
			}
		}
		if len(got) != len(names) {
			return fmt.Errorf("got %v, want %v", got, names)
		}
		return nil
	}
}

func TestFlappingUpstreamCostsNoRequest(t *testing.T) {
	steady := startSwitched(t, "steady")
	f := &flapping{addr: freeAddress(t), h: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(time.Millisecond)
		fmt.Fprint(w, "flapping")
	})}
	if err := f.up(); err != nil {
		t.Fatal(err)
	}
	defer f.down()
	g := start(t, fmt.Sprintf(`upstreams:
  app:
    endpoints: [%q, %q]
    outlier_detection: { enabled: false } # every flap is to be felt
routes: { all: { match: { path: / }, backends: [{ upstream: app }], retries: { attempts: 2, budget_percent: 100 } } }
`, steady.addr, f.addr))
	load := busy(g, 8)
	for range 10 {
		f.down()
		before := g.metric(series("gatehouse_upstream_connect_failures_total", "app", f.addr))
		g.eventually("the flap is felt", func() error {
			if g.metric(series("gatehouse_upstream_connect_failures_total", "app", f.addr)) == before {
				return fmt.Errorf("no connection has failed")
			}
			return nil
		})
		until(t, "the port is free again", f.up)
	}
	requests, failed, first := load.stop()
	if failed > 0 || requests == 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, requests, first)
	}
	if n := g.metric(`gatehouse_upstream_retries_total{upstream="app"}`); n == 0 {
		t.Error("no retry was counted")
	}
	t.Logf("%d requests, %v retries", requests, g.metric(`gatehouse_upstream_retries_total{upstream="app"}`))
}

func TestHealthCheckTakesOutAndBringsBack(t *testing.T) {
	a, b := startSwitched(t, "a"), startSwitched(t, "b")
	g := start(t, fmt.Sprintf(`upstreams:
  app:
    endpoints: [%q, %q]
    load_balancer: { algorithm: round_robin }
    health_check: { path: /healthz, interval: 500ms, timeout: 500ms, healthy: 2, unhealthy: 2 }
routes: { all: { match: { path: / }, backends: [{ upstream: app }] } }
`, a.addr, b.addr))
	g.eventually("both answer", all(g, "a", "b"))
	b.health.Store(503) // it would still answer
	g.eventually("only a answers", all(g, "a"))
	// On a busy machine a may be late as well, and then b is asked after all.
	g.eventually("b gets no requests while it is out", func() error {
		before := b.served.Load()
		if got := g.names(20); got["a"] != 20 || b.served.Load() != before {
			return fmt.Errorf("%v", got)
		}
		return is(g.metric(series("gatehouse_upstream_endpoint_healthy", "app", b.addr)), 0.0)
	})
	b.health.Store(200)
	g.eventually("both answer again", all(g, "a", "b"))
}

func TestOutlierIsEjectedAndReturns(t *testing.T) {
	a, b := startSwitched(t, "a"), startSwitched(t, "b")
	g := start(t, fmt.Sprintf(`upstreams:
  app:
    endpoints: [%q, %q]
    load_balancer: { algorithm: round_robin, panic_threshold: 0 }
    outlier_detection: { consecutive_errors: 5, interval: 100ms, base_ejection: 1s }
routes: { all: { match: { path: / }, backends: [{ upstream: app }] } }
`, a.addr, b.addr))
	b.status.Store(500)
	ejections := series("gatehouse_upstream_ejections_total", "app", b.addr)
	failed := 0
	for range 40 { // round robin: b's fifth failure is the tenth request at the latest
		if g.get("/").StatusCode == 500 {
			failed++
		}
		if failed == 5 {
			break
		}
	}
	g.eventually("b is ejected", func() error { return is(g.metric(ejections), 1) })
	if failed != 5 || b.served.Load() != 5 {
		t.Errorf("b failed %d times for clients and was asked %d times, want 5 and 5", failed, b.served.Load())
	}
	b.status.Store(200)
	g.eventually("b returns", all(g, "a", "b"))
	if r := g.get("/"); r.StatusCode != 200 {
		t.Errorf("status %d", r.StatusCode)
	}
}

func TestPrioritiesFailOverAndBack(t *testing.T) {
	first, backup, last := startSwitched(t, "first"), startSwitched(t, "backup"), startSwitched(t, "last")
	g := start(t, fmt.Sprintf(`upstreams:
  app:
    endpoints:
      - %q
      - { address: %q, priority: 1 }
      - { address: %q, priority: 2 }
    health_check: { path: /healthz, interval: 500ms, timeout: 500ms, healthy: 1, unhealthy: 1 }
routes: { all: { match: { path: / }, backends: [{ upstream: app }] } }
`, first.addr, backup.addr, last.addr))
	for _, step := range []struct {
		what   string
		s      *switched
		health int64
		want   string
	}{
		{"all are healthy", first, 200, "first"},
		{"the first fails", first, 500, "backup"},
		{"the backup fails too", backup, 500, "last"},
		{"the backup is back", backup, 200, "backup"},
		{"the first is back", first, 200, "first"},
	} {
		step.s.health.Store(step.health)
		g.eventually(step.what, all(g, step.want))
	}
}

func TestAllUpstreamsDead(t *testing.T) {
	a, b := startProcess(t, "a"), startProcess(t, "b")
	g := start(t, fmt.Sprintf(`upstreams:
  checked:
    endpoints: [%[1]q, %[2]q]
    load_balancer: { panic_threshold: 0 }
    health_check: { path: /, interval: 500ms, timeout: 500ms, healthy: 1, unhealthy: 1 }
  blind:
    endpoints: [%[1]q, %[2]q]
routes:
  all: { match: { path: / }, backends: [{ upstream: checked }] }
  blind: { match: { path: /blind }, backends: [{ upstream: blind }] }
`, a.addr, b.addr))
	g.eventually("both answer", all(g, "a", "b"))
	a.kill()
	b.kill()
	for _, c := range []struct{ path, route, reason, flags, status, detail string }{
		{"/?dead", "all", "no_healthy_endpoint", "UH", "503", ""},
		{"/blind?dead", "blind", "upstream_connect_failure", "UF", "502", "connection refused"},
	} {
		var r reply
		g.eventually("it is refused with "+c.reason, func() error {
			r = g.get(c.path)
			if !strings.HasPrefix(r.Status, c.status) || !strings.Contains(r.body, `"reason":"`+c.reason+`"`) {
				return fmt.Errorf("%s %s", r.Status, r.body)
			}
			return nil
		})
		if ct := r.Header.Get("Content-Type"); ct != "application/problem+json" {
			t.Errorf("%s: Content-Type %q", c.path, ct)
		}
		if strings.Contains(r.body, "127.0.0.1") {
			t.Errorf("%s: the client is told of the inside: %s", c.path, r.body)
		}
		line := g.accessLine(c.reason, func(m map[string]any) bool { return m["route"] == c.route && m["reason"] == c.reason })
		if line["flags"] != c.flags || line["step"] != "proxy" || fmt.Sprint(line["status"]) != c.status {
			t.Errorf("%s: access log line %v", c.path, line)
		}
		if !strings.Contains(fmt.Sprint(line["detail"]), c.detail) {
			t.Errorf("%s: detail %v", c.path, line["detail"])
		}
		g.eventually("the refusal is counted", func() error {
			if g.metric(fmt.Sprintf("gatehouse_route_refusals_total{reason=%q}", c.reason)) < 1 {
				return fmt.Errorf("%s is not", c.path)
			}
			return nil
		})
	}
	if n := g.metric(`gatehouse_upstream_no_endpoint_total{upstream="checked"}`); n < 1 {
		t.Error("picks without an endpoint were not counted")
	}
	a.start()
	g.eventually("a is back", all(g, "a"))
	b.start()
	g.eventually("both are back", all(g, "a", "b"))
	g.eventually("the unchecked upstream is back", func() error {
		if r := g.get("/blind"); r.StatusCode != 200 {
			return fmt.Errorf("%s %s", r.Status, r.body)
		}
		return nil
	})
}
