package authorize

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/expression"
)

// Factory makes the plugin authorize.
func Factory() plugins.Factory { return plugins.Define("authorize", build) }

// rule is a compiled rule.
type rule struct {
	named
	program cel.Program
}

type plugin struct {
	deny, allow                 []rule
	allowed, denied, failedEval prometheus.Counter
}

func build(c *Config, s plugins.Settings) (plugins.Instance, error) {
	count := s.Counter("gatehouse_authorize_requests_total", "Requests by what the rules decided.", "route", "result")
	p := &plugin{
		allowed:    count.WithLabelValues(s.Route.Name, "allowed"),
		denied:     count.WithLabelValues(s.Route.Name, "denied"),
		failedEval: count.WithLabelValues(s.Route.Name, "error"),
	}
	for _, n := range c.rules() {
		program, err := expression.Bool(n.when, c.CostLimit)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.key, err)
		}
		if n.deny {
			p.deny = append(p.deny, rule{n, program})
		} else {
			p.allow = append(p.allow, rule{n, program})
		}
	}
	if len(p.deny)+len(p.allow) == 0 {
		return nil, fmt.Errorf("needs expression, allow or deny")
	}
	return plugins.Stateless(p.handle), nil
}

func (p *plugin) handle(c *fiber.Ctx) error {
	s := expression.NewScene(c.Context(), exchange.From(c))
	if why := p.decide(s); why != nil {
		return why
	}
	p.allowed.Inc()
	return c.Next()
}

// decide returns nil or a refusal.
func (p *plugin) decide(s *expression.Scene) error {
	for i := range p.deny {
		r := &p.deny[i]
		yes, err := r.eval(s)
		if err != nil {
			p.failedEval.Inc()
			return reason.Forbidden.Because("rule %s failed: %v", r.name, err)
		}
		if yes {
			p.denied.Inc()
			return reason.Forbidden.Because("rule %s denies", r.name)
		}
	}
	if len(p.allow) == 0 {
		return nil
	}
	var names []string
	for i := range p.allow {
		r := &p.allow[i]
		yes, err := r.eval(s)
		switch {
		case err == nil && yes:
			return nil
		case err != nil && !s.Missing:
			p.failedEval.Inc()
			return reason.Forbidden.Because("rule %s failed: %v", r.name, err)
		}
		names = append(names, r.name)
	}
	p.denied.Inc()
	return reason.Forbidden.Because("no rule allows: %s", strings.Join(names, ", "))
}

// eval evaluates the rule. After an error s.Missing says whether something the
// rule asked for is not there, which is the likely cause.
func (r *rule) eval(s *expression.Scene) (bool, error) {
	s.Missing = false
	v, _, err := r.program.Eval(s)
	if err != nil {
		s.Missing = s.Missing || strings.HasPrefix(err.Error(), "no such key")
		return false, err
	}
	b, ok := v.(types.Bool)
	if !ok {
		if v == types.NullValue {
			s.Missing = true
		}
		return false, fmt.Errorf("is a %s, not true or false", v.Type().TypeName())
	}
	return bool(b), nil
}
