package compile

import (
	"slices"
	"strconv"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// noRoute names, in metrics and logs, the requests no route matches.
const noRoute = "none"

// instance is a plugin in a chain: a unit, or why there is none.
type instance struct {
	key     string
	name    string
	handler fiber.Handler // nil when broken
}

// chain builds the instances of a list of plugins. where is its path in the
// config; facts tell them about the route around them. An instance is taken
// over by its name and by being the first, second, … of that name in its list:
// a plugin put before others leaves them their state.
func (b *build) chain(where string, list []config.Plugin, facts plugins.Route) []instance {
	out := make([]instance, len(list))
	for i, p := range list {
		nth := 0
		for _, before := range list[:i] {
			if before.Name == p.Name {
				nth++
			}
		}
		key := "plugin/" + where + "/" + p.Name + "/" + strconv.Itoa(nth)
		b.paths[key] = where + "[" + strconv.Itoa(i) + "]." + p.Name
		out[i] = b.instance(key, p, facts)
	}
	return out
}

func (b *build) instance(key string, p config.Plugin, facts plugins.Route) instance {
	in := instance{key: key, name: p.Name}
	f, known := b.factories[p.Name]
	if !known { // config knows the same names
		panic("BUG: unknown plugin " + p.Name)
	}
	inputs := []any{p.Name, p.Config, facts, b.src.Dir}
	if f.Consumers {
		inputs = append(inputs, b.consumersDigest)
	}
	if f.WAF {
		inputs = append(inputs, b.policiesDigest)
	}
	sum := b.digester.digest(inputs...)
	if u, same := b.units.Reuse(b.prev, in.key, sum); same {
		in.handler = u.(plugins.Instance).Handle
		return in
	}
	s := plugins.Settings{
		Route: facts, Dir: b.src.Dir, Metrics: b.settings.Metrics.Registerer(),
		Log: b.settings.Log.With("route", facts.Name, "plugin", p.Name),
	}
	if f.Consumers {
		s.Consumers = b.consumers
	}
	if f.WAF {
		s.WAF = b.policies
	}
	made, err := f.New(p.Config, s)
	if err != nil {
		b.fail(in.key, err)
		return in
	}
	b.units.Add(in.key, sum, made)
	in.handler = made.Handle
	return in
}

// compiled is a route under construction.
type compiled struct {
	route *exchange.Route
	needs []string // keys of the units it cannot do without
}

// assemble makes a route of its plugins and the handler that answers.
func (b *build) assemble(name string, list []instance, action string, last fiber.Handler) *compiled {
	c := &compiled{route: &exchange.Route{Name: name, Recorder: b.settings.Metrics.Route(name)}}
	c.route.Chain = make([]fiber.Handler, 0, len(list)+1)
	c.route.Steps = make([]string, 0, len(list)+1)
	for _, in := range list {
		c.needs = append(c.needs, in.key)
		c.route.Chain = append(c.route.Chain, in.handler)
		c.route.Steps = append(c.route.Steps, in.name)
	}
	c.route.Chain = append(c.route.Chain, last)
	c.route.Steps = append(c.route.Steps, action)
	return c
}

// markBroken closes routes whose units cannot be used: never open, never
// without their plugins.
func (b *build) markBroken(routes map[string]*compiled) {
	for name, c := range routes {
		i := slices.IndexFunc(c.needs, func(key string) bool { return b.broken[key] != "" })
		if i < 0 {
			continue
		}
		why := b.paths[c.needs[i]] + ": " + b.broken[c.needs[i]]
		if name == "" {
			name = noRoute
		}
		b.result.Broken[name] = why
		refusal := reason.RouteBroken.Because("%s", why)
		c.route.Chain = []fiber.Handler{func(*fiber.Ctx) error { return refusal }}
		c.route.Steps = []string{"broken"}
	}
}

// plan is what a person is told of a route.
func plan(c *compiled, action string, upstreams []string) Plan {
	return Plan{Steps: slices.Clone(c.route.Steps[:len(c.route.Steps)-1]), Action: action, Upstreams: upstreams}
}
