package waf

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// allowed are the directives users may write. The others open files, start
// loggers or change what the policy itself says.
var allowed = []string{
	"secrule", "secaction", "secmarker", "secdataset", "secruleremovebyid", "secruleremovebytag",
	"secruleupdatetargetbyid", "secruleupdatetargetbytag", "secruleupdateactionbyid",
}

// refusedOperators run programs, ask the network or read files. What is left
// that reads files (@pmFromFile, @ipMatchFromFile) sees only the rule set's own.
var refusedOperators = []string{"inspectfile", "rbl", "geolookup", "validateschema", "fuzzyhash"}

// refusedActions run programs or change the process.
var refusedActions = []string{"exec", "setenv", "initcol"}

// vet checks SecLang that a user wrote before Coraza sees it: what is possible
// in the language but not safe in a gateway, and what Coraza accepts although
// it silently takes the verdict away.
func vet(origin, text string) ([]directive, error) {
	list, err := scan(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", origin, err)
	}
	markers := map[string]bool{}
	for _, d := range list {
		if d.name == "secmarker" {
			markers[unquote(d.args)] = true
		}
	}
	chain := false
	for _, d := range list {
		more, err := vetDirective(d, chain, markers)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", origin, d.line, err)
		}
		chain = more
	}
	if chain {
		return nil, fmt.Errorf("%s: line %d: the chain has no next rule", origin, list[len(list)-1].line)
	}
	return list, nil
}

// vetDirective reports whether the directive wants a chained one to follow.
func vetDirective(d directive, chained bool, markers map[string]bool) (more bool, err error) {
	if !slices.Contains(allowed, d.name) {
		return false, fmt.Errorf("%s is not allowed in rules; known: %s", directiveName(d), strings.Join(allowed, ", "))
	}
	switch d.name {
	case "secrule", "secaction":
	case "secruleremovebyid", "secruleupdateactionbyid":
		return false, vetIDs(d)
	default:
		return chained, nil
	}
	l, err := parseLink(d)
	if err != nil {
		return false, err
	}
	if op := operatorName(l.operator); slices.Contains(refusedOperators, strings.ToLower(op)) {
		return false, fmt.Errorf("the operator @%s is not allowed", op)
	}
	for _, a := range l.actions {
		if err := vetAction(a, markers); err != nil {
			return false, err
		}
		more = more || a.key == "chain"
	}
	return more, nil
}

func directiveName(d directive) string {
	name, _, _ := strings.Cut(strings.TrimSpace(d.raw), " ")
	return strings.TrimSpace(name)
}

func operatorName(op string) string {
	op = strings.TrimPrefix(strings.TrimSpace(op), "!")
	name, ok := strings.CutPrefix(op, "@")
	if !ok {
		return "rx"
	}
	name, _, _ = strings.Cut(name, " ")
	return name
}

func vetAction(a action, markers map[string]bool) error {
	switch {
	case slices.Contains(refusedActions, a.key):
		return fmt.Errorf("the action %s is not allowed", a.key)
	case a.key == "id":
		if id, err := strconv.Atoi(a.value); err == nil && id >= reservedFirst && id <= reservedLast {
			return fmt.Errorf("rule IDs %d-%d belong to the gateway, got %d", reservedFirst, reservedLast, id)
		}
	case a.key == "skipafter":
		if !markers[a.value] {
			return fmt.Errorf("skipAfter names %q, which no SecMarker of these rules defines: it would skip the verdict too", a.value)
		}
	case a.key == "ctl":
		what, value, _ := strings.Cut(a.value, "=")
		if strings.EqualFold(what, "ruleRemoveById") {
			r, err := parseRange(value)
			if err != nil {
				return fmt.Errorf("ctl:%s: %w", what, err)
			}
			if why := protects(r); why != "" {
				return fmt.Errorf("ctl:%s=%s: %s", what, value, why)
			}
		}
	}
	return nil
}

func vetIDs(d directive) error {
	fields := strings.Fields(strings.ReplaceAll(d.args, `"`, ""))
	if d.name == "secruleupdateactionbyid" && len(fields) > 1 {
		fields = fields[:len(fields)-1]
	}
	for _, f := range fields {
		r, err := parseRange(f)
		if err != nil {
			return err
		}
		if why := protects(r); why != "" {
			return fmt.Errorf("%s", why)
		}
	}
	return nil
}

// vetTags makes sure that what users remove by tag leaves the verdict there.
func vetTags(p *program, rules []*rule) error {
	check := func(tag string) error {
		for _, r := range rules {
			if slices.Contains(r.tags, tag) {
				if why := protects(idRange{r.id, r.id}); why != "" {
					return fmt.Errorf("the tag %q is also on rule %d: %s", tag, r.id, why)
				}
			}
		}
		return nil
	}
	for _, s := range p.sections {
		for _, d := range s.directives {
			if s.origin == "" {
				break
			}
			if err := check(removedTag(d)); err != nil {
				return place(s, d, err)
			}
		}
	}
	return nil
}

// removedTag is the tag by which a directive removes rules, or "".
func removedTag(d directive) string {
	switch d.name {
	case "secruleremovebytag":
		return strings.Trim(d.args, `"' `)
	case "secrule", "secaction":
		l, err := parseLink(d)
		if err != nil {
			return ""
		}
		for _, a := range l.actions {
			what, tag, _ := strings.Cut(a.value, "=")
			if a.key == "ctl" && strings.EqualFold(what, "ruleRemoveByTag") {
				return tag
			}
		}
	}
	return ""
}

// compilePatches checks the virtual patches and writes the rules that switch
// each off when its time is over. That is decided for every transaction anew,
// so that a patch ends on time on a node that nobody reloads.
func compilePatches(patches []plugins.WAFPatch) (out []section, expiries string, err error) {
	var b strings.Builder
	for i, p := range patches {
		origin := "waf.patches." + p.Name + ".rule"
		list, err := vet(origin, p.Rule)
		if err != nil {
			return nil, "", err
		}
		sec := section{origin, list}
		rules, err := inventory(&program{sections: []section{sec}})
		if err != nil {
			return nil, "", err
		}
		if len(rules) != 1 || len(list) != len(rules[0].links) {
			return nil, "", fmt.Errorf("%s: must be one SecRule or SecAction, chained ones included, got %d directives", origin, len(list))
		}
		out = append(out, sec)
		if !p.Expires.IsZero() {
			fmt.Fprintf(&b, "SecRule TIME_EPOCH \"@ge %d\" \"id:%d,phase:1,pass,t:none,nolog,ctl:ruleRemoveById=%d\"\n",
				ceilUnix(p.Expires), idExpiries+i, rules[0].id)
		}
	}
	return out, b.String(), nil
}

// ceilUnix is the first whole second at which t is over.
func ceilUnix(t time.Time) int64 {
	if t.Nanosecond() > 0 {
		return t.Unix() + 1
	}
	return t.Unix()
}
