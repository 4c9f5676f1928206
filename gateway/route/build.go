package route

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

// pathKind is in order of precedence.
type pathKind uint8

const (
	exactPath pathKind = iota
	prefixPath
	regexPath
	anyPath
)

// candidate is a route for one of its hosts.
type candidate struct {
	entry int32
	rank  int32 // place in the order of precedence
	kind  pathKind
	rules *rules         // nil: none
	regex *regexp.Regexp // of the path
	// literal is how every path that regex matches begins.
	literal string

	name, host, path string // host "" is any; path without a prefix's last slash
}

// rules are conditions besides host and path.
type rules struct {
	methods                   []string
	headers, queries, cookies []condition
}

type condition struct {
	name string
	op   Op
	text string
	re   *regexp.Regexp
}

// builder collects candidates and mistakes.
type builder struct {
	all  []candidate
	errs []error
}

func (b *builder) fail(route, place, format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf("routes.%s.match.%s %s", route, place, fmt.Sprintf(format, args...)))
}

func (b *builder) add(entry int32, name string, m *Match) {
	c := candidate{entry: entry, name: name, rules: b.rules(name, m)}
	b.path(&c, m.Path)
	if len(m.Hosts) == 0 {
		b.all = append(b.all, c)
		return
	}
	var seen []string
	for _, h := range m.Hosts {
		host, err := parseHost(h)
		if err != nil {
			b.fail(name, "hosts", "%q: %v", h, err)
			continue
		}
		if !slices.Contains(seen, host) {
			seen = append(seen, host)
			c.host = host
			b.all = append(b.all, c)
		}
	}
}

// parseHost returns "" for any, ".example.com" for a wildcard.
func parseHost(h string) (string, error) {
	if h == "*" {
		return "", nil
	}
	name := strings.TrimSuffix(strings.ToLower(h), ".")
	rest, wild := strings.CutPrefix(name, "*.")
	plain := rest
	if strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]") && !wild {
		plain = strings.Trim(rest, "[]:0123456789abcdef.")
		if plain != "" {
			return "", errors.New("is not an IPv6 address in brackets")
		}
		return name, nil
	}
	if plain == "" || strings.HasPrefix(plain, ".") || strings.Contains(plain, "..") {
		return "", errors.New("has an empty label")
	}
	for _, r := range plain {
		if (r < '0' || r > '9') && (r < 'a' || r > 'z') && !strings.ContainsRune("-._", r) {
			return "", fmt.Errorf("must be a host name or *.NAME without a port; %q cannot stand there", r)
		}
	}
	if wild {
		return "." + rest, nil
	}
	return name, nil
}

func (b *builder) path(c *candidate, p Path) {
	given := 0
	for _, s := range []string{p.Exact, p.Prefix, p.Regex} {
		if s != "" {
			given++
		}
	}
	switch {
	case given > 1:
		b.fail(c.name, "path", "must have only one of exact, prefix and regex")
	case p.Exact != "":
		c.kind, c.path = exactPath, b.normal(c.name, "path.exact", p.Exact)
	case p.Prefix != "":
		c.kind, c.path = prefixPath, strings.TrimSuffix(b.normal(c.name, "path.prefix", p.Prefix), "/")
		if c.path == "" {
			c.kind = anyPath
		}
	case p.Regex != "":
		c.kind, c.path = regexPath, p.Regex
		c.regex = b.compile(c.name, "path.regex", p.Regex)
		c.literal = literalPrefix(p.Regex)
	default:
		c.kind = anyPath
	}
}

// normal is a path as requests have it, so that it can match one at all.
func (b *builder) normal(route, place, path string) string {
	if path == "*" {
		return path
	}
	out, r := target.Normalize(nil, []byte(path), target.Rules{KeepEncodedSlashes: true})
	if r != nil {
		b.fail(route, place, "%q: no request has this path: it must begin with a slash and be unambiguous", path)
		return "/"
	}
	return string(out)
}

func (b *builder) compile(route, place, pattern string) *regexp.Regexp {
	re, err := regexp.Compile(pattern) // alone first, so that "a)(b" is an error
	if err == nil {
		re, err = regexp.Compile(`\A(?:` + pattern + `)\z`)
	}
	if err != nil {
		b.fail(route, place, "%q: %v", pattern, err)
	}
	return re
}

func (b *builder) rules(route string, m *Match) *rules {
	r := &rules{methods: slices.Clone(m.Methods)}
	for _, name := range m.Methods {
		if name == "" || strings.ToUpper(name) != name {
			b.fail(route, "methods", "%q: methods are case-sensitive and written in upper case", name)
		}
	}
	r.headers = b.conditions(route, "headers", m.Headers)
	r.queries = b.conditions(route, "query", m.Query)
	r.cookies = b.conditions(route, "cookies", m.Cookies)
	if len(r.methods)+len(r.headers)+len(r.queries)+len(r.cookies) == 0 {
		return nil
	}
	return r
}

func (b *builder) conditions(route, place string, values []Value) []condition {
	list := make([]condition, 0, len(values))
	for _, v := range values {
		at := place + "." + v.Name
		c := condition{name: v.Name, op: v.Op, text: v.Text}
		switch {
		case v.Name == "":
			b.fail(route, place, "must have names")
		case v.Op > Absent:
			b.fail(route, at, "has no known way to compare")
		case v.Op == Regex:
			c.re = b.compile(route, at+".regex", v.Text)
		}
		if place == "headers" {
			c.name = string(fasthttp.AppendNormalizedHeaderKey(nil, c.name))
		}
		list = append(list, c)
	}
	// The order of conditions must not depend on that of a map.
	slices.SortStableFunc(list, func(x, y condition) int { return strings.Compare(x.name, y.name) })
	return list
}

// precedence orders candidates that may match the same request.
func precedence(a, b *candidate) int {
	return cmp.Or(
		cmp.Compare(hostRank(a.host), hostRank(b.host)),
		cmp.Compare(a.kind, b.kind),
		pathOrder(a, b),
		count(b.rules, hasMethods)-count(a.rules, hasMethods),
		count(b.rules, headers)-count(a.rules, headers),
		count(b.rules, queries)-count(a.rules, queries),
		count(b.rules, cookies)-count(a.rules, cookies),
		strings.Compare(a.name, b.name),
		cmp.Compare(a.entry, b.entry),
	)
}

// hostRank is smaller for more specific hosts.
func hostRank(h string) int {
	switch {
	case h == "":
		return 1 << 16
	case h[0] == '.':
		return 1<<16 - len(h)
	}
	return 0
}

func pathOrder(a, b *candidate) int {
	if a.kind == prefixPath || a.kind == regexPath {
		return len(b.path) - len(a.path)
	}
	return 0
}

func hasMethods(r *rules) int { return min(len(r.methods), 1) }
func headers(r *rules) int    { return len(r.headers) }
func queries(r *rules) int    { return len(r.queries) }
func cookies(r *rules) int    { return len(r.cookies) }

func count(r *rules, of func(*rules) int) int {
	if r == nil {
		return 0
	}
	return of(r)
}

// build arranges the candidates, in order of precedence, for lookup.
func (b *builder) build(t *core) error {
	if len(b.errs) > 0 {
		return errors.Join(b.errs...)
	}
	slices.SortFunc(b.all, func(x, y candidate) int { return precedence(&x, &y) })
	t.all = slices.Clip(b.all)
	t.exact, t.wild = map[string]*hostTable{}, map[string]*hostTable{}
	for i := range t.all {
		c := &t.all[i]
		c.rank = int32(i)
		var h *hostTable
		switch {
		case c.host == "":
			if t.any == nil {
				t.any = new(hostTable)
			}
			h = t.any
		case c.host[0] == '.':
			t.wildDots = max(t.wildDots, strings.Count(c.host, "."))
			h = hostOf(t.wild, c.host)
		default:
			h = hostOf(t.exact, c.host)
		}
		h.add(c)
	}
	if t.any != nil {
		t.any.link()
	}
	for _, hosts := range []map[string]*hostTable{t.exact, t.wild} {
		for _, h := range hosts {
			h.link()
		}
	}
	return nil
}

func hostOf(m map[string]*hostTable, host string) *hostTable {
	h := m[host]
	if h == nil {
		h = new(hostTable)
		m[host] = h
	}
	return h
}
