package config

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// Referrer is a plugin config that names other parts of the config. It calls
// ref with a kind (upstream, listener, certificate, consumer,
// waf_policy), the key below
// itself that holds the name, and the name.
type Referrer interface {
	References(ref func(kind, key, name string))
}

// Validate notes what is wrong with the meaning of a decoded config: names
// that do not exist, routes that can never match, values that contradict.
func Validate(c *Config, p *problem.List) {
	v := &validator{c: c}
	v.node(p.Under("node"))
	v.listeners(p)
	v.certificates(p)
	for name, u := range each(c.Upstreams) {
		v.upstream(name, u, under(p, "upstreams", name))
	}
	v.consumers(p)
	v.waf(p.Under("waf"))
	v.plugins(c.Plugins, p)
	counters(nil, c.Plugins, func() *problem.List { return p })
	names := slices.Sorted(maps.Keys(c.Routes))
	for _, name := range names {
		v.route(name, c.Routes[name], &at{list: p, keys: [2]string{"routes", name}})
	}
	v.duplicates(names, p)
}

type validator struct {
	c     *Config
	known map[string][]string
}

// at is a path that becomes one only when there is something to say: most
// routes of a large config are right.
type at struct {
	list *problem.List
	keys [2]string
	made *problem.List
}

func (a *at) p() *problem.List {
	if a.made == nil {
		a.made = under(a.list, a.keys[0], a.keys[1])
	}
	return a.made
}

func under(p *problem.List, kind, name string) *problem.List {
	return p.Under(kind).Under(name)
}

// each goes through a map in the order of its keys.
func each[V any](m map[string]V) func(func(string, V) bool) {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// exists is true if a name of that kind is defined.
func (v *validator) exists(kind, name string) bool {
	ok := false
	switch kind {
	case "upstream":
		_, ok = v.c.Upstreams[name]
	case "listener":
		_, ok = v.c.Listeners[name]
	case "certificate":
		_, ok = v.c.Certificates[name]
	case "consumer":
		_, ok = v.c.Consumers[name]
	case "waf_policy":
		_, ok = v.c.WAF.Policies[name]
		ok = ok || name == "default"
	}
	return ok
}

// undefined notes a name that does not exist.
func (v *validator) undefined(p *problem.List, kind, key, name string) {
	if v.known == nil {
		v.known = map[string][]string{
			"upstream":    slices.Collect(maps.Keys(v.c.Upstreams)),
			"listener":    slices.Collect(maps.Keys(v.c.Listeners)),
			"certificate": slices.Collect(maps.Keys(v.c.Certificates)),
			"consumer":    slices.Collect(maps.Keys(v.c.Consumers)),
			"waf_policy":  append(slices.Collect(maps.Keys(v.c.WAF.Policies)), "default"),
		}
		v.known["waf_policy"] = slices.Compact(slices.Sorted(slices.Values(v.known["waf_policy"])))
	}
	p.Add(key, "%q is not defined%s", name, p.Suggest(name, v.known[kind]))
}

func (v *validator) node(p *problem.List) {
	n := &v.c.Node
	p.Check(n.Name == "" || isName(n.Name), "name", "%s, got %q", nameRule, n.Name)
	p.Check(n.Zone == "" || isName(n.Zone), "zone", "%s, got %q", nameRule, n.Zone)
	p.Check(n.DataDir != "", "data_dir", "must not be empty")
	v.fleet(p)
	v.registry(&n.Registry, p.Under("registry"))
	if n.SecretKey != "" {
		atLeast(p, "secret_key", n.SecretKey.Reveal(), 32)
	}
	if n.Admin.Address != "off" {
		checkListenAddress(p, "admin.address", n.Admin.Address)
	}
	if n.Tracing.OTLP != "" {
		u, err := url.Parse(n.Tracing.OTLP)
		ok := err == nil && u.Host != "" && slices.Contains([]string{"http", "https", "grpc", "grpcs"}, u.Scheme)
		p.Check(ok, "tracing.otlp", "must be http://HOST:PORT, https://, grpc:// or grpcs://, got %q", n.Tracing.OTLP)
	}
	p.Check(n.Tracing.ServiceName != "", "tracing.service_name", "must not be empty")
	p.Check(n.AccessLog.Path != "", "access_log.path", `must be a file, "stdout", "stderr" or "off"`)
	for i, h := range n.AccessLog.Headers {
		p.Check(isToken(h), index("access_log.headers", i), "must be a header name, got %q", h)
	}
	for i, h := range n.AccessLog.Mask {
		p.Check(h != "", index("access_log.mask", i), "must not be empty")
	}
}

// plugins checks the names that plugin configs refer to.
func (v *validator) plugins(list []Plugin, p *problem.List) {
	for i, pl := range list {
		r, ok := pl.Config.(Referrer)
		if !ok {
			continue
		}
		r.References(func(kind, key, name string) {
			if !v.exists(kind, name) {
				v.undefined(p.Under(index("plugins", i)).Under(pl.Name), kind, key, name)
			}
		})
	}
}

// oneOf notes that not exactly one of several keys is there.
func oneOf(p *problem.List, given []string, keys ...string) bool {
	last := len(keys) - 1
	all := strings.Join(keys[:last], ", ") + " and " + keys[last]
	switch len(given) {
	case 1:
		return true
	case 0:
		p.Add("", "needs exactly one of %s, has none", all)
	default:
		p.Add("", "needs exactly one of %s, has %s", all, strings.Join(given, " and "))
	}
	return false
}

// given lists the keys whose flag is true.
func given(keys []string, flags ...bool) []string {
	var out []string
	for i, f := range flags {
		if f {
			out = append(out, keys[i])
		}
	}
	return out
}

// atLeast checks the length of a secret without telling it.
func atLeast(p *problem.List, key, secret string, least int) {
	p.Check(len(secret) >= least, key, "must have at least %d bytes, has %d", least, len(secret))
}

// repeats goes through the indexes of values that are in list before.
func repeats(list []string) func(func(int) bool) {
	return func(yield func(int) bool) {
		if len(list) < 2 {
			return
		}
		seen := make(map[string]bool, len(list))
		for i, s := range list {
			if seen[s] && !yield(i) {
				return
			}
			seen[s] = true
		}
	}
}
