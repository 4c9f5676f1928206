// Package waf is the plugin that has requests and replies inspected by a web
// application firewall policy: it shows the engine (package waf) what the
// exchange holds, and turns its verdicts into refusals. It decides nothing
// itself.
package waf

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/plugins"
	engine "github.com/gatehouse-proxy/gatehouse/waf"
)

// Config is one use of the plugin.
type Config struct {
	// Policy under waf.policies.
	Policy string `yaml:"policy" default:"default"`
	// Replaces the policy's mode on this route.
	Mode string `yaml:"mode" enum:"off,detect,block"`
}

// References tells the config which policy is meant, so that a name that does
// not exist is reported together with all other mistakes.
func (c *Config) References(ref func(kind, key, name string)) {
	ref("waf_policy", "policy", c.Policy)
}

// Factory makes the plugin. Engines come from pool, which all its instances and
// all revisions of a config share. Events go to sink besides the log; sink may
// be nil.
func Factory(pool *engine.Pool, sink engine.Sink) plugins.Factory {
	return plugins.Define("waf", func(c *Config, s plugins.Settings) (plugins.Instance, error) {
		policy, ok := s.WAF[c.Policy]
		if !ok {
			known := slices.Sorted(maps.Keys(s.WAF))
			return nil, fmt.Errorf("policy: %q is not defined; known: %s", c.Policy, strings.Join(known, ", "))
		}
		if c.Mode != "" {
			policy.Mode = c.Mode
		}
		if policy.Mode == "off" {
			return plugins.Stateless(func(c *fiber.Ctx) error { return c.Next() }), nil
		}
		guard, err := pool.Guard(policy, s.Route)
		if err != nil {
			return nil, err
		}
		p := &plugin{guard: guard, pool: pool, sink: sink, route: s.Route.Name, log: s.Log}
		if p.log == nil {
			p.log = slog.New(slog.DiscardHandler)
		}
		p.bind(s)
		return p, nil
	}).NeedsWAF()
}

// plugin is a policy on a route.
type plugin struct {
	guard *engine.Guard
	pool  *engine.Pool
	sink  engine.Sink
	route string
	log   *slog.Logger

	requests *prometheus.CounterVec
	passed   prometheus.Counter
	hits     *prometheus.CounterVec
	seconds  prometheus.Observer
	engines  prometheus.Gauge
	spam     limiter

	closing sync.Once
}

var _ plugins.Instance = (*plugin)(nil)

// buckets are seconds: Coraza takes a millisecond for a small request and grows
// with the body.
var buckets = []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1}

func (p *plugin) bind(s plugins.Settings) {
	p.requests = s.Counter("gatehouse_waf_requests_total", "Requests by what the WAF did with them.", "route", "policy", "action")
	p.passed = p.requests.WithLabelValues(p.route, p.guard.Policy, "passed")
	p.hits = s.Counter("gatehouse_waf_rule_hits_total", "Matches of rules that are logged.", "rule")
	p.seconds = s.Histogram("gatehouse_waf_inspection_seconds", "Time in the engine per request, without waiting for bodies.", buckets, "policy").WithLabelValues(p.guard.Policy)
	p.engines = s.Gauge("gatehouse_waf_engines", "Compiled WAF engines; policies with the same rules share one.").WithLabelValues()
	p.engines.Set(float64(p.pool.Len()))
}

// Start implements plugins.Instance.
func (p *plugin) Start(context.Context) error { return nil }

// Close implements plugins.Instance.
func (p *plugin) Close(context.Context) error {
	var err error
	p.closing.Do(func() {
		err = p.guard.Close()
		p.engines.Set(float64(p.pool.Len()))
	})
	return err
}
