package waf_test

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/plugins/waf"
	engine "github.com/gatehouse-proxy/gatehouse/waf"
)

const attack = "1' OR '1'='1' -- "

// get is an ordinary GET with one argument.
func get(path, value string) string {
	return "GET " + path + "?q=" + url.QueryEscape(value) + " HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: tests\r\nAccept: */*\r\n\r\n"
}

// send runs one request and returns the reply and the exchange's WAF decision.
func send(t testing.TB, p plugins.Instance, raw string) (plugintest.Reply, exchange.WAFInfo) {
	t.Helper()
	var info exchange.WAFInfo
	r := plugintest.Do(t, plugintest.Request{Raw: raw, After: func(e *exchange.Exchange) {
		info = e.WAF
		info.Rules = slices.Clone(info.Rules)
	}}, p.Handle, plugintest.Upstream)
	return r, info
}

func refused(t testing.TB, r plugintest.Reply, why *reason.Reason) {
	t.Helper()
	if r.Refusal == nil || r.Refusal.Reason != why {
		t.Fatalf("status %d, refusal %v; want %s", r.Status, r.Refusal, why.Name)
	}
}

func passes(t testing.TB, r plugintest.Reply) {
	t.Helper()
	if r.Refusal != nil || r.Status != 200 {
		t.Fatalf("status %d, refusal %v; want 200", r.Status, r.Refusal)
	}
}

func TestBlockMode(t *testing.T) {
	p := newInstance(t, defaultPolicy())
	r, info := send(t, p, get("/items", "blue chair"))
	passes(t, r)
	if info.Policy != "default" || info.Mode != "block" || info.Blocked || info.Rules != nil || info.Score != 0 {
		t.Fatalf("a clean request: %+v", info)
	}
	r, info = send(t, p, get("/items", attack))
	refused(t, r, reason.WAFBlocked)
	if r.Status != 403 || !info.Blocked || info.Score < 5 || !slices.Contains(info.Rules, 942100) {
		t.Fatalf("status %d, %+v", r.Status, info)
	}
	if !strings.Contains(r.Refusal.Detail, "942100") || !strings.Contains(r.Refusal.Detail, "score ") {
		t.Fatalf("detail %q", r.Refusal.Detail)
	}
	if strings.Contains(r.Body, "942100") {
		t.Fatalf("the client is told the rule: %s", r.Body)
	}
	ev := p.sink.all()
	if len(ev) != 1 || ev[0].Action != "blocked" || ev[0].Status != 403 || ev[0].Path != "/items" || ev[0].Client != "192.0.2.1" {
		t.Fatalf("events %+v", ev)
	}
}

func TestDetectMode(t *testing.T) {
	pol := defaultPolicy()
	pol.Mode = "detect"
	p := newInstance(t, pol)
	r, info := send(t, p, get("/items", attack))
	passes(t, r)
	if info.Blocked || info.Mode != "detect" || !slices.Contains(info.Rules, 949110) {
		t.Fatalf("%+v", info)
	}
	if ev := p.sink.all(); len(ev) != 1 || ev[0].Action != "detected" {
		t.Fatalf("events %+v", ev)
	}
	pol.RequestBodyLimit = 1024
	p = newInstance(t, pol)
	r, _ = send(t, p, post("text/plain", strings.Repeat("a", 4096)))
	passes(t, r) // detect mode never refuses, not even a long body
}

func TestOffModeHasNoEngine(t *testing.T) {
	pool := engine.NewPool()
	pol := defaultPolicy()
	f := waf.Factory(pool, nil)
	inst, err := f.New(&waf.Config{Policy: "default", Mode: "off"}, plugins.Settings{WAF: map[string]plugins.WAFPolicy{"default": pol}})
	if err != nil || pool.Len() != 0 {
		t.Fatalf("%d engines, %v", pool.Len(), err)
	}
	r, info := send(t, inst, get("/", attack))
	passes(t, r)
	if info.Policy != "" {
		t.Fatalf("%+v", info)
	}
	if err := inst.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestModeOverridesPolicy(t *testing.T) {
	p := newInstance(t, defaultPolicy(), func(c *waf.Config, _ *plugins.Settings) { c.Mode = "detect" })
	r, info := send(t, p, get("/", attack))
	passes(t, r)
	if info.Mode != "detect" {
		t.Fatalf("%+v", info)
	}
}

func TestUnknownPolicy(t *testing.T) {
	_, err := waf.Factory(engine.NewPool(), nil).New(&waf.Config{Policy: "strict"}, plugins.Settings{
		WAF: map[string]plugins.WAFPolicy{"default": {}, "api": {}},
	})
	if err == nil || err.Error() != `policy: "strict" is not defined; known: api, default` {
		t.Fatal(err)
	}
}

func TestThreshold(t *testing.T) {
	pol := defaultPolicy()
	pol.InboundThreshold = 1000
	p := newInstance(t, pol)
	r, info := send(t, p, get("/", attack))
	passes(t, r)
	if info.Score < 5 || info.Blocked {
		t.Fatalf("%+v", info)
	}
	if ev := p.sink.all(); len(ev) != 1 || ev[0].Action != "matched" {
		t.Fatalf("events %+v", ev)
	}
}

func TestParanoiaLevels(t *testing.T) {
	suspicious := get("/", "a'b\"c;d--e/*f") // too many special characters: from level 2 on
	r, info := send(t, newInstance(t, defaultPolicy()), suspicious)
	passes(t, r)
	if len(info.Rules) != 0 {
		t.Fatalf("level 1: %+v", info)
	}
	pol := defaultPolicy()
	pol.DetectionParanoiaLevel = 3
	r, info = send(t, newInstance(t, pol), suspicious)
	passes(t, r)
	if len(info.Rules) == 0 || info.Score != 0 {
		t.Fatalf("level 1, detection 3: %+v", info)
	}
	pol.ParanoiaLevel = 3
	r, info = send(t, newInstance(t, pol), suspicious)
	refused(t, r, reason.WAFBlocked)
	if info.Score < 5 {
		t.Fatalf("level 3: %+v", info)
	}
}

func method(name string) string {
	return name + " /things/1 HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: tests\r\nAccept: */*\r\nContent-Length: 0\r\n\r\n"
}

func TestMethodsComeFromTheRoute(t *testing.T) {
	for _, c := range []struct {
		name    string
		methods []string
		policy  []string
		want    map[string]bool
	}{
		{"any", nil, nil, map[string]bool{"PATCH": true, "DELETE": true, "PROPFIND": false}},
		{"route", []string{"PATCH", "PROPFIND"}, nil, map[string]bool{"PATCH": true, "PROPFIND": true, "DELETE": false}},
		{"policy", []string{"PATCH"}, []string{"GET"}, map[string]bool{"PATCH": false, "GET": true}},
	} {
		pol := defaultPolicy()
		pol.AllowedMethods = c.policy
		p := newInstance(t, pol, route(c.methods...))
		for m, want := range c.want {
			r, info := send(t, p, method(m))
			if ok := r.Status == 200; ok != want {
				t.Errorf("%s: %s: status %d, %+v", c.name, m, r.Status, info)
			}
		}
	}
}

func TestRoutesShareAnEngine(t *testing.T) {
	pool := engine.NewPool()
	f := waf.Factory(pool, nil)
	var all []plugins.Instance
	for _, m := range [][]string{{"GET"}, {"POST"}, {"GET", "PATCH"}, nil} {
		inst, err := f.New(&waf.Config{Policy: "default"}, plugins.Settings{
			WAF: map[string]plugins.WAFPolicy{"default": defaultPolicy()}, Route: plugins.Route{Methods: m},
		})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, inst)
	}
	if pool.Len() != 1 {
		t.Fatalf("%d engines", pool.Len())
	}
	for i, inst := range all {
		for range 2 { // twice is once
			if err := inst.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		if want := min(len(all)-1-i, 1); pool.Len() != want {
			t.Fatalf("%d engines after %d of %d are closed", pool.Len(), i+1, len(all))
		}
	}
}

func TestExpectIsNoAttack(t *testing.T) {
	p := newInstance(t, defaultPolicy())
	r, info := send(t, p, strings.Replace(post("application/json", `{"a":1}`), "Accept: */*\r\n", "Accept: */*\r\nExpect: 100-continue\r\n", 1))
	passes(t, r)
	if len(info.Rules) != 0 {
		t.Fatalf("%+v", info)
	}
}

func TestContentTypes(t *testing.T) {
	p := newInstance(t, defaultPolicy())
	for kind, want := range map[string]bool{
		"application/json":                          true,
		"application/problem+json":                  true,
		"application/merge-patch+json":              true,
		"application/json-patch+json":               true,
		"application/vnd.github.v3+json":            true,
		"Application/VND.api+json; charset=utf-8":   true,
		"application/vnd.api+jsonx":                 false,
		"application/vnd.ms-excel":                  false,
		"application/x-evil":                        false,
		"text/plain":                                false,
		"application/vnd.a+json, application/x-bad": false,
	} {
		r, info := send(t, p, post(kind, `{"a":1}`))
		if ok := r.Status == 200; ok != want {
			t.Errorf("%s: status %d, %+v", kind, r.Status, info)
		}
	}
	pol := defaultPolicy()
	pol.AllowedContentTypes = []string{"text/plain"}
	p = newInstance(t, pol)
	r, _ := send(t, p, post("text/plain", "hello"))
	passes(t, r)
	r, _ = send(t, p, post("application/json", `{"a":1}`))
	refused(t, r, reason.WAFBlocked)
	r, _ = send(t, p, post("application/vnd.api+json", `{"a":1}`))
	refused(t, r, reason.WAFBlocked)
}

func TestActionsOfRules(t *testing.T) {
	pol := defaultPolicy()
	pol.Rules = `
SecRule ARGS:do "@streq teapot" "id:1,phase:1,deny,status:429,log,msg:'tea'"
SecRule ARGS:do "@streq move"   "id:2,phase:1,redirect:https://other.test/,status:307,log,msg:'moved'"
SecRule ARGS:do "@streq drop"   "id:3,phase:1,drop,log,msg:'dropped'"
SecRule ARGS:do "@streq odd"    "id:4,phase:1,deny,status:200,log,msg:'odd'"
`
	p := newInstance(t, pol)
	do := func(what string) plugintest.Reply {
		r, _ := send(t, p, "GET /?do="+what+" HTTP/1.1\r\nHost: a.test\r\nUser-Agent: tests\r\nAccept: */*\r\n\r\n")
		refused(t, r, reason.WAFBlocked)
		return r
	}
	if r := do("teapot"); r.Status != 429 {
		t.Error(r.Status)
	}
	if r := do("move"); r.Status != 307 || string(r.Header.Peek(fiber.HeaderLocation)) != "https://other.test/" {
		t.Error(r.Status, r.Header.String())
	}
	if r := do("drop"); r.Status != 403 {
		t.Error(r.Status)
	}
	if r := do("odd"); r.Status != 403 {
		t.Error(r.Status)
	}
}
