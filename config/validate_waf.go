package config

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

func (v *validator) waf(p *problem.List) {
	for name, w := range each(v.c.WAF.Policies) {
		wp := under(p, "policies", name)
		wp.Check(isName(name), "", "a policy's name %s", nameRule)
		if d := w.DetectionParanoiaLevel; d != 0 {
			wp.Check(d >= w.ParanoiaLevel, "detection_paranoia_level",
				"must be at least paranoia_level (%d), got %d", w.ParanoiaLevel, d)
		}
		checkMethods(wp, "allowed_methods", w.AllowedMethods)
		checkMediaTypes(wp, "allowed_content_types", w.AllowedContentTypes)
		checkMediaTypes(wp, "response_content_types", w.ResponseContentTypes)
		for i, e := range w.Exclusions {
			checkExclusion(e, wp.Under(index("exclusions", i)))
		}
	}
	for name, patch := range each(v.c.WAF.Patches) {
		pp := under(p, "patches", name)
		pp.Check(isName(name), "", "a patch's name %s", nameRule)
		rule := strings.TrimSpace(patch.Rule)
		pp.Check(strings.HasPrefix(rule, "SecRule ") || strings.HasPrefix(rule, "SecAction "), "rule",
			"must begin with SecRule or SecAction")
		if patch.Expires != "" {
			_, err := time.Parse(time.DateOnly, patch.Expires)
			pp.Check(err == nil && dated.MatchString(patch.Expires), "expires", "must be a date YYYY-MM-DD, got %q", patch.Expires)
		}
	}
}

var mediaType = regexp.MustCompile("^[!#$&^_.+a-zA-Z0-9-]+/[!#$&^_.+a-zA-Z0-9-]+$")

func checkMediaTypes(p *problem.List, key string, list []string) {
	for i, s := range list {
		p.Check(mediaType.MatchString(s), index(key, i), "must be a media type such as application/json, got %q", s)
	}
}

// evaluation are the rules that add up scores, block and report. Without them
// the WAF is off without saying so.
var evaluation = [][2]int{{901000, 901999}, {949000, 949999}, {959000, 959999}, {980000, 980999}}

// checkExclusion refuses exceptions that mean nothing or too much.
func checkExclusion(e WAFExclusion, p *problem.List) {
	p.Check(len(e.Rules)+len(e.Tags) > 0, "", "needs rules or tags")
	for i, r := range e.Rules {
		checkRule(r, index("rules", i), p)
	}
	for i, tag := range e.Tags {
		k := index("tags", i)
		switch {
		case tag == "" || strings.ContainsAny(tag, "'\" \t"):
			p.Add(k, "must be a rule's tag such as attack-sqli, got %q", tag)
		case strings.EqualFold(tag, "OWASP_CRS"):
			p.Add(k, "%s is on every rule; write crs: false to switch the rule set off", tag)
		}
	}
	for i, t := range e.Targets {
		p.Check(target.MatchString(t), index("targets", i), "must be a part of the request such as ARGS:q or REQUEST_COOKIES:/^sess/, got %q", t)
	}
	for i, path := range e.Paths {
		k := index("paths", i)
		exact, wild := strings.CutSuffix(path, "/*")
		switch {
		case strings.Contains(exact, "*"):
			p.Add(k, "may have * only at the end, after /, got %q", path)
		case wild && exact == "":
		default:
			checkPath(p, k, exact)
		}
	}
	checkMethods(p, "methods", e.Methods)
}

var target = regexp.MustCompile(`^[A-Z][A-Z0-9_]*(:[^\s,|'"]+)?$`)

func checkRule(s, key string, p *problem.List) {
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	first, err1 := strconv.Atoi(low)
	last, err2 := strconv.Atoi(high)
	if err1 != nil || err2 != nil || first < 1 || last > 999_999_999 || last < first {
		p.Add(key, `must be a rule's ID or a range such as "942100" or "942100-942199", got %q`, s)
		return
	}
	for _, e := range evaluation {
		if first <= e[1] && last >= e[0] {
			p.Add(key, "must not have the rules %d to %d, which set up, add up and block: raise inbound_threshold or set mode: detect instead, got %s", e[0], e[1], s)
			return
		}
	}
}
