// Package authorize is the plugin authorize: it decides by expressions (CEL,
// the Common Expression Language) over the request and who sent it. They are
// compiled and type-checked with the config, and cannot run away: what one
// evaluation may cost is limited. Anything that goes wrong denies.
package authorize

import (
	"fmt"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/expression"
)

// Config of the plugin authorize.
type Config struct {
	// The one expression that must be true; short for one allow rule.
	Expression string `yaml:"expression"`
	// If there are any, one of them must be true.
	Allow []Rule `yaml:"allow"`
	// None of these may be true. They come first.
	Deny []Rule `yaml:"deny"`
	// What evaluating one rule may cost, in CEL's units: about one for every
	// operator and for every ten characters looked at.
	CostLimit uint64 `yaml:"cost_limit" default:"10000" min:"10" max:"10000000"`
}

// Rule is an expression with a name for the log; the expression alone is
// enough.
type Rule struct {
	// Default: allow[0], deny[0] and so on.
	Name string `yaml:"name"`
	// The expression; it must be a bool.
	When string `yaml:"when" required:"true"`
}

// UnmarshalText reads the short form.
func (r *Rule) UnmarshalText(text []byte) error {
	*r = Rule{When: string(text)}
	return nil
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	switch {
	case c.Expression == "" && len(c.Allow) == 0 && len(c.Deny) == 0:
		p.Add("", "needs expression, allow or deny")
	case c.Expression != "" && len(c.Allow)+len(c.Deny) > 0:
		p.Add("expression", "cannot be given beside allow and deny")
	}
	for _, r := range c.rules() {
		if _, err := expression.Bool(r.when, c.CostLimit); err != nil {
			p.Add(r.key, "%v", err)
		}
	}
}

// named is a rule with its name and the key of its expression in the config.
type named struct {
	deny            bool
	name, when, key string
}

// rules are all rules in the order they are evaluated.
func (c *Config) rules() []named {
	var list []named
	add := func(rules []Rule, kind string) {
		for i, r := range rules {
			at := fmt.Sprintf("%s[%d]", kind, i)
			n := named{deny: kind == "deny", name: r.Name, when: r.When, key: at + ".when"}
			if n.name == "" {
				n.name = at
			}
			list = append(list, n)
		}
	}
	add(c.Deny, "deny")
	add(c.Allow, "allow")
	if c.Expression != "" {
		list = append(list, named{name: "expression", when: c.Expression, key: "expression"})
	}
	return list
}
