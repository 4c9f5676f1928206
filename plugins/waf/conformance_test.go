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
	plugintest.Run(t, waf.Factory(engine.NewPool(), &sink{}), plugintest.Options{
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
