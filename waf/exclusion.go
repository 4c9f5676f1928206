package waf

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// compileExclusions writes the SecLang of a policy's exclusions. An exclusion
// that would have no effect is an error, and so is one that would take the
// verdict away: both are what goes wrong with exclusions in practice.
func compileExclusions(p *plugins.WAFPolicy, rules []*rule) (text, pads string, err error) {
	var b strings.Builder
	padded := map[string]string{}
	for i, x := range p.Exclusions {
		origin := fmt.Sprintf("waf.policies.%s.exclusions[%d]", p.Name, i)
		if i >= idExpiries-idExclusions {
			return "", "", fmt.Errorf("%s: too many exclusions", origin)
		}
		chosen, err := choose(origin, &x, rules)
		if err != nil {
			return "", "", err
		}
		targets, err := parseTargets(origin, x.Targets)
		if err != nil {
			return "", "", err
		}
		for k, t := range targets {
			if err := hits(t, chosen); err != nil {
				return "", "", fmt.Errorf("%s.targets[%d]: %w", origin, k, err)
			}
			if err := pad(t.name, chosen, padded); err != nil {
				return "", "", fmt.Errorf("%s.targets[%d]: %w", origin, k, err)
			}
		}
		conditions, err := conditions(origin, &x)
		if err != nil {
			return "", "", err
		}
		writeExclusion(&b, idExclusions+i, conditions, controls(ranges(chosen, rules), targets))
	}
	keys := make([]string, 0, len(padded))
	for k := range padded {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		pads += padded[k]
	}
	return b.String(), pads, nil
}

// choose finds the rules an exclusion names.
func choose(origin string, x *plugins.WAFExclusion, rules []*rule) ([]*rule, error) {
	if len(x.Rules) == 0 && len(x.Tags) == 0 {
		return nil, fmt.Errorf("%s: names neither rules nor tags", origin)
	}
	var out []*rule
	for k, text := range x.Rules {
		at := fmt.Sprintf("%s.rules[%d]", origin, k)
		r, err := parseRange(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		if why := protects(r); why != "" {
			return nil, fmt.Errorf("%s: %s", at, why)
		}
		n := len(out)
		for _, known := range rules {
			if r.holds(known.id) {
				out = append(out, known)
			}
		}
		if len(out) == n {
			return nil, fmt.Errorf("%s: no rule of this policy has an ID in %s", at, r)
		}
	}
	for k, tag := range x.Tags {
		at := fmt.Sprintf("%s.tags[%d]", origin, k)
		n := len(out)
		for _, known := range rules {
			if !slices.Contains(known.tags, tag) {
				continue
			}
			if why := protects(idRange{known.id, known.id}); why != "" {
				return nil, fmt.Errorf("%s: %q is also on rule %d: %s", at, tag, known.id, why)
			}
			out = append(out, known)
		}
		if len(out) == n {
			return nil, fmt.Errorf("%s: no rule of this policy has the tag %q", at, tag)
		}
	}
	return out, nil
}

func parseTargets(origin string, list []string) ([]variable, error) {
	var out []variable
	for k, text := range list {
		vars := parseVariables(text)
		if len(vars) != 1 || vars[0].exclude || vars[0].count || strings.ContainsFunc(text, badInTarget) {
			return nil, fmt.Errorf("%s.targets[%d]: must be one variable such as ARGS:q or REQUEST_COOKIES:/^sess/, got %q", origin, k, text)
		}
		v := vars[0]
		if rx, ok := pattern(v.key); ok {
			if _, err := regexp.Compile(rx); err != nil || rx == "" {
				return nil, fmt.Errorf("%s.targets[%d]: %q is not a regular expression", origin, k, v.key)
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// pattern returns what is between the slashes of "/…/".
func pattern(key string) (string, bool) {
	if len(key) >= 2 && key[0] == '/' && key[len(key)-1] == '/' {
		return key[1 : len(key)-1], true
	}
	return "", false
}

// badInTarget are characters that mean something to SecLang around a target.
func badInTarget(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune("'\"`;", r) }

// hits makes sure that at least one of the rules looks at the target.
func hits(t variable, chosen []*rule) error {
	var others []string
	for _, r := range chosen {
		if r.inspects(t.name) {
			return nil
		}
		for _, l := range r.links {
			for _, v := range l.variables {
				if !v.exclude && !v.count && v.name != "TX" && !slices.Contains(others, v.name) {
					others = append(others, v.name)
				}
			}
		}
	}
	slices.Sort(others)
	return fmt.Errorf("none of the rules looks at %s, so this would do nothing; they look at %s", t.name, strings.Join(others, ", "))
}

// pad makes the number of a variable's exceptions a power of two, by adding
// ones that match nothing. Coraza appends a transaction's exclusions to the
// rule's shared slice of exceptions; where that slice has room left, concurrent
// transactions write into each other's (Coraza 3.8.1, Rule.doEvaluate). Slices
// grown one by one have no room left at powers of two.
func pad(name string, chosen []*rule, padded map[string]string) error {
	for _, r := range chosen {
		key := fmt.Sprintf("%09d %s", r.id, name)
		if padded[key] != "" {
			continue
		}
		for i := range r.links {
			n := r.exceptions[i][name]
			if n == 0 || n&(n-1) == 0 {
				continue
			}
			if i > 0 {
				return fmt.Errorf("rule %d has %d exceptions for %s in a chained rule, to which no more can be added safely", r.id, n, name)
			}
			for ; n&(n-1) != 0; n++ {
				padded[key] += fmt.Sprintf("SecRuleUpdateTargetById %d \"!%s:gatehouse-none-%d\"\n", r.id, name, n)
			}
		}
	}
	return nil
}

// conditions are the links that must match for the exclusion to apply.
func conditions(origin string, x *plugins.WAFExclusion) ([]string, error) {
	var out []string
	if len(x.Paths) > 0 {
		var alt []string
		for k, path := range x.Paths {
			prefix, isPrefix := strings.CutSuffix(path, "*")
			bad := !strings.HasPrefix(path, "/") || strings.ContainsFunc(prefix, badInPath) || isPrefix && !strings.HasSuffix(prefix, "/")
			if bad {
				return nil, fmt.Errorf("%s.paths[%d]: must be /exact or /prefix/*, got %q", origin, k, path)
			}
			rx := regexp.QuoteMeta(prefix)
			if !isPrefix {
				rx += `\z`
			}
			alt = append(alt, rx)
		}
		out = append(out, fmt.Sprintf(`SecRule TX:%s "@rx \A(?:%s)"`, txPath, strings.Join(alt, "|")))
	}
	if len(x.Methods) > 0 {
		for k, m := range x.Methods {
			if m == "" || strings.ContainsFunc(m, func(r rune) bool { return r != '-' && (r < 'A' || r > 'Z') }) {
				return nil, fmt.Errorf("%s.methods[%d]: must be a method in upper case, got %q", origin, k, m)
			}
		}
		out = append(out, fmt.Sprintf(`SecRule REQUEST_METHOD "@rx \A(?:%s)\z"`, strings.Join(x.Methods, "|")))
	}
	return out, nil
}

func badInPath(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"`*?#\\", r) }

// ranges merges the chosen rules into ranges that hold no other rule: what a
// transaction has to look at is then one entry, not one per rule.
func ranges(chosen, all []*rule) []idRange {
	pick := map[int]bool{}
	for _, r := range chosen {
		pick[r.id] = true
	}
	ids := make([]int, 0, len(all))
	for _, r := range all {
		ids = append(ids, r.id)
	}
	slices.Sort(ids)
	var out []idRange
	adjacent := false
	for _, id := range ids {
		switch {
		case !pick[id]:
			adjacent = false
		case adjacent:
			out[len(out)-1].last = id
		default:
			out = append(out, idRange{id, id})
			adjacent = true
		}
	}
	return out
}

// controls are the ctl actions that take the rules, or targets of them, out.
func controls(ids []idRange, targets []variable) []string {
	var out []string
	for _, r := range ids {
		if len(targets) == 0 {
			out = append(out, "ctl:ruleRemoveById="+r.String())
		}
		for _, t := range targets {
			target := t.name
			if t.key != "" {
				target += ":" + t.key
			}
			out = append(out, "ctl:'ruleRemoveTargetById="+r.String()+";"+target+"'")
		}
	}
	return out
}

// writeExclusion writes one rule; the controls are in its last link, because
// such actions run as soon as their own link matches.
func writeExclusion(b *strings.Builder, id int, conditions, controls []string) {
	ctl := strings.Join(controls, ",")
	head := fmt.Sprintf("id:%d,phase:1,pass,t:none,nolog", id)
	switch len(conditions) {
	case 0:
		fmt.Fprintf(b, "SecAction \"%s,%s\"\n", head, ctl)
	case 1:
		fmt.Fprintf(b, "%s \"%s,%s\"\n", conditions[0], head, ctl)
	default:
		fmt.Fprintf(b, "%s \"%s,chain\"\n%s \"t:none,%s\"\n", conditions[0], head, conditions[1], ctl)
	}
}
