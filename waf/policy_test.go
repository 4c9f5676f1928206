package waf

import (
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Mistakes are named by the path a user can edit, with the line where there is one.
func TestMistakesInPolicies(t *testing.T) {
	rules := func(text string) plugins.WAFPolicy { return small(text) }
	exclude := func(x plugins.WAFExclusion) plugins.WAFPolicy {
		p := testPolicy()
		p.Exclusions = []plugins.WAFExclusion{{Rules: []string{"942100"}}, x}
		return p
	}
	patch := func(text string) plugins.WAFPolicy {
		p := small("")
		p.Patches = []plugins.WAFPatch{{Name: "cve", Rule: text}}
		return p
	}
	const r, x, c = "waf.policies.default.rules: ", "waf.policies.default.exclusions[1]", "waf.patches.cve.rule: "
	for _, m := range []struct {
		policy plugins.WAFPolicy
		want   string
	}{
		{rules("\n\nSecRule ARGS \"@rx a\" \"id:1,phase:1,deny\"\nSecNonsense on"), r + "line 4: SecNonsense is not allowed in rules; known: secrule"},
		{rules("SecRuleEngine Off"), r + "line 1: SecRuleEngine is not allowed"},
		{rules("Include /etc/passwd"), r + "line 1: Include is not allowed"},
		{rules("SecDebugLog /tmp/x"), r + "line 1: SecDebugLog is not allowed"},
		{rules("SecAuditLog /tmp/x"), r + "line 1: SecAuditLog is not allowed"},
		{rules("SecDefaultAction \"phase:1,deny\""), r + "line 1: SecDefaultAction is not allowed"},
		{rules(`SecRule ARGS "@inspectFile /bin/sh" "id:1,phase:1,deny"`), r + "line 1: the operator @inspectFile is not allowed"},
		{rules(`SecRule ARGS "!@INSPECTFILE /bin/sh" "id:1,phase:1,deny"`), r + "line 1: the operator @INSPECTFILE is not allowed"},
		{rules(`SecRule REMOTE_ADDR "@rbl x.test" "id:1,phase:1,deny"`), r + "line 1: the operator @rbl is not allowed"},
		{rules(`SecAction "id:1,phase:1,pass,exec:/bin/sh"`), r + "line 1: the action exec is not allowed"},
		{rules(`SecAction "id:1,phase:1,pass, EXEC:'/bin/sh'"`), r + "line 1: the action exec is not allowed"},
		{rules(`SecAction "id:1,phase:1,pass,setenv:PATH=/tmp"`), r + "line 1: the action setenv is not allowed"},
		{rules("SecRule ARGS \"@rx a\" \\\n \"id:1,phase:1,deny\"\nSecRule ARGS \"@rx (\" \"id:2,phase:1,deny\""), r + "line 3: failed to compile the directive \"secrule\": "},
		{rules(`SecRule ARGS "@nosuch a" "id:1,phase:1,deny"`), r + "line 1: failed to compile"},
		{rules(`SecRule NOSUCH "@rx a" "id:1,phase:1,deny"`), r + "line 1: failed to compile"},
		{rules(`SecRule ARGS "@pmFromFile ../../etc/passwd" "id:1,phase:1,deny"`), r + "line 1: failed to compile"},
		{rules(`SecRule ARGS "@pmFromFile /etc/passwd" "id:1,phase:1,deny"`), r + "line 1: failed to compile"},
		{rules(`SecRule ARGS "@pm" "id:1,phase:1,deny"`), r + "line 1: failed to compile the directive \"secrule\": @pm needs a phrase to look for"},
		{rules(`SecRule ARGS @rx`), r + "line 1: SecRule must read"},
		{rules(`SecRule ARGS "@rx a" "phase:1,deny"`), r + "line 1: the rule has no valid id"},
		{rules("SecAction \"id:1,phase:1,pass\"\n\nSecAction \"id:1,phase:2,pass\""), r + "line 3: rule ID 1 is taken"},
		{rules(`SecAction "id:7700001,phase:1,pass"`), r + "line 1: rule IDs 7700000-7799999 belong to the gateway, got 7700001"},
		{rules(`SecRule ARGS "@rx a" "id:1,phase:1,deny,chain"`), r + "line 1: the chain has no next rule"},
		{rules(`SecAction "id:1,phase:1,pass,skipAfter:END"`), r + `line 1: skipAfter names "END"`},
		{rules(`SecAction "id:1,phase:1,pass,ctl:ruleRemoveById=949110"`), r + "line 1: ctl:ruleRemoveById=949110: rules 949000-949999 must stay"},
		{rules(`SecRuleRemoveById 1 900000-960000`), r + "line 1: rules 901000-901999 must stay"},
		{rules(`SecRuleUpdateActionById 949110 "pass"`), r + "line 1: rules 949000-949999 must stay"},
		{rules("SecRule ARGS \"@rx a\" \\"), r + "line 1: the directive does not end"},
		{rules("SecAction \"id:1,phase:1,pass,msg:'" + strings.Repeat("x", 70000) + "'\""), r + "line 1: longer than 65535 bytes"},
		{func() plugins.WAFPolicy {
			p := testPolicy()
			p.Rules = `SecAction "id:1,phase:1,pass,ctl:ruleRemoveByTag=OWASP_CRS"`
			return p
		}(), r + `line 1: the tag "OWASP_CRS" is also on rule 901`},
		{func() plugins.WAFPolicy {
			p := testPolicy()
			p.Rules = `SecRuleRemoveByTag "anomaly-evaluation"`
			return p
		}(), r + `line 1: the tag "anomaly-evaluation" is also on rule 949`},

		{patch(""), c + "must be one SecRule or SecAction, chained ones included, got 0 directives"},
		{patch("SecAction \"id:1,phase:1,pass\"\nSecAction \"id:2,phase:1,pass\""), c + "must be one SecRule"},
		{patch("SecMarker X"), c + "must be one SecRule"},
		{patch(`SecRule ARGS "@rx (" "id:1,phase:1,deny"`), c + "line 1: failed to compile"},

		{exclude(plugins.WAFExclusion{}), x + ": names neither rules nor tags"},
		{exclude(plugins.WAFExclusion{Rules: []string{"949110"}}), x + ".rules[0]: rules 949000-949999 must stay: they decide on requests by their score"},
		{exclude(plugins.WAFExclusion{Rules: []string{"942100", "959100"}}), x + ".rules[1]: rules 959000-959999 must stay"},
		{exclude(plugins.WAFExclusion{Rules: []string{"900000-999999"}}), x + ".rules[0]: rules 901000-901999 must stay"},
		{exclude(plugins.WAFExclusion{Rules: []string{"200002"}}), x + ".rules[0]: rules 200000-200009 must stay"},
		{exclude(plugins.WAFExclusion{Rules: []string{"942999"}}), x + ".rules[0]: no rule of this policy has an ID in 942999"},
		{exclude(plugins.WAFExclusion{Rules: []string{"942x"}}), x + ".rules[0]: must be a rule ID"},
		{exclude(plugins.WAFExclusion{Tags: []string{"attack-nosuch"}}), x + `.tags[0]: no rule of this policy has the tag "attack-nosuch"`},
		{exclude(plugins.WAFExclusion{Tags: []string{"OWASP_CRS"}}), x + `.tags[0]: "OWASP_CRS" is also on rule 901`},
		{exclude(plugins.WAFExclusion{Rules: []string{"942100"}, Targets: []string{"ARGS:a", "REQUEST_BODY"}}), x + ".targets[1]: none of the rules looks at REQUEST_BODY, so this would do nothing; they look at ARGS, ARGS_NAMES"},
		{exclude(plugins.WAFExclusion{Rules: []string{"942100"}, Targets: []string{"ARGS_GET:a"}}), x + ".targets[0]: none of the rules looks at ARGS_GET"},
		{exclude(plugins.WAFExclusion{Rules: []string{"942100"}, Targets: []string{"ARGS:/(/"}}), x + `.targets[0]: "/(/" is not a regular expression`},
		{exclude(plugins.WAFExclusion{Rules: []string{"942100"}, Targets: []string{"ARGS:a|ARGS:b"}}), x + ".targets[0]: must be one variable"},
		{exclude(plugins.WAFExclusion{Rules: []string{"942100"}, Targets: []string{"ARGS:a',deny"}}), x + ".targets[0]: must be one variable"},
		{exclude(plugins.WAFExclusion{Rules: []string{"942100"}, Paths: []string{"/ok", "nope"}}), x + ".paths[1]: must be /exact or /prefix/*"},
		{exclude(plugins.WAFExclusion{Rules: []string{"942100"}, Paths: []string{"/a*"}}), x + ".paths[0]: must be"},
		{exclude(plugins.WAFExclusion{Rules: []string{"942100"}, Paths: []string{`/a" "id:1`}}), x + ".paths[0]: must be"},
		{exclude(plugins.WAFExclusion{Rules: []string{"942100"}, Methods: []string{"get"}}), x + ".methods[0]: must be a method in upper case"},
	} {
		pool := NewPool()
		g, err := pool.Guard(m.policy, plugins.Route{})
		if err == nil {
			t.Errorf("accepted, want %s", m.want)
			closeAll(t, []*Guard{g})
			continue
		}
		if !strings.HasPrefix(err.Error(), m.want) {
			t.Errorf("got  %v\nwant %s", err, m.want)
		}
		if pool.Len() != 0 {
			t.Errorf("%d engines left", pool.Len())
		}
	}
}

func TestExclusionsBecomeFewRanges(t *testing.T) {
	p := testPolicy()
	_, rules, err := assemble(&p)
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := choose("x", &plugins.WAFExclusion{Tags: []string{"attack-sqli"}}, rules)
	if err != nil {
		t.Fatal(err)
	}
	got := ranges(chosen, rules)
	if len(chosen) < 50 || len(got) > len(chosen)/2 {
		t.Fatalf("%d rules in %d ranges %v", len(chosen), len(got), got)
	}
	n := 0
	for _, r := range rules {
		for _, g := range got {
			if g.holds(r.id) {
				n++
			}
		}
	}
	if n != len(chosen) {
		t.Fatalf("the ranges hold %d rules, want %d", n, len(chosen))
	}
}

// Everything in the rule set's text is read as Coraza reads it: the same rules
// in the same phases.
func TestInventoryIsWhatCorazaHas(t *testing.T) {
	p := testPolicy()
	prog, rules, err := assemble(&p)
	if err != nil {
		t.Fatal(err)
	}
	seen := observe(t, prog)
	if len(seen) != len(rules) || len(rules) < 600 {
		t.Fatalf("%d rules, Coraza has %d", len(rules), len(seen))
	}
	for _, r := range rules {
		if seen[r.id] != r.phase {
			t.Errorf("rule %d: phase %d, Coraza has %d", r.id, r.phase, seen[r.id])
		}
	}
}

// The CRS may restrict more headers one day; then so must we.
func TestRestrictedHeadersAreTheCRSsOwn(t *testing.T) {
	p := testPolicy()
	_, rules, err := assemble(&p)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if r.id != 901165 {
			continue
		}
		v, _ := r.links[0].action("setvar")
		if want := "tx.restricted_headers_basic=" + restrictedHeaders + " /expect/"; v != want {
			t.Fatalf("the CRS has %q, we have %q", v, want)
		}
		return
	}
	t.Fatal("rule 901165 is not there")
}

func TestPatchEndsAtTheNextWholeSecond(t *testing.T) {
	at := time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC)
	if ceilUnix(at) != at.Unix() || ceilUnix(at.Add(1)) != at.Unix()+1 {
		t.Fatal(ceilUnix(at), ceilUnix(at.Add(1)))
	}
}
