package cmd

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/admin"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// ofAdvice has consumers with each kind of credential. PLUGINS are the route's.
const ofAdvice = `listeners: { web: { address: "127.0.0.1:0" } }
consumers:
  key: { api_keys: ["sha256:KEY"], groups: [staff] }
  old: { api_keys: ["sha256:OLD"], plan: gone }
  rich: { api_keys: ["sha256:RICH"], basic_auth: { password_hash: "$2b$10$abcdefghijklmnopqrstuuTPn9TzKIUIWCPpmHAc.KXHM0EPoGpZm" }, plan: gold }
  pass: { basic_auth: { password_hash: "$2b$10$abcdefghijklmnopqrstuuTPn9TzKIUIWCPpmHAc.KXHM0EPoGpZm" } }
  cert: { certificates: { subjects: ["CN=cert"] } }
  name: {}
plugins: [GLOBAL]
routes:
  r:
    respond: { body: x }
    plugins: [PLUGINS]
`

// TestAdviceAboutPlans: check tells whom a quota would always refuse, as far as
// the config knows.
func TestAdviceAboutPlans(t *testing.T) {
	config := func(global, list string) string {
		sum := func(c string) string { return strings.Repeat(c, 64) }
		return strings.NewReplacer("KEY", sum("a"), "OLD", sum("b"), "RICH", sum("c"), "GLOBAL", global, "PLUGINS", list).Replace(ofAdvice)
	}
	const quota = "quota: { plans: { gold: { day: 1 } } }"
	for _, c := range []struct {
		global, list string
		path         string // of the quota's plans
		want         string // consumers; empty: nothing is said
	}{
		{"", "{ api_key: {} }, { " + quota + " }", "routes.r.plugins[1].quota.plans", `key (no plan), old (plan "gone")`},
		{"{ api_key: {} }", "{ " + quota + " }", "routes.r.plugins[0].quota.plans", `key (no plan), old (plan "gone")`},
		{"{ api_key: {} }, { " + quota + " }", "", "plugins[1].quota.plans", `key (no plan), old (plan "gone")`},
		{"", "{ basic_auth: {} }, { " + quota + " }", "routes.r.plugins[1].quota.plans", "pass (no plan)"},
		{"", "{ client_certificate: {} }, { " + quota + " }", "routes.r.plugins[1].quota.plans", "cert (no plan)"},
		// The last that finds somebody decides.
		{"{ api_key: {} }", "{ basic_auth: {} }, { " + quota + " }", "routes.r.plugins[1].quota.plans", "pass (no plan)"},
		{"{ api_key: {} }", "{ basic_auth: { anonymous: true } }, { " + quota + " }", "routes.r.plugins[1].quota.plans", `key (no plan), old (plan "gone"), pass (no plan)`},
		{"{ api_key: {} }", "{ jwt: { jwks_file: k.json, any_audience: true } }, { " + quota + " }", "", ""},
		{"", "{ api_key: { groups: [staff, other] } }, { " + quota + " }", "routes.r.plugins[1].quota.plans", "key (no plan)"},
		{"", "{ api_key: { groups: [other] } }, { " + quota + " }", "", ""},
		// Nothing is missing.
		{"", "{ api_key: {} }, { quota: { plans: { gold: { day: 1 } }, default_plan: gold } }", "", ""},
		{"", "{ " + quota + " }, { api_key: {} }", "", ""},
		{"", "{ api_key: {} }", "", ""},
		// It cannot be known.
		{"", `{ api_key: {} }, { authorize: { expression: "true" } }, { ` + quota + " }", "", ""},
		{"", "{ api_key: {} }, { forward_auth: { url: http://127.0.0.1:1/ } }, { " + quota + " }", "", ""},
		{"", "{ api_key: {} }, { foreign: {} }, { " + quota + " }", "", ""},
	} {
		text := config(c.global, c.list)
		path := file(t, text)
		var out, errs strings.Builder
		env := &environment{version: "devel", out: &out, err: &errs, plugins: []plugins.Factory{foreign()}}
		code := env.main([]string{"check", "--quick", path})
		want := ""
		if c.want != "" {
			before, _, _ := strings.Cut(text, "plans:")
			line := strings.Count(before, "\n") + 1
			column := len(before) - strings.LastIndex(before, "\n")
			want = fmt.Sprintf("%s:%d:%d: %s", path, line, column, c.path) + ": warning: there is no default_plan, so that these consumers are always refused: " + c.want + "\n"
		}
		if code != exitFine || errs.String() != want || !strings.HasPrefix(out.String(), "fine: ") {
			t.Errorf("%s | %s: code %d, %s\ngot  %swant %s", c.global, c.list, code, out.String(), errs.String(), want)
		}
	}
}

// foreign is a plugin of somebody else's.
func foreign() plugins.Factory {
	return plugins.Define("foreign", func(*struct{}, plugins.Settings) (plugins.Instance, error) { return plugins.Stateless(nil), nil })
}

func TestAdviceIsShort(t *testing.T) {
	var b strings.Builder
	fmt.Fprintln(&b, `listeners: { web: { address: "127.0.0.1:0" } }`+"\nconsumers:")
	for i := range 9 {
		fmt.Fprintf(&b, "  c%d: { api_keys: [\"sha256:%064d\"] }\n", i, i)
	}
	fmt.Fprintln(&b, "plugins: [{ api_key: {} }, { quota: { plans: { gold: { day: 1 } } } }]\nroutes: { r: { respond: { body: x } } }")
	path := file(t, b.String())
	r := run(t, "", "check", path)
	if want := "refused: c0 (no plan), c1 (no plan), c2 (no plan), c3 (no plan), c4 (no plan) and 4 more\n"; r.code != exitFine || !strings.HasSuffix(r.err, want) {
		t.Errorf("%+v", r)
	}
	// What is printed for another program stays apart from it.
	if r = run(t, "", "check", "--print", path); r.code != exitFine || strings.Contains(r.out, "warning") || strings.Count(r.err, "\n") != 1 {
		t.Errorf("%+v", r)
	}
}

// TestPlanAndApplyWarn: what check warns of is told, in the same form, to who
// publishes, and keeps nobody from it.
func TestPlanAndApplyWarn(t *testing.T) {
	n := newFleetNode(t, t.TempDir(), "n1", "")
	text := shared("one") + "consumers: { ann: { api_keys: [\"sha256:" + strings.Repeat("a", 64) + "\"] } }\n" +
		"plugins: [{ api_key: {} }, { quota: { plans: { gold: { day: 1 } } } }]\n"
	path := file(t, text)
	warning := run(t, "", "check", path).err
	if strings.Count(warning, "\n") != 1 || !strings.HasPrefix(warning, path+":4:") || !strings.HasSuffix(warning, ": warning: there is no default_plan, so that these consumers are always refused: ann (no plan)\n") {
		t.Fatalf("check says %q", warning)
	}
	want := strings.TrimPrefix(warning, filepath.Dir(path)+"/") // a node knows no folder of ours
	for _, args := range [][]string{
		{"plan", "-c", path},
		{"apply", "-c", path, "-m", "x", "--wait", "0s"},
		{"plan", "-c", path, "-o", "json"},
		{"apply", "-c", path, "-m", "x", "--wait", "0s", "-o", "json"},
	} {
		r := n.run(args...)
		if r.code != exitFine || r.err != want {
			t.Errorf("%v: code %d\n%s%swant %s", args, r.code, r.out, r.err, want)
		}
		if args[len(args)-1] == "json" && !json.Valid([]byte(r.out)) {
			t.Errorf("%v: %s", args, r.out)
		}
	}
	var p admin.Plan
	r := n.run("plan", "-c", path, "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &p); err != nil || p.Diff != "" || len(p.Warnings) != 1 || p.Warnings[0].Line != 4 ||
		p.Warnings[0].Path != "plugins[1].quota.plans" || !strings.HasPrefix(p.Warnings[0].Message, "there is no default_plan") {
		t.Errorf("%v: %s", err, r.out)
	}
	// Nothing is said where there is nothing to say.
	if r = n.run("plan", "-c", file(t, shared("two"))); r.code != exitFine || r.err != "" {
		t.Errorf("%+v", r)
	}
}
