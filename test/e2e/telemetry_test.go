package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// startNode is start with the node section's access_log replaced.
func startNode(t *testing.T, accessLog, config string) *gatehouse {
	t.Helper()
	g := prepare(t, config)
	g.writeRaw(strings.Replace(g.text(config), "access_log: { path: "+g.access+" }", fmt.Sprintf(accessLog, g.access), 1))
	g.run()
	g.waitReady()
	return g
}

// timestamp is how the access log writes the time of a request.
var timestamp = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z$`)

func TestAccessLogLines(t *testing.T) {
	app := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "sid=upstream-secret")
		fmt.Fprint(w, "four")
	})
	dead := freeAddress(t)
	g := startNode(t, "access_log: { path: %s, headers: [X-Tenant, Cookie, X-Pin], mask: [X-Pin, pin] }", fmt.Sprintf(`upstreams:
  app: { endpoints: [%q] }
  dead: { endpoints: [%q] }
consumers: { alice: { api_keys: ["sha256:%x"] } }
plugins: [{ request_id: {} }]
routes:
  shop: { match: { hosts: [shop.example], path: /v1 }, plugins: [{ api_key: {} }], backends: [{ upstream: app }] }
  dead: { match: { path: /dead }, backends: [{ upstream: dead }] }
`, app, dead, sha256.Sum256([]byte("alice-key"))))

	r := g.do("POST", "/v1//users/?page=2&token=top-secret&pin=the-pin", strings.NewReader("hello"), "Host", "Shop.example",
		"X-API-Key", "alice-key", "User-Agent", "tester/1", "Referer", "https://a.example/?access_token=top-secret",
		"Cookie", "sid=top-secret", "X-Pin", "the-pin", "X-Tenant", "acme")
	if r.StatusCode != 200 {
		t.Fatalf("%s %s", r.Status, r.body)
	}
	g.get("/v1", "Host", "shop.example", "X-API-Key", "top-secret")
	g.get("/dead")
	g.get("/nowhere?a=b")
	g.get("/a%2fb")
	g.raw("GET /top\x01secret HTTP/1.1\r\nHost: a\r\n\r\n")

	for _, c := range []struct {
		path    string
		want    map[string]any // nil: must not be there
		numbers []string       // must be there, above 0
	}{
		{"/v1/users/", map[string]any{
			"client": "127.0.0.1", "listener": "web", "route": "shop", "protocol": "HTTP/1.1", "method": "POST", "scheme": "http",
			"host": "shop.example", "query": "page=2&token=***&pin=***", "status": 200.0, "bytes_in": 5.0, "bytes_out": 4.0,
			"upstream": "app", "endpoint": app, "attempts": 1.0, "upstream_status": 200.0, "reused": false,
			"consumer": "alice", "auth": "api_key", "user_agent": "tester/1", "referer": "https://a.example/?access_token=***",
			"request_id": r.Header.Get("X-Request-ID"), "flags": nil, "reason": nil, "detail": nil,
			"headers": map[string]any{"x-tenant": "acme", "cookie": "***", "x-pin": "***"},
		}, []string{"duration_ms", "upstream_ms"}},
		{"/v1", map[string]any{
			"route": "shop", "status": 401.0, "flags": "UAEX", "reason": "unauthenticated", "step": "api_key", "upstream": nil, "consumer": nil,
		}, []string{"duration_ms", "bytes_out"}},
		{"/dead", map[string]any{
			"route": "dead", "status": 502.0, "flags": "UF", "reason": "upstream_connect_failure", "step": "proxy",
			"upstream": "dead", "endpoint": dead, "upstream_status": nil, "attempts": 2.0,
			"detail": "endpoint " + dead + ": dial tcp " + dead + ": connect: connection refused",
		}, []string{"bytes_out"}},
		{"/nowhere", map[string]any{
			"route": "none", "query": "a=b", "status": 404.0, "flags": "NR", "reason": "no_route", "upstream": nil,
		}, nil},
		{"/a%2fb", map[string]any{
			"listener": "web", "route": nil, "status": 400.0, "flags": "DPE", "reason": "ambiguous_path", "step": "dispatch",
		}, nil},
		{"/top\x01secret", map[string]any{
			"listener": "web", "client": "127.0.0.1", "method": "GET", "status": 400.0, "flags": "DPE", "reason": "bad_target", "step": "parser", "route": nil,
		}, nil},
	} {
		line := g.accessLine(c.path, func(m map[string]any) bool { return m["path"] == c.path })
		for k, want := range c.want {
			if got := line[k]; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %s is %v, want %v", c.path, k, got, want)
			}
		}
		for _, k := range c.numbers {
			if n, _ := line[k].(float64); n <= 0 {
				t.Errorf("%s: %s is %v", c.path, k, line[k])
			}
		}
		if !timestamp.MatchString(fmt.Sprint(line["time"])) {
			t.Errorf("%s: time %v", c.path, line["time"])
		}
	}
	b, err := os.ReadFile(g.access)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"top-secret", "the-pin", "alice-key", "upstream-secret", "\x01"} {
		if bytes.Contains(b, []byte(secret)) {
			t.Errorf("%q is in the access log", secret)
		}
	}
	if n := bytes.Count(b, []byte("\n")); n != 6 {
		t.Errorf("%d lines for 6 requests", n)
	}
}

func TestConsoleAccessLogCannotBeFaked(t *testing.T) {
	g := startNode(t, "access_log: { path: %s, format: console }", fixedConfig)
	g.get("/fixed?x=%0a%0dfake%1b[2J", "User-Agent", "evil \u009b31m \u2028")
	g.get("/fixed/%0a%1b[2J")
	g.eventually("two lines", func() error {
		b, err := os.ReadFile(g.access)
		if err != nil {
			return err
		}
		if n := bytes.Count(b, []byte("\n")); n != 2 || bytes.ContainsAny(b, "\x1b\r\u009b\u2028\u202e") || !bytes.Contains(b, []byte("/fixed/%0a%1b[2J")) {
			return fmt.Errorf("%q", b)
		}
		return nil
	})
}

// Log files are moved away under load, as logrotate does; no line is lost or
// written twice.
func TestLogRotation(t *testing.T) {
	g := start(t, strings.Replace(fixedConfig, "/fixed", "/", 1))
	load := busy(g, 4)
	var files []string
	for i, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGHUP, syscall.SIGUSR1} {
		g.eventually("something is in the log", func() error {
			st, err := os.Stat(g.access)
			if err == nil && st.Size() == 0 {
				err = fmt.Errorf("it is empty")
			}
			return err
		})
		old := fmt.Sprintf("%s.%d", g.access, i)
		if err := os.Rename(g.access, old); err != nil {
			t.Fatal(err)
		}
		files = append(files, old)
		if err := g.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		g.eventually("a new file is begun", func() error {
			_, err := os.Stat(g.access)
			return err
		})
	}
	requests, failed, first := load.stop()
	if failed > 0 {
		t.Errorf("%d requests failed, the first: %v", failed, first)
	}
	var dropped int64 // on a busy machine
	g.eventually("all lines are written or dropped", func() error {
		dropped = int64(g.metric(`gatehouse_accesslog_lines_total{result="dropped"}`))
		return is(int64(g.metric(`gatehouse_accesslog_lines_total{result="written"}`))+dropped, requests)
	})
	g.stop()
	lines := int64(0)
	for _, f := range append(files, g.access) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			if !json.Valid(line) {
				t.Fatalf("%s: %q", filepath.Base(f), line)
			}
			lines++
		}
	}
	if lines+dropped != requests {
		t.Errorf("%d lines for %d requests, %d were dropped", lines, requests, dropped)
	}
}

func TestMetricsValues(t *testing.T) {
	app := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprint(w, "0123456789")
	})
	g := start(t, fmt.Sprintf(`upstreams: { app: { endpoints: [%q], circuit_breaker: { max_requests: 100 } } }
routes: { all: { match: { path: /, methods: [GET, POST] }, backends: [{ upstream: app }] } }
`, app))
	for range 7 {
		g.do("POST", "/", strings.NewReader("abc"))
	}
	g.get("/missing")
	for series, want := range map[string]float64{
		`gatehouse_route_requests_total{code="200",route="all"}`:                                    7,
		`gatehouse_route_requests_total{code="404",route="all"}`:                                    1,
		`gatehouse_route_request_duration_seconds_count{route="all"}`:                               8,
		`gatehouse_route_request_duration_seconds_bucket{route="all",le="+Inf"}`:                    8,
		`gatehouse_route_request_body_bytes_total{route="all"}`:                                     21,
		`gatehouse_route_response_body_bytes_total{route="all"}`:                                    80,
		`gatehouse_route_requests_in_flight`:                                                        0,
		`gatehouse_upstream_responses_total{code="200",upstream="app"}`:                             7,
		`gatehouse_upstream_responses_total{code="404",upstream="app"}`:                             1,
		fmt.Sprintf(`gatehouse_upstream_tries_total{endpoint=%q,outcome="ok",upstream="app"}`, app): 8,
		series("gatehouse_upstream_requests_in_flight", "app", app):                                 0,
		series("gatehouse_upstream_connections_open", "app", app):                                   1,
		series("gatehouse_upstream_connects_total", "app", app):                                     1,
		series("gatehouse_upstream_connect_failures_total", "app", app):                             0,
		series("gatehouse_upstream_endpoint_healthy", "app", app):                                   1,
		`gatehouse_upstream_overflow_total{limit="requests",upstream="app"}`:                        0,
		`gatehouse_config_revision_number`:                                                          1,
		`gatehouse_config_last_reload_successful`:                                                   1,
		`gatehouse_accesslog_lines_total{result="dropped"}`:                                         0,
		`gatehouse_node_panics_total`:                                                               0,
	} {
		g.eventually(series, func() error { return is(g.metric(series), want) })
	}
	_, page := g.adminGet("/metrics", "")
	for _, part := range []string{"\ngo_goroutines ", "\nprocess_open_fds ", "\nprocess_resident_memory_bytes ", "# HELP gatehouse_route_requests_total ", "\ngatehouse_build_info{"} {
		if !strings.Contains(page, part) {
			t.Errorf("%q is not there", part)
		}
	}
	// Nothing a client sends makes a new series, once its kind has been seen.
	odd := func(i int) {
		g.get(fmt.Sprintf("/path/%d?q=%d", i, i), "Host", fmt.Sprintf("h%d.example", i), "User-Agent", fmt.Sprint("ua", i))
		g.do("DELETE", fmt.Sprintf("/%d", i), nil)
		g.raw(fmt.Sprintf("M%d / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", i))
	}
	odd(0)
	g.eventually("all of them are counted", func() error {
		return errors.Join(is(g.sum("gatehouse_route_requests_total"), 8+2), is(g.sum("gatehouse_route_refusals_total"), 2))
	})
	count := func() int {
		_, page := g.adminGet("/metrics", "")
		return strings.Count(page, "\ngatehouse_")
	}
	before := count()
	for i := range 100 {
		odd(i)
	}
	if after := count(); after != before {
		t.Errorf("%d series became %d", before, after)
	}
}

func TestAdminAddress(t *testing.T) {
	g := start(t, fixedConfig)
	token := g.token()
	st, err := os.Stat(filepath.Join(g.dataDir, "admin.token"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("token file: %v, %v", st.Mode(), err)
	}
	for _, c := range []struct {
		path, token string
		status      int
		has         string
	}{
		{"/healthz", "", 200, "ok\n"},
		{"/readyz", "", 200, `"ready": true`},
		{"/metrics", "", 200, "gatehouse_build_info"},
		{"/debug/pprof/", "", 401, "admin.token"},
		{"/debug/pprof/heap", "", 401, "admin.token"},
		{"/debug/pprof/cmdline", token[:len(token)-1], 401, ""},
		{"/debug/pprof/profile", "Bearer", 401, ""},
		{"/debug/pprof/", token, 200, "goroutine"},
		{"/debug/pprof/heap?debug=1", token, 200, "heap profile"},
		{"/api/v1/status", "", 401, ""},
		{"/api/v1/status", token, 200, `"digest"`},
		{"/fixed", token, 404, ""},
		{"/", "", 404, ""},
	} {
		status, body := g.adminGet(c.path, c.token)
		if status != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%s with token %q: %d %.200q, want %d with %q", c.path, c.token, status, body, c.status, c.has)
		}
	}
	// The address for traffic has none of it.
	for _, path := range []string{"/metrics", "/healthz", "/debug/pprof/"} {
		if r := g.get(path); r.StatusCode != 404 || !strings.Contains(r.body, "no_route") {
			t.Errorf("%s at the address for traffic: %s", path, r.Status)
		}
	}
	g.stop()
	// Profiles are off unless switched on; the token stays.
	g.writeRaw(strings.Replace(g.text(fixedConfig), ", pprof: true", "", 1))
	g.run()
	g.waitReady()
	if again := g.token(); again != token {
		t.Error("the token has changed")
	}
	if status, _ := g.adminGet("/debug/pprof/", token); status != 404 {
		t.Errorf("profiles, switched off: %d", status)
	}
}
