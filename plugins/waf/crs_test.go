package waf_test

import (
	"bytes"
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
	engine "github.com/gatehouse-proxy/gatehouse/waf"
	"github.com/gatehouse-proxy/gatehouse/waf/ftw"
)

// crsPolicy is the set-up the rule set's own tests are written for: everything
// on, nothing blocked, and the limits on arguments that are off by default.
func crsPolicy() plugins.WAFPolicy {
	p := defaultPolicy()
	p.Mode, p.ParanoiaLevel, p.DetectionParanoiaLevel = "detect", 4, 4
	p.ResponseBody = true
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

// runCRS sends a test's request through parser, plugin and upstream.
func runCRS(t testing.TB, p *instance, raw []byte) ftw.Result {
	t.Helper()
	var head wire.Head
	if _, why := head.Parse(raw, &wire.Limits{Head: 64 << 10, Fields: 100, URI: 8 << 10}); why != nil {
		return ftw.Result{Status: why.Status, Log: "refused by the parser: " + why.Name}
	}
	p.sink.reset()
	r := plugintest.Do(t, plugintest.Request{Raw: string(raw)}, p.Handle, crsUpstream)
	var log []byte
	for _, e := range p.sink.all() {
		log = engine.ModSecurity.Append(log, e)
	}
	return ftw.Result{Status: r.Status, Log: string(log)}
}

// exempt are the tests that are not passed, and why. Everything else in the
// families below must pass.
var exempt = map[string]string{}

func TestCoreRuleSetRegression(t *testing.T) {
	families, err := ftw.Families(tests.FS, "930", "931", "932", "941", "942")
	if err != nil || len(families) != 5 {
		t.Fatalf("families %v, error %v", families, err)
	}
	p := newInstance(t, crsPolicy())
	for _, dir := range families {
		t.Run(dir, func(t *testing.T) { family(t, p, dir) })
	}
}

func family(t *testing.T, p *instance, dir string) {
	cases, err := ftw.Load(tests.FS, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) < 20 {
		t.Fatalf("only %d tests were read", len(cases))
	}
	for _, c := range cases {
		var wrong []string
		for i, s := range c.Stages {
			if w := s.Want.Check(runCRS(t, p, s.Raw)); w != "" {
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
