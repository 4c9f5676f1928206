package route_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/route"
)

// entries makes routes whose value is their name.
func entries(m map[string]route.Match) []route.Entry[string] {
	var list []route.Entry[string]
	for name, match := range m {
		list = append(list, route.Entry[string]{Name: name, Match: match, Value: name})
	}
	return list
}

func table(t testing.TB, m map[string]route.Match) *route.Table[string] {
	t.Helper()
	tbl, err := route.New(entries(m))
	if err != nil {
		t.Fatal(err)
	}
	return tbl
}

// query reads "METHOD host/path?query" and header lines.
func query(line string, lines ...string) *route.Query {
	method, rest, _ := strings.Cut(line, " ")
	rest, args, _ := strings.Cut(rest, "?")
	host, path, _ := strings.Cut(rest, "/")
	h := new(fasthttp.RequestHeader)
	h.DisableSpecialHeader() // as h1 hands it over: cookies raw
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h.Add(name, value)
	}
	h.EnableSpecialHeader()
	return route.Request(method, host, "/"+path, args, h)
}

func prefix(p string) route.Match { return route.Match{Path: route.Path{Prefix: p}} }

func on(m route.Match, hosts ...string) route.Match { m.Hosts = hosts; return m }

func TestPrecedence(t *testing.T) {
	one := []route.Value{{Name: "x", Op: route.Present}}
	two := []route.Value{{Name: "x", Op: route.Present}, {Name: "y", Op: route.Exact, Text: "1"}}
	tbl := table(t, map[string]route.Match{
		"any":          {},
		"root":         prefix("/"), // the same as any, later by name
		"regex":        {Path: route.Path{Regex: "/r/[0-9]+"}},
		"regex-longer": {Path: route.Path{Regex: "/r/[0-9][0-9]+"}},
		"v1":           prefix("/v1"),
		"v1-users":     prefix("/v1/users/"),
		"v1-exact":     {Path: route.Path{Exact: "/v1/users/me"}},
		"v1-get":       {Path: route.Path{Prefix: "/v1"}, Methods: []string{"GET"}},
		"v1-x":         {Path: route.Path{Prefix: "/v1"}, Headers: one},
		"v1-get-xy":    {Path: route.Path{Prefix: "/v1"}, Methods: []string{"GET", "PUT"}, Headers: two},
		"v1-query":     {Path: route.Path{Prefix: "/v1"}, Query: one},
		"v1-cookie":    {Path: route.Path{Prefix: "/v1"}, Cookies: one},
		"rv1-prefix":   prefix("/r/77"),
		"host":         on(prefix("/v1"), "a.example"),
		"wild":         on(prefix("/v1"), "*.example"),
		"wild-longer":  on(prefix("/v1"), "*.b.example"),
		"wild-exact":   on(route.Match{Path: route.Path{Exact: "/v1/e"}}, "*.example"),
		"name-a":       prefix("/n"),
		"name-b":       prefix("/n"),
	})
	f := func(want, line string, lines ...string) {
		t.Helper()
		got, ok := tbl.Lookup(query(line, lines...))
		if !ok || got != want {
			t.Errorf("%s %v: %q, want %q", line, lines, got, want)
		}
		if steps := tbl.Explain(query(line, lines...)); steps[len(steps)-1].Route != want {
			t.Errorf("%s %v: explained as %v", line, lines, steps)
		}
	}
	f("any", "GET h/")
	f("any", "GET h/v10")
	f("v1-get", "GET h/v1")
	f("v1", "POST h/v1/")
	f("v1-users", "GET h/v1/users", "x: 1")
	f("v1-users", "POST h/v1/users/me/x")
	f("v1-exact", "POST h/v1/users/me")
	f("v1-get-xy", "GET h/v1/x", "x: 1", "y: 1")
	f("v1-get", "GET h/v1/x", "x: 1", "y: 2") // methods go before headers
	f("v1-x", "POST h/v1/x?x=1", "X: 1", "Cookie: x=1")
	f("v1-query", "POST h/v1/x?x", "Cookie: x=1")
	f("v1-cookie", "POST h/v1/x", "Cookie: a=b; x=")
	f("regex", "GET h/r/1")
	f("regex-longer", "GET h/r/12")
	f("rv1-prefix", "GET h/r/77")
	f("name-a", "GET h/n")
	f("host", "GET a.example/v1/x", "x: 1")
	f("wild", "GET c.example/v1/x", "x: 1")
	f("wild-longer", "GET a.b.example/v1/x")
	f("wild-longer", "GET z.y.b.example/v1")
	f("wild", "GET b.example/v1/x")
	f("v1-get", "GET example/v1/x")
	f("wild-exact", "GET q.example/v1/e")
	f("wild-longer", "GET z.b.example/v1/e") // the longer wildcard goes before the exact path
	f("any", "GET a.example/other")          // falls through to any host
}

func TestNoMatch(t *testing.T) {
	tbl := table(t, map[string]route.Match{"a": on(prefix("/v1"), "a.example"), "g": {Path: route.Path{Exact: "/g"}, Methods: []string{"GET"}}})
	for _, line := range []string{"GET b.example/v1", "GET a.example/v2", "GET .a.example/v1", "GET /v1", "POST h/g"} {
		if got, ok := tbl.Lookup(query(line)); ok || got != "" {
			t.Errorf("%s: %q", line, got)
		}
	}
	star := query("OPTIONS h/")
	star.Path = "*"
	if got, ok := tbl.Lookup(star); ok {
		t.Errorf("*: %q", got)
	}
	none, err := route.New[int](nil)
	if _, ok := none.Lookup(query("GET a/b")); ok || err != nil || none.Len() != 0 {
		t.Errorf("an empty table matches: %v", err)
	}
	if got, ok := table(t, map[string]route.Match{"star": {Path: route.Path{Exact: "*"}}, "p": prefix("/a")}).Lookup(star); !ok || got != "star" {
		t.Errorf("exact *: %q", got)
	}
}

func TestConditions(t *testing.T) {
	f := func(op route.Op, text string, want bool, line string, lines ...string) {
		t.Helper()
		v := []route.Value{{Name: "key", Op: op, Text: text}}
		for kind, m := range map[string]route.Match{"header": {Headers: v}, "query": {Query: v}, "cookie": {Cookies: v}} {
			if !strings.Contains(line, kind) {
				continue
			}
			_, ok := table(t, map[string]route.Match{"r": m}).Lookup(query("GET h/x?"+strings.TrimPrefix(line, kind+" "), lines...))
			if ok != want {
				t.Errorf("%s %d %q %v: %v", line, op, text, lines, ok)
			}
		}
	}
	f(route.Exact, "a b", true, "query key=a%20b")
	f(route.Exact, "a b", true, "query x=1&%6bey=a+b&key=z")
	f(route.Exact, "z", false, "query key=a&key=z")
	f(route.Prefix, "a ", true, "query key=a+b")
	f(route.Prefix, "b", false, "query key=a")
	f(route.Regex, "[0-9]+", true, "query key=12")
	f(route.Regex, "[0-9]+", false, "query key=12x")
	f(route.Regex, "1 2|3", true, "query key=1%202")
	f(route.Present, "", true, "query key")
	f(route.Present, "", false, "query other=key")
	f(route.Absent, "", true, "query")
	f(route.Absent, "", false, "query key=")
	f(route.Exact, "", true, "header", "Key: ")
	f(route.Exact, "b", true, "header", "KEY: a", "key: b")
	f(route.Exact, "a, b", false, "header", "KEY: a", "key: b")
	f(route.Prefix, "ab", true, "header", "Key: abc")
	f(route.Prefix, "abcd", false, "header", "Key: abc")
	f(route.Regex, "a|bc", true, "header", "Key: bc")
	f(route.Regex, "a|b", false, "header", "Key: bc")
	f(route.Absent, "", true, "header", "Other: 1")
	f(route.Absent, "", false, "header", "Key: ")
	f(route.Exact, "1", true, "cookie", "Cookie: a=2; key=1")
	f(route.Exact, "1", true, "cookie", "Cookie: a=2", "Cookie: key=1")
	f(route.Exact, "1", false, "cookie", "Cookie: Key=1")
	f(route.Regex, "\".*\"", true, "cookie", `Cookie: key="x"`)
	f(route.Present, "", false, "cookie", "Cookie: akey=1")
	f(route.Absent, "", true, "cookie")
	f(route.Absent, "", false, "cookie", "Cookie: key=")
}

func TestNewReportsEveryMistake(t *testing.T) {
	_, err := route.New(entries(map[string]route.Match{"bad": {
		Hosts:   []string{"a:80", "*.*.x", "", "a..b", "[::x]", "*.", "ok", "a b"},
		Path:    route.Path{Regex: "a)(b"},
		Methods: []string{"get"},
		Headers: []route.Value{{Name: "X", Op: route.Regex, Text: "("}, {Op: route.Exact}},
		Query:   []route.Value{{Name: "q", Op: 99}},
	}, "two": {Path: route.Path{Exact: "/a", Prefix: "/b"}}, "rel": prefix("v1"), "up": {Path: route.Path{Exact: "/a/../../b"}}}))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`routes.bad.match.hosts "a:80": must be a host name or *.NAME without a port; ':'`, `hosts "*.*.x"`, `hosts ""`, `hosts "a..b"`, `hosts "[::x]"`, `hosts "*."`, `hosts "a b"`,
		`routes.bad.match.path.regex "a)(b": error parsing regexp`, `routes.bad.match.methods "get"`,
		`routes.bad.match.headers.X.regex "("`, `routes.bad.match.headers must have names`, `routes.bad.match.query.q has no known way`,
		`routes.two.match.path must have only one`, `routes.rel.match.path.prefix "v1": no request has this path`, `routes.up.match.path.exact`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %s in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), `"ok"`) {
		t.Error("a valid host was refused")
	}
}

func TestPathsAreNormalisedLikeRequests(t *testing.T) {
	tbl := table(t, map[string]route.Match{"e": {Path: route.Path{Exact: "/ä%3ab"}}, "p": prefix("/x%20y"), "h": on(prefix("/h"), "API.Example.", "[2001:DB8::1]")})
	for line, want := range map[string]string{"GET h/%C3%A4:b": "e", "GET h/x%20y/z": "p", "GET api.example/h": "h", "GET [2001:db8::1]/h": "h"} {
		if got, _ := tbl.Lookup(query(line)); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestExplainSaysWhy(t *testing.T) {
	v := func(name string, op route.Op, text string) []route.Value {
		return []route.Value{{Name: name, Op: op, Text: text}}
	}
	tbl := table(t, map[string]route.Match{
		"a": {Path: route.Path{Exact: "/p"}, Methods: []string{"PUT", "GET"}, Headers: v("x-a", route.Exact, "1"), Hosts: []string{"h"}},
		"b": {Path: route.Path{Exact: "/p"}, Methods: []string{"PUT"}, Hosts: []string{"*.com", "h"}},
		"c": {Path: route.Path{Prefix: "/p"}, Query: v("q", route.Regex, "x+")},
		"d": {Path: route.Path{Prefix: "/p"}, Cookies: v("c", route.Absent, "")},
		"e": {Path: route.Path{Regex: "/p"}, Headers: v("x-e", route.Prefix, "p")},
		"f": {},
	})
	var got []string
	for _, s := range tbl.Explain(query("GET h/p?q=1", "Cookie: c=1", "X-E: 2")) {
		got = append(got, fmt.Sprint(s.Route, "|", s.Host, "|", s.Path, "|", s.Failed))
	}
	want := `a|h|exact /p|headers.X-A: is not there, want "1"
b|h|exact /p|methods: "GET" is not among PUT
c|*|prefix /p|query.q: has another value, want regex "x+"
d|*|prefix /p|cookies.c: has another value, want none
e|*|regex /p|headers.X-E: has another value, want prefix "p"
f|*||`
	if g := strings.Join(got, "\n"); g != want {
		t.Errorf("got:\n%s\nwant:\n%s", g, want)
	}
	near := table(t, map[string]route.Match{"a": prefix("/a"), "b": on(prefix("/b"), "other")}).Explain(query("GET h/z"))
	if len(near) != 1 || near[0].Failed != `path: "/z" does not match` {
		t.Errorf("near misses: %v", near)
	}
}
