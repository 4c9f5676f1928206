package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// claim is a route's share of the requests with one host and one path,
// headers, query and cookies: some listeners and some methods. Two claims of
// equal rank that overlap leave it to chance, or to the order of names, which
// route a request takes.
type claim struct {
	route     string
	listeners []uint64 // bit set
	methods   uint64   // bit set
	anyMethod bool
}

func (c *claim) overlaps(o *claim) bool {
	if c.anyMethod != o.anyMethod {
		return false // a route that names the method has precedence
	}
	if !c.anyMethod && c.methods&o.methods == 0 {
		return false
	}
	for i := range c.listeners {
		if c.listeners[i]&o.listeners[i] != 0 {
			return true
		}
	}
	return false
}

// duplicates notes routes that match the same requests with the same
// precedence as an earlier route, and so would never be taken. Routes are
// grouped by everything but listeners and methods, so that the cost grows with
// the number of routes, not with its square.
func (v *validator) duplicates(names []string, p *problem.List) {
	bit := make(map[string]int, len(v.c.Listeners))
	for i, l := range slices.Sorted(maps.Keys(v.c.Listeners)) {
		bit[l] = i
	}
	claims := make(map[string][]*claim, len(names))
	var key []byte
	for _, name := range names {
		m := v.c.Routes[name].Match
		c := newClaim(name, &m, bit)
		rest := appendMatch(nil, &m)
		hosts := m.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, h := range hosts {
			key = append(append(append(key[:0], h...), 0), rest...)
			if old := overlapping(claims[string(key)], c); old != nil {
				under(p, "routes", name).Add("match", "route %q already matches the same requests (%s)", old.route, describeMatch(h, &m))
				break
			}
			claims[string(key)] = append(claims[string(key)], c)
		}
	}
}

func overlapping(list []*claim, c *claim) *claim {
	for _, old := range list {
		if old.route != c.route && old.overlaps(c) {
			return old
		}
	}
	return nil
}

func newClaim(name string, m *Match, bit map[string]int) *claim {
	c := &claim{route: name, listeners: make([]uint64, len(bit)/64+1), anyMethod: len(m.Methods) == 0}
	for _, l := range m.Listeners {
		if i, ok := bit[l]; ok {
			c.listeners[i/64] |= 1 << (i % 64)
		}
	}
	if len(m.Listeners) == 0 {
		for i := range c.listeners {
			c.listeners[i] = ^uint64(0)
		}
	}
	for _, method := range m.Methods {
		if i, ok := isMethod[method]; ok {
			c.methods |= 1 << i
		}
	}
	return c
}

// appendMatch writes path, headers, query and cookies so that equal matches
// are equal bytes. A prefix means the same with and without a slash at its end.
func appendMatch(b []byte, m *Match) []byte {
	switch {
	case m.Path.Exact != "":
		b = append(append(b, 'e'), m.Path.Exact...)
	case m.Path.Regex != "":
		b = append(append(b, 'r'), m.Path.Regex...)
	default:
		b = append(append(b, 'p'), strings.TrimSuffix(m.Path.Prefix, "/")...)
	}
	for i, values := range []map[string]ValueMatch{m.Headers, m.Query, m.Cookies} {
		if len(values) == 0 {
			continue
		}
		if i == 0 {
			values = folded(values)
		}
		for name, v := range each(values) {
			b = append(b, 0, byte('0'+i))
			b = strconv.AppendQuote(b, name)
			b = fmt.Appendf(b, "%q%q%q", v.Exact, v.Prefix, v.Regex)
			if v.Present != nil {
				b = strconv.AppendBool(b, *v.Present)
			}
		}
	}
	return b
}

// folded has the keys in lower case, for header names mean the same in any.
func folded(values map[string]ValueMatch) map[string]ValueMatch {
	out := make(map[string]ValueMatch, len(values))
	for name, v := range values {
		out[strings.ToLower(name)] = v
	}
	return out
}

func describeMatch(host string, m *Match) string {
	if host == "" {
		host = "any"
	}
	out := "host " + host
	switch {
	case m.Path.Exact != "":
		out += ", path " + m.Path.Exact
	case m.Path.Regex != "":
		out += ", path regex " + m.Path.Regex
	case m.Path.Prefix != "":
		out += ", path prefix " + m.Path.Prefix
	default:
		out += ", any path"
	}
	if len(m.Methods) > 0 {
		out += ", methods " + strings.Join(m.Methods, " ")
	}
	return out
}
