package ftw_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/corazawaf/coraza-coreruleset/v4/tests"
	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/plugins/waf"
	engine "github.com/gatehouse-proxy/gatehouse/waf"
	"github.com/gatehouse-proxy/gatehouse/waf/ftw"
)

// crsPolicy is the set-up the rule set's own tests are written for: everything
// on, nothing blocked, and the limits on arguments that are off by default.
func crsPolicy() plugins.WAFPolicy {
	p := plugins.WAFPolicy{
		Name: "crs", Mode: "detect", CRS: true, ParanoiaLevel: 4, DetectionParanoiaLevel: 4,
		InboundThreshold: 5, OutboundThreshold: 4, RequestBodyLimit: 1 << 20, BodyOverLimit: "reject",
		ResponseBody: true, ResponseBodyLimit: 512 << 10,
	}
	p.AllowedMethods = []string{"GET", "HEAD", "POST", "OPTIONS"}
	p.AllowedContentTypes = []string{
		"application/x-www-form-urlencoded", "multipart/form-data", "text/xml",
		"application/xml", "application/soap+xml", "application/json",
	}
	p.Patches = []plugins.WAFPatch{{Name: "crs-tests", Rule: `SecAction "id:900005,phase:1,nolog,pass,` +
		`setvar:tx.crs_validate_utf8_encoding=1,setvar:tx.arg_name_length=100,setvar:tx.arg_length=400,` +
		`setvar:tx.total_arg_length=64000,setvar:tx.max_num_args=255,setvar:tx.max_file_size=64100,` +
		`setvar:tx.combined_file_sizes=65535"`}}
	return p
}

// crsUpstream answers as a test's request asks.
func crsUpstream(c *fiber.Ctx) error {
	exchange.From(c).Upstream.Status = 200
	r, err := ftw.Reflect(c.Path(), c.Body())
	if err != nil {
		return c.SendStatus(400)
	}
	c.Set("Content-Type", "text/plain; charset=utf-8") // the tests' own upstream says so
	for _, k := range slices.Sorted(maps.Keys(r.Headers)) {
		c.Set(k, r.Headers[k])
	}
	return c.Status(r.Status).SendString(r.Body)
}

// run sends a test's request through parser, plugin and upstream.
func run(t testing.TB, p *gateway, raw []byte) ftw.Result {
	t.Helper()
	var head wire.Head
	if _, why := head.Parse(raw, &wire.Limits{Head: 64 << 10, Fields: 100, URI: 8 << 10}); why != nil {
		return ftw.Result{Status: why.Status, Log: "refused by the parser: " + why.Name}
	}
	p.log = p.log[:0]
	r := plugintest.Do(t, plugintest.Request{Raw: string(raw)}, p.Handle, crsUpstream)
	return ftw.Result{Status: r.Status, Log: string(p.log)}
}

// gateway is the plugin with its log.
type gateway struct {
	plugins.Instance
	log []byte
}

// Send implements the engine's Sink.
func (g *gateway) Send(e *engine.Event) { g.log = engine.ModSecurity.Append(g.log, e) }

func newGateway(t testing.TB, p plugins.WAFPolicy) *gateway {
	t.Helper()
	g := &gateway{}
	in, err := waf.Factory(engine.NewPool(), g).New(&waf.Config{Policy: p.Name}, plugins.Settings{
		WAF: map[string]plugins.WAFPolicy{p.Name: p},
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Instance = in
	t.Cleanup(func() {
		if err := in.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return g
}

// TestCoreRuleSetAttacks runs the tests of the families that are the heart of
// the rule set. All of them pass, without exception.
func TestCoreRuleSetAttacks(t *testing.T) {
	families, err := ftw.Families(tests.FS, "930", "931", "932", "941", "942")
	if err != nil || len(families) != 5 {
		t.Fatalf("families %v, error %v", families, err)
	}
	p := newGateway(t, crsPolicy())
	for _, dir := range families {
		t.Run(dir, func(t *testing.T) { family(t, p, dir, nil) })
	}
}

// family runs one folder of tests. exempt are those that are known not to pass.
func family(t *testing.T, p *gateway, dir string, exempt map[string]string) {
	cases, err := ftw.Load(tests.FS, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) == 0 {
		t.Fatal("no tests were read")
	}
	for _, c := range cases {
		var wrong []string
		for i, s := range c.Stages {
			if w := s.Want.Check(run(t, p, s.Raw)); w != "" {
				wrong = append(wrong, fmt.Sprintf("stage %d: %s", i+1, w))
			}
		}
		why, known := exempt[c.ID]
		switch {
		case len(wrong) > 0 && !known:
			t.Errorf("%s: %s\n%s", c.ID, strings.Join(wrong, "; "), bytes.TrimSpace(c.Stages[0].Raw))
		case len(wrong) == 0 && known:
			t.Errorf("%s passes now; take it off the list (%s)", c.ID, why)
		}
	}
	t.Logf("%d tests", len(cases))
}
