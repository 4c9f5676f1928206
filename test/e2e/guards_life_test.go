package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func TestForwardAuth(t *testing.T) {
	var mode atomic.Value
	mode.Store("allow")
	service := &flapping{addr: freeAddress(t), h: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch mode.Load() {
		case "allow":
			w.Header().Set("X-User", "ann for "+r.Header.Get("X-Forwarded-Method")+" "+r.Header.Get("X-Forwarded-Uri"))
		case "login":
			http.Redirect(w, r, "https://login.example/", http.StatusFound)
		case "deny":
			http.Error(w, "not you", http.StatusForbidden)
		case "ill":
			w.WriteHeader(http.StatusInternalServerError)
		}
	})}
	if err := service.up(); err != nil {
		t.Fatal(err)
	}
	defer service.down()
	g := start(t, fmt.Sprintf(`upstreams: { app: { endpoints: [%q] } }
routes: { all: { match: { path: / }, plugins: [{ forward_auth: { url: "http://%s/verify", timeout: 1m, upstream_headers: [X-User] } }], backends: [{ upstream: app }] } }
`, upstreamServer(t, echoHeaders), service.addr))
	for _, c := range []struct {
		mode   string
		status int
		has    string
	}{
		{"allow", 200, "X-User: ann for POST /p?q=1\n"},
		{"login", 302, ""},
		{"deny", 403, "not you"},
		{"ill", 503, `"reason":"auth_unavailable"`},
		{"gone", 503, `"reason":"auth_unavailable"`},
		{"allow", 200, "X-User: ann"},
	} {
		mode.Store(c.mode)
		if c.mode == "gone" {
			service.down()
		}
		r := g.do("POST", "/p?q=1", strings.NewReader("body"), "X-User", "root")
		if r.StatusCode != c.status || !strings.Contains(r.body, c.has) || strings.Contains(r.body, "root") {
			t.Errorf("%s: %s\n%s", c.mode, r.Status, r.body)
		}
		switch c.mode {
		case "allow":
			if !strings.HasSuffix(r.body, "\n\nbody") {
				t.Errorf("the body has not come through: %s", r.body)
			}
		case "login":
			if to := r.Header.Get("Location"); to != "https://login.example/" {
				t.Errorf("Location %q", to)
			}
		case "gone":
			until(t, "the port is free again", service.up)
		}
	}
	for reason, status := range map[string]float64{"external_denied": 403, "auth_unavailable": 503} {
		line := g.accessLine(reason, func(m map[string]any) bool { return m["reason"] == reason && m["status"] == status })
		if line["flags"] != "UAEX" || line["step"] != "forward_auth" || line["detail"] == nil || line["upstream"] != nil {
			t.Errorf("access log line %v", line)
		}
	}
}

func TestConcurrencyLimit(t *testing.T) {
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	app := upstreamServer(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	g := start(t, fmt.Sprintf(`upstreams: { app: { endpoints: [%q] } }
routes: { all: { match: { path: / }, plugins: [{ concurrency_limit: { limit: 2, retry_after: 7s } }], backends: [{ upstream: app }] } }
`, app))
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if r, err := ask(g, "/slow"); err != nil || r.StatusCode != 200 {
				t.Errorf("within the limit: %v %v", r.Response, err)
			}
		})
	}
	<-arrived
	<-arrived
	for range 3 {
		if r := g.get("/third"); r.StatusCode != 503 || !strings.Contains(r.body, "concurrency_limited") || r.Header.Get("Retry-After") != "7" {
			t.Errorf("over the limit: %s %v %s", r.Status, r.Header, r.body)
		}
	}
	close(release)
	wg.Wait()
	g.eventually("there is room again", func() error { return is(g.get("/again").StatusCode, 200) })
	line := g.accessLine("the refusal", func(m map[string]any) bool { return m["path"] == "/third" })
	if line["flags"] != "CL" || line["reason"] != "concurrency_limited" {
		t.Errorf("access log line %v", line)
	}
}

func TestKeyServerDown(t *testing.T) {
	first, second := newSigner(t, "first"), newSigner(t, "second")
	var keys atomic.Value
	keys.Store(first.jwks())
	server := &flapping{addr: freeAddress(t), h: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, keys.Load())
	})}
	defer server.down()
	g := start(t, fmt.Sprintf(`upstreams: { app: { endpoints: [%q] } }
routes:
  all:
    match: { path: / }
    plugins: [{ jwt: { jwks_url: "http://%s/keys", audiences: [api], refresh_unknown: 1s } }]
    backends: [{ upstream: app }]
  open: { match: { path: /open }, respond: { body: open } }
`, upstreamServer(t, echoHeaders), server.addr))
	with := func(s *signer) reply {
		return g.get("/", "Authorization", "Bearer "+s.token(map[string]any{"aud": "api"}))
	}
	// The node starts without its keys, and lets nobody in who would need them.
	if r := with(first); r.StatusCode != 503 || !strings.Contains(r.body, "auth_unavailable") {
		t.Errorf("without keys: %s %s", r.Status, r.body)
	}
	if r := g.get("/open"); r.StatusCode != 200 {
		t.Errorf("another route: %s", r.Status)
	}
	line := g.accessLine("the refusal", func(m map[string]any) bool { return m["reason"] == "auth_unavailable" })
	if line["step"] != "jwt" || line["flags"] != "UAEX" || line["status"] != 503.0 {
		t.Errorf("access log line %v", line)
	}
	until(t, "the port is free", server.up)
	g.eventually("the keys are there", func() error { return is(with(first).StatusCode, 200) })
	if r := with(second); r.StatusCode != 401 {
		t.Errorf("unknown key: %s", r.Status)
	}
	// Keys once read stay while the server is away.
	server.down()
	if r := with(first); r.StatusCode != 200 {
		t.Errorf("with the server gone: %s", r.Status)
	}
	// It comes back with other keys.
	keys.Store(second.jwks())
	until(t, "the port is free", server.up)
	g.eventually("the new key is there", func() error { return is(with(second).StatusCode, 200) })
	if r := with(first); r.StatusCode != 401 {
		t.Errorf("old key: %s", r.Status)
	}
}

// A route that this node cannot build answers 503 and nothing else suffers.
func TestBrokenRouteAndItsHealing(t *testing.T) {
	config := fmt.Sprintf(`upstreams: { app: { endpoints: [%q] } }
routes:
  guarded: { match: { path: /guarded }, plugins: [{ basic_auth: { htpasswd_file: users.htpasswd } }], backends: [{ upstream: app }] }
  keys: { match: { path: /keys }, plugins: [{ jwt: { jwks_file: keys.json, audiences: [api] } }], backends: [{ upstream: app }] }
  open: { match: { path: /open }, backends: [{ upstream: app }] }
`, upstreamServer(t, echoHeaders))
	g := prepare(t, config)
	dir := filepath.Dir(g.config)
	writeFile(t, filepath.Join(dir, "keys.json"), newSigner(t, "k").jwks())
	g.run()
	g.waitReady() // although one route is broken
	if r := g.get("/guarded", "Authorization", basic("carol", "caroling")); r.StatusCode != 503 || !strings.Contains(r.body, "route_broken") || strings.Contains(r.body, "htpasswd") {
		t.Errorf("%s %s", r.Status, r.body)
	}
	if r := g.get("/open"); r.StatusCode != 200 {
		t.Errorf("another route: %s", r.Status)
	}
	if r := g.get("/keys"); r.StatusCode != 401 {
		t.Errorf("another guarded route: %s", r.Status)
	}
	broken, _ := g.status()["broken"].(map[string]any)
	if why, _ := broken["guarded"].(string); len(broken) != 1 || !strings.Contains(why, "routes.guarded.plugins[0].basic_auth") || !strings.Contains(why, "users.htpasswd") {
		t.Errorf("/readyz says %v", broken)
	}
	if err := is(g.metric("gatehouse_config_routes_broken"), 1); err != nil {
		t.Error(err)
	}
	g.eventually("the log says why", func() error {
		if log := g.log.String(); !strings.Contains(log, "route=guarded") || !strings.Contains(log, "users.htpasswd") {
			return errors.New(log)
		}
		return nil
	})
	line := g.accessLine("the refusal", func(m map[string]any) bool { return m["path"] == "/guarded" })
	if line["reason"] != "route_broken" || line["flags"] != "RB" || !strings.Contains(fmt.Sprint(line["detail"]), "users.htpasswd") {
		t.Errorf("access log line %v", line)
	}
	// The file is put there; a reload heals the route without a new config.
	writeFile(t, filepath.Join(dir, "users.htpasswd"), "carol:"+bcryptOf(t, "caroling")+"\n")
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	g.eventually("the route is healed", func() error {
		return is(g.get("/guarded", "Authorization", basic("carol", "caroling")).StatusCode, 200)
	})
	if r := g.get("/guarded"); r.StatusCode != 401 {
		t.Errorf("without a password: %s", r.Status)
	}
	g.eventually("that is told", func() error {
		if s := g.status(); s["broken"] != nil || s["error"] != nil {
			return fmt.Errorf("/readyz says %v", s)
		}
		return is(g.metric("gatehouse_config_routes_broken"), 0)
	})
}
