package compile_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

func TestStatusRanges(t *testing.T) {
	for in, want := range map[string][]upstream.StatusRange{
		"200":               {{From: 200, To: 200}},
		"200-299":           {{From: 200, To: 299}},
		"200, 204 ,301-302": {{From: 200, To: 200}, {From: 204, To: 204}, {From: 301, To: 302}},
	} {
		if got := compile.StatusRanges(in); !slices.Equal(got, want) {
			t.Errorf("%q: got %v", in, got)
		}
	}
}

func TestEveryTryIsCountedAsWhatItWas(t *testing.T) {
	for _, c := range []struct {
		failure upstream.Failure
		status  int
		want    metrics.Outcome
	}{
		{upstream.NoFailure, 200, metrics.OK},
		{upstream.NoFailure, 404, metrics.OK},
		{upstream.NoFailure, 500, metrics.ServerError},
		{upstream.NoFailure, 599, metrics.ServerError},
		{upstream.FailedConnect, 0, metrics.ConnectFailure},
		{upstream.FailedTLS, 0, metrics.TLSFailure},
		{upstream.FailedReset, 0, metrics.Reset},
		{upstream.FailedTimeout, 0, metrics.Timeout},
		{upstream.FailedProtocol, 200, metrics.ProtocolError},
		{upstream.NotTried, 0, metrics.Canceled},
	} {
		if got := compile.Outcome(&proxy.Try{Failure: c.failure, Status: c.status}); got != c.want {
			t.Errorf("failure %v, status %d: got %v, want %v", c.failure, c.status, got, c.want)
		}
	}
}

func TestDigestTellsWhenItCannot(t *testing.T) {
	type hidden struct{ f int }
	for name, v := range map[string]any{
		"function":       func() {},
		"hidden field":   struct{ X hidden }{hidden{1}},
		"keys not text":  map[int]string{1: "a"},
		"deep in a list": []any{"fine", &hidden{2}},
	} {
		if compile.Digest(v) != "" {
			t.Errorf("%s: it looks like any other", name)
		}
	}
	if compile.Digest("ab", "c") == compile.Digest("a", "bc") || compile.Digest([]string{"a"}, []string{}) == compile.Digest([]string{}, []string{"a"}) {
		t.Error("values run into each other")
	}
	if compile.Digest(config.Upstream{}, config.Consumer{}, config.WAF{}, config.Route{}) == "" {
		t.Error("the config's own types cannot be compared")
	}
	day := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	if compile.Digest(day) == "" || compile.Digest(day) == compile.Digest(day.Add(1)) {
		t.Error("times are not told apart")
	}
}

// seen is what a plugin is given.
type seen struct{ s *plugins.Settings }

func (x seen) factory() plugins.Factory {
	return plugins.Define("seen", func(_ *struct{}, s plugins.Settings) (plugins.Instance, error) {
		*x.s = s
		return plugins.Stateless(func(c *fiber.Ctx) error { return c.Next() }), nil
	})
}

func buildSeen(t *testing.T, f plugins.Factory, text string) {
	t.Helper()
	w := newWorld(t)
	w.kinds[f.Name] = f.Config
	c, src, err := config.Parse([]byte(web+text), "x.yaml", w.kinds, config.Options{Dir: w.dir})
	if err != nil {
		t.Fatal(err)
	}
	compiler, err := compile.New(compile.Settings{Plugins: []plugins.Factory{f}, Log: discard, Metrics: w.metrics})
	if err != nil {
		t.Fatal(err)
	}
	defer compiler.Close()
	r, err := compiler.Build(t.Context(), c, src, nil, compile.DryRun)
	if err != nil {
		t.Fatal(err)
	}
	r.Snapshot.Release()
	<-r.Snapshot.Retired()
}

const everything = `
consumers:
  alice: { api_keys: ["sha256:AA"], groups: [staff], metadata: { plan: gold }, basic_auth: { password_hash: "$2b$12$............................................." } }
  bob: { basic_auth: { username: robert, password_hash: "$2b$12$............................................." } }
waf:
  policies: { strict: { paranoia_level: 3, exclusions: [{ rules: ["942100"], targets: ["ARGS:q"] }] } }
  patches: { p1: { rule: 'SecRule ARGS "@contains x" "id:1,deny"', expires: 2026-12-31 } }
routes:
  r: { match: { hosts: [a.test], path: { prefix: /v1 }, methods: [GET] }, plugins: [{ seen: {} }], respond: {} }
`

func TestWhatPluginsAreGiven(t *testing.T) {
	text := strings.Replace(everything, "sha256:AA", "sha256:"+strings.Repeat("0a", 32), 1)
	text = strings.ReplaceAll(text, "$2b$12$.............................................", "$2b$12$"+strings.Repeat("a", 53))
	var s plugins.Settings
	buildSeen(t, seen{&s}.factory(), text)
	if s.Consumers != nil || s.WAF != nil {
		t.Error("a plugin was given what it has not asked for")
	}
	if s.Route.Name != "r" || s.Route.Path != "/v1*" || !slices.Equal(s.Route.Hosts, []string{"a.test"}) || !slices.Equal(s.Route.Methods, []string{"GET"}) {
		t.Errorf("route: %+v", s.Route)
	}
	if s.Dir == "" || s.Log == nil || s.Metrics == nil {
		t.Errorf("settings: %+v", s)
	}
	buildSeen(t, seen{&s}.factory().NeedsConsumers().NeedsWAF(), text)
	alice := s.Consumers.ByName("alice")
	if alice == nil || alice.Metadata["plan"] != "gold" || len(alice.APIKeys) != 1 || alice.APIKeys[0][31] != 0x0a {
		t.Errorf("alice: %+v", alice)
	}
	if b := s.Consumers.ByName("bob"); b == nil || b.Username != "robert" {
		t.Errorf("bob: %+v", b)
	}
	d, p := s.WAF["default"], s.WAF["strict"]
	var c config.WAFPolicy // the policy "default" is there without being written
	if err := strict.Unmarshal([]byte("{}"), &c); err != nil {
		t.Fatal(err)
	}
	if d.Mode != c.Mode || !d.CRS || d.ParanoiaLevel != c.ParanoiaLevel || d.InboundThreshold != c.InboundThreshold || d.RequestBodyLimit != int64(c.RequestBodyLimit) {
		t.Errorf("default: %+v", d)
	}
	if p.ParanoiaLevel != 3 || p.DetectionParanoiaLevel != 3 || len(p.Exclusions) != 1 || p.Exclusions[0].Targets[0] != "ARGS:q" {
		t.Errorf("strict: %+v", p)
	}
	for name, policy := range s.WAF {
		if policy.Name != name || len(policy.Patches) != 1 || policy.Patches[0].Name != "p1" {
			t.Errorf("%s: patches %+v", name, policy.Patches)
			continue
		}
		if want := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC); !policy.Patches[0].Expires.Equal(want) {
			t.Errorf("%s: the patch ends %v; its last day counts", name, policy.Patches[0].Expires)
		}
	}
}

func TestUpstreamStatus(t *testing.T) {
	a := newService(t, "a")
	w := newWorld(t)
	w.apply(web + `
upstreams: { app: { endpoints: ["` + a.address + `"] }, other: { endpoints: ["127.0.0.1:1"] } }
routes: { r: { backends: [{ upstream: app }] } }
`)
	s := compile.UpstreamStatus(w.gateway.Current())
	if len(s) != 2 || len(s["app"].Endpoints) != 1 || s["app"].Endpoints[0].Address != a.address {
		t.Errorf("got %+v", s)
	}
}
