package compile_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
)

const web = "listeners: { web: { address: '127.0.0.1:0' } }\n"

func (w *world) want(path string, status int, body string) {
	w.t.Helper()
	if got, text := w.get(path); got != status || body != "" && text != body {
		w.t.Errorf("%s: got %d %q, want %d %q", path, got, text, status, body)
	}
}

// kept lists the units of after that are those of before.
func kept[U comparable](before, after map[string]U) (same, fresh []string) {
	for key, u := range after {
		if old, ok := before[key]; ok && old == u {
			same = append(same, key)
		} else {
			fresh = append(fresh, key)
		}
	}
	slices.Sort(same)
	slices.Sort(fresh)
	return same, fresh
}

func TestLimitsAreKeptWhenSomethingElseChanges(t *testing.T) {
	w := newWorld(t)
	text := web + `
routes:
  limited:
    match: { path: /limited }
    plugins: [%s{ rate_limit: { limit: %d, per: 1h } }]
    respond: { body: limited }
  other:
    match: { path: /other }
    respond: { body: %s }
`
	w.apply(fmt.Sprintf(text, "", 1, "one"))
	w.want("/limited", 200, "limited")
	w.want("/limited", 429, "")
	w.apply(fmt.Sprintf(text, "", 1, "two"))
	w.want("/other", 200, "two")
	w.want("/limited", 429, "") // the bucket is still empty
	w.apply(fmt.Sprintf(text, "{ request_id: {} }, ", 1, "two"))
	w.want("/limited", 429, "") // and with a plugin put before it
	w.apply(fmt.Sprintf(text, "{ request_id: {} }, ", 2, "two"))
	w.want("/limited", 200, "") // another limit is another bucket
}

func TestTwoPluginsOfOneNameKeepTheirOwnState(t *testing.T) {
	w := newWorld(t)
	text := web + `
routes:
  r:
    plugins:
      - probe: { name: first }
      - probe: { name: %s }
    respond: {}
`
	w.apply(fmt.Sprintf(text, "second"))
	before := w.units()
	if len(before) != 2 {
		t.Fatalf("units: %v", slices.Sorted(maps.Keys(before)))
	}
	w.apply(fmt.Sprintf(text, "changed"))
	same, fresh := kept(before, w.units())
	if len(same) != 1 || len(fresh) != 1 {
		t.Errorf("kept %v, new %v", same, fresh)
	}
	if got := w.diary.String(); got != "made map[changed:1 first:1 second:1] started map[changed:1 first:1 second:1] closed map[second:1]" {
		t.Error(got)
	}
}

func TestUpstreamConnectionsSurviveReloads(t *testing.T) {
	a, b := newService(t, "a"), newService(t, "b")
	w := newWorld(t)
	text := web + `
upstreams:
  app: { endpoints: ["%s"%s] }
routes:
  app:
    match: { path: / }
    timeouts: { request: %s }
    backends: [{ upstream: app }]
`
	w.apply(fmt.Sprintf(text, a.address, "", "1m"))
	w.want("/x", 200, "a /x")
	before := w.units()
	w.apply(fmt.Sprintf(text, a.address, "", "2m"))
	w.want("/x", 200, "a /x")
	if same, fresh := kept(before, w.units()); !slices.Equal(same, []string{"upstream/app"}) || !slices.Equal(fresh, []string{"proxy/app"}) {
		t.Errorf("another timeout: kept %v, new %v", same, fresh)
	}
	if n := a.connections(); n != 1 {
		t.Errorf("another timeout: %d connections, want the one from before", n)
	}
	w.apply(fmt.Sprintf(text, a.address, `, { address: "`+b.address+`", priority: 1 }`, "2m"))
	w.want("/x", 200, "a /x")
	if n := a.connections(); n != 1 {
		t.Errorf("another endpoint: %d connections, want the one from before", n)
	}
	bad := strings.Replace(fmt.Sprintf(text, a.address, "", "3m"), "    match:", "    plugins: [{ probe: { name: x, fail: start } }]\n    match:", 1)
	if _, err := w.build(bad, compile.AllOrNothing); err == nil {
		t.Fatal("it can be built")
	}
	w.want("/x", 200, "a /x")
	if n := a.connections(); n != 1 {
		t.Errorf("a build that was thrown away: %d connections, want the one from before", n)
	}
}

func TestPluginsAreRebuiltForWhatTheyDependOn(t *testing.T) {
	w := newWorld(t)
	text := func(group, mode, event string) string {
		return web + `
consumers: { alice: { api_keys: ["sha256:` + strings.Repeat("ab", 32) + `"], groups: [` + group + `] } }
waf:
  policies: { default: { crs: false, mode: ` + mode + ` } }
plugins:
  - probe: { name: global }
routes:
  r:
    plugins:
      - api_key: {}
      - waf: {}
      - rate_limit: { limit: 5, per: 1s }
    respond: { body: "` + event + `" }
`
	}
	w.apply(text("staff", "block", "x"))
	for _, c := range []struct {
		what, text string
		fresh      []string
	}{
		{"a route's own text", text("staff", "block", "y"), nil},
		{"a consumer", text("guests", "block", "y"), []string{"plugin/routes.r.plugins/api_key/0"}},
		{"a policy", text("guests", "detect", "y"), []string{"plugin/routes.r.plugins/waf/0"}},
		{
			"what the route matches", strings.Replace(text("guests", "detect", "y"), "    plugins:\n      - api", "    match: { path: /new }\n    plugins:\n      - api", 1),
			[]string{"plugin/routes.r.plugins/api_key/0", "plugin/routes.r.plugins/rate_limit/0", "plugin/routes.r.plugins/waf/0"},
		},
	} {
		before := w.units()
		w.apply(c.text)
		if same, fresh := kept(before, w.units()); !slices.Equal(fresh, c.fresh) {
			t.Errorf("%s: new are %v, want %v; kept %v", c.what, fresh, c.fresh, same)
		}
	}
	if got := w.diary.String(); got != "made map[global:1] started map[global:1] closed map[]" {
		t.Error(got)
	}
}

func TestABuildThatFailsLeavesNothingBehind(t *testing.T) {
	a := newService(t, "a")
	w := newWorld(t)
	text := web + `
upstreams:
  app: { endpoints: ["` + a.address + `"], health_check: { interval: 1h, timeout: 1m } }
routes:
  a: { match: { path: /a }, plugins: [{ probe: { name: kept } }], backends: [{ upstream: app }] }
`
	w.apply(text)
	w.want("/a", 200, "a /a")
	before := w.units()
	for _, where := range []string{"new", "start"} {
		r, err := w.build(text+`
  b: { match: { path: /b }, plugins: [{ probe: { name: `+where+`-before } }], backends: [{ upstream: app }] }
  c:
    match: { path: /c }
    plugins:
      - probe: { name: broken-`+where+`, fail: `+where+` }
    backends: [{ upstream: app }]
  d: { match: { path: /d }, plugins: [{ probe: { name: `+where+`-after } }], backends: [{ upstream: app }] }
`, compile.AllOrNothing)
		if err == nil || r != nil {
			t.Fatalf("%s: got %v, %v", where, r, err)
		}
		what := map[string]string{"new": "cannot be made", "start": "cannot be started"}[where]
		if want := "gatehouse.yaml:12:9: routes.c.plugins[0].probe: " + what; err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
	w.diary.mu.Lock()
	for name, n := range w.diary.made {
		if name != "kept" && w.diary.closed[name] != n {
			t.Errorf("%s was made %d times and closed %d times", name, n, w.diary.closed[name])
		}
	}
	w.diary.mu.Unlock()
	if _, fresh := kept(before, w.units()); len(fresh) > 0 {
		t.Errorf("running are now %v", fresh)
	}
	w.want("/a", 200, "a /a")
	if n := a.connections(); n > 2 { // one for requests, one for the probe
		t.Errorf("%d connections: the running ones were touched", n)
	}
}

func TestAStartServesTheRest(t *testing.T) {
	w := newWorld(t)
	text := web + `
routes:
  fine: { match: { path: /fine }, plugins: [{ probe: { name: fine } }], respond: { body: fine } }
  unmade: { match: { path: /unmade }, plugins: [{ probe: { name: a, fail: new } }], respond: { body: open } }
  unstarted: { match: { path: /unstarted }, plugins: [{ probe: { name: b, fail: start } }], respond: { body: open } }
`
	r := w.applyAs(text, compile.ServeTheRest)
	want := map[string]string{
		"unmade":    "routes.unmade.plugins[0].probe: cannot be made",
		"unstarted": "routes.unstarted.plugins[0].probe: cannot be started",
	}
	if !maps.Equal(r.Broken, want) {
		t.Errorf("broken: %v", r.Broken)
	}
	w.want("/fine", 200, "fine")
	for _, path := range []string{"/unmade", "/unstarted"} {
		if status, body := w.get(path); status != 503 || !strings.Contains(body, "route_broken") || strings.Contains(body, "cannot") {
			t.Errorf("%s: got %d %s", path, status, body)
		}
	}
	if _, err := w.build(text, compile.AllOrNothing); err == nil {
		t.Error("a reload takes what a start only serves broken")
	}
	// A unit that could not be started is not taken over, whatever its config.
	w.diary.mended = true
	text = strings.Replace(text, "fail: new", "fail: start", 1)
	if r := w.apply(text); len(r.Broken) != 0 {
		t.Errorf("still broken: %v", r.Broken)
	}
	w.want("/unstarted", 200, "open")
	if w.diary.closed["b"] == 0 || w.diary.closed["fine"] != 0 {
		t.Error(w.diary)
	}
}

func TestABrokenGlobalPluginOpensNothing(t *testing.T) {
	w := newWorld(t)
	r := w.applyAs(web+`
plugins: [{ probe: { name: a, fail: start } }]
routes:
  guarded: { match: { path: /guarded }, respond: { body: open } }
  alone: { match: { path: /alone }, skip_global_plugins: true, respond: { body: alone } }
`, compile.ServeTheRest)
	if got := slices.Sorted(maps.Keys(r.Broken)); !slices.Equal(got, []string{"guarded", "none"}) {
		t.Errorf("broken: %v", r.Broken)
	}
	w.want("/guarded", 503, "")
	w.want("/nowhere", 503, "") // probing for routes is not open either
	w.want("/alone", 200, "alone")
}

func TestADryRunStartsNothing(t *testing.T) {
	a := newService(t, "a")
	w := newWorld(t)
	r, err := w.build(web+`
upstreams: { app: { endpoints: ["`+a.address+`"], health_check: { interval: 100ms, timeout: 100ms } } }
plugins: [{ probe: { name: a, fail: start } }, { request_id: {} }]
routes: { all: { match: { path: / }, plugins: [{ waf: {} }], backends: [{ upstream: app, weight: 3 }] } }
`, compile.DryRun)
	if err != nil {
		t.Fatal(err)
	}
	p := r.Plans["all"]
	if !slices.Equal(p.Steps, []string{"probe", "request_id", "waf"}) || p.Action != "forward to app (weight 3)" || !slices.Equal(p.Upstreams, []string{"app"}) {
		t.Errorf("plan: %+v", p)
	}
	if !slices.Equal(r.Routes, []string{"all", "none"}) || !slices.Equal(r.Upstreams, []string{"app"}) || !slices.Equal(r.Listeners, []string{"web"}) {
		t.Errorf("names: %v %v %v", r.Routes, r.Upstreams, r.Listeners)
	}
	r.Snapshot.Release()
	<-r.Snapshot.Retired()
	if got := w.diary.String(); got != "made map[a:1] started map[] closed map[a:1]" {
		t.Error(got)
	}
	if n := a.connections(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
	if _, err := w.build(web+`
routes: { r: { plugins: [{ probe: { name: a, fail: new } }], respond: {} } }
`, compile.DryRun); err == nil {
		t.Error("a dry run does not report like a reload")
	}
}

func TestListenersOnPortsOfTheSystemsChoice(t *testing.T) {
	w := newWorld(t)
	text := `
listeners: { a: { address: "127.0.0.1:0" }, b: { address: "127.0.0.1:0" }, web: { address: "127.0.0.1:0" } }
routes:
  a: { match: { listeners: [a], path: /a }, respond: { body: a } }
  rest: { match: { path: /rest }, respond: { body: rest%s } }
`
	w.apply(fmt.Sprintf(text, ""))
	before := w.gateway.Addresses()
	if len(before) != 3 || before["a"].String() == before["b"].String() {
		t.Fatalf("addresses: %v", before)
	}
	w.apply(fmt.Sprintf(text, " again"))
	for name, a := range w.gateway.Addresses() {
		if before[name].String() != a.String() {
			t.Errorf("%s moved from %s to %s", name, before[name], a)
		}
	}
	w.want("/rest", 200, "rest again")
}

func TestTwoPluginsOfOneNameAreRefused(t *testing.T) {
	d := &diary{}
	s := compile.Settings{}
	s.Plugins = append(s.Plugins, d.factory(), d.factory())
	if _, err := compile.New(s); err == nil || !strings.Contains(err.Error(), `"probe"`) {
		t.Errorf("got %v", err)
	}
}
