package waf

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// rule is what exclusions and checks need to know of a rule in a program.
type rule struct {
	id    int
	phase int
	tags  []string
	links []link
	user  bool
	// exceptions counts, for each link and variable, the exceptions that the
	// rule set has already; see pad.
	exceptions []map[string]int
}

// inspects says how many links look at a variable.
func (r *rule) inspects(name string) bool {
	for _, l := range r.links {
		for _, v := range l.variables {
			if v.name == name && !v.exclude && !v.count {
				return true
			}
		}
	}
	return false
}

// inventory lists the rules of a program in order.
func inventory(p *program) ([]*rule, error) {
	var out []*rule
	byID := map[int]*rule{}
	var open *rule // a chain that wants another link
	for _, s := range p.sections {
		for _, d := range s.directives {
			switch d.name {
			case "secrule", "secaction":
				l, err := parseLink(d)
				if err != nil {
					return nil, place(s, d, err)
				}
				_, more := l.action("chain")
				if open == nil {
					if open, err = newRule(l, s.origin != ""); err != nil {
						return nil, place(s, d, err)
					}
					if byID[open.id] != nil {
						return nil, place(s, d, fmt.Errorf("rule ID %d is taken", open.id))
					}
					byID[open.id] = open
					out = append(out, open)
				}
				open.add(l)
				if !more {
					open = nil
				}
			case "secruleupdatetargetbyid", "secruleupdatetargetbytag":
				updateTargets(out, d)
			}
		}
	}
	return out, nil
}

func place(s section, d directive, err error) error {
	if s.origin == "" {
		return err
	}
	return fmt.Errorf("%s: line %d: %w", s.origin, d.line, err)
}

func newRule(l link, user bool) (*rule, error) {
	text, _ := l.action("id")
	id, err := strconv.Atoi(text)
	if err != nil || id <= 0 {
		return nil, fmt.Errorf("the rule has no valid id, got %q", text)
	}
	r := &rule{id: id, phase: 2, user: user}
	if ph, ok := l.action("phase"); ok {
		r.phase = phaseNumber(ph)
	}
	for _, a := range l.actions {
		if a.key == "tag" {
			r.tags = append(r.tags, a.value)
		}
	}
	return r, nil
}

func phaseNumber(s string) int {
	switch s {
	case "request":
		return 2
	case "response":
		return 4
	case "logging":
		return 5
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 2
	}
	return n
}

func (r *rule) add(l link) {
	r.links = append(r.links, l)
	r.exceptions = append(r.exceptions, map[string]int{})
	for _, v := range l.variables {
		if v.exclude {
			r.exceptions[len(r.links)-1][v.name]++
		}
	}
}

// updateTargets takes down the exceptions that SecRuleUpdateTargetById and
// ByTag add to rules that are already there.
func updateTargets(rules []*rule, d directive) {
	at := strings.LastIndexByte(d.args, ' ')
	if at < 0 {
		return
	}
	which := strings.Fields(strings.ReplaceAll(d.args[:at], `"`, ""))
	for _, v := range parseVariables(strings.Trim(d.args[at+1:], `"`)) {
		if !v.exclude {
			continue
		}
		for _, r := range rules {
			for _, w := range which {
				if d.name == "secruleupdatetargetbytag" {
					if slices.Contains(r.tags, w) {
						r.exceptions[0][v.name]++
					}
				} else if ids, err := parseRange(w); err == nil && ids.holds(r.id) {
					r.exceptions[0][v.name]++
				}
			}
		}
	}
}

// idRange is a range of rule IDs, both ends included.
type idRange struct{ first, last int }

func (r idRange) holds(id int) bool { return id >= r.first && id <= r.last }

func (r idRange) String() string {
	if r.first == r.last {
		return strconv.Itoa(r.first)
	}
	return strconv.Itoa(r.first) + "-" + strconv.Itoa(r.last)
}

// parseRange reads "942100" or "942100-942199".
func parseRange(s string) (idRange, error) {
	a, b, ranged := strings.Cut(strings.TrimSpace(s), "-")
	if !ranged {
		b = a
	}
	first, err1 := strconv.Atoi(strings.TrimSpace(a))
	last, err2 := strconv.Atoi(strings.TrimSpace(b))
	if err1 != nil || err2 != nil || first <= 0 || last < first {
		return idRange{}, fmt.Errorf("must be a rule ID such as 942100 or a range such as 942100-942199, got %q", s)
	}
	return idRange{first, last}, nil
}

// protected are the rules without which the WAF decides nothing, whatever it
// finds: people exclude 949110 because that is the ID they see in their logs.
var protected = []struct {
	idRange
	what string
}{
	{idRange{200000, 200009}, "make sure that the body was understood"},
	{idRange{901000, 901999}, "set up the core rule set"},
	{idRange{949000, 949999}, "decide on requests by their score; exclude the rules that add to it instead"},
	{idRange{959000, 959999}, "decide on replies by their score; exclude the rules that add to it instead"},
	{idRange{980000, 980999}, "report scores"},
	{idRange{reservedFirst, reservedLast}, "belong to the gateway"},
}

// protects says why a range of rules must not be switched off, or "".
func protects(r idRange) string {
	for _, p := range protected {
		if r.first <= p.last && p.first <= r.last {
			return fmt.Sprintf("rules %s must stay: they %s", p.idRange, p.what)
		}
	}
	return ""
}
