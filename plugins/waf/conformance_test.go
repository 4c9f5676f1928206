package waf_test

import (
	"testing"

	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/plugins/waf"
	engine "github.com/gatehouse-proxy/gatehouse/waf"
)

func TestConformance(t *testing.T) {
	off := defaultPolicy()
	off.Name, off.Mode = "off", "off"
	pool := engine.NewPool()
	kept, err := pool.Guard(defaultPolicy(), plugins.Route{Name: "test"}) // else the engine is built anew each time
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := kept.Close(); err != nil || pool.Len() != 0 {
			t.Errorf("%v, %d engines left open", err, pool.Len())
		}
	}()
	plugintest.Run(t, waf.Factory(pool, &sink{}), plugintest.Options{
		Good: []string{"{}", "{mode: detect}", "{policy: default, mode: block}", "{policy: 'off'}"},
		Bad: []plugintest.Bad{
			{YAML: "policy: strict", Want: `policy: "strict" is not defined; known: default, off`},
			{YAML: "mode: maybe", Want: "mode"},
		},
		Settings: plugins.Settings{WAF: map[string]plugins.WAFPolicy{"default": defaultPolicy(), "off": off}},
		Request:  plugintest.Request{Raw: get("/v1/users", "alice")},
		Allocs:   4500,
	})
}

func TestOffCostsNothing(t *testing.T) {
	in, err := waf.Factory(engine.NewPool(), nil).New(&waf.Config{Policy: "default", Mode: "off"},
		plugins.Settings{WAF: map[string]plugins.WAFPolicy{"default": defaultPolicy()}})
	if err != nil {
		t.Fatal(err)
	}
	if n := plugintest.Allocs(t, plugintest.Request{Raw: get("/", "x")}, in.Handle); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
