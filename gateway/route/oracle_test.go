package route_test

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/gateway/route"
)

// oracle is the specification in the most obvious words: all that match, the
// best by one comparison after the other.
func oracle(list []route.Entry[string], q *route.Query) string {
	type found struct {
		name string
		keys []int
	}
	var best *found
	for _, e := range list {
		for _, host := range append(slices.Clone(e.Match.Hosts), anyOf(e.Match.Hosts)...) {
			hostKey, ok := hostMatch(host, q.Host)
			if !ok {
				continue
			}
			kind, length, ok := pathMatch(e.Match.Path, q.Path)
			if !ok || len(e.Match.Methods) > 0 && !slices.Contains(e.Match.Methods, string(q.Method)) || !valuesMatch(&e.Match, q) {
				continue
			}
			f := &found{e.Name, []int{hostKey, kind, length, min(1, len(e.Match.Methods)), len(e.Match.Headers), len(e.Match.Query), len(e.Match.Cookies)}}
			if best == nil || slices.Compare(f.keys, best.keys) > 0 || slices.Equal(f.keys, best.keys) && f.name < best.name {
				best = f
			}
		}
	}
	if best == nil {
		return ""
	}
	return best.name
}

func anyOf(hosts []string) []string {
	if len(hosts) == 0 {
		return []string{"*"}
	}
	return nil
}

func hostMatch(pattern, host string) (rank int, ok bool) {
	if pattern == "*" {
		return 0, true
	}
	if rest, wild := strings.CutPrefix(pattern, "*"); wild {
		return len(rest), strings.HasSuffix(host, rest) && host != rest
	}
	return 1000, pattern == host
}

func pathMatch(p route.Path, path string) (kind, length int, ok bool) {
	prefix := strings.TrimSuffix(p.Prefix, "/")
	switch {
	case p.Exact != "":
		return 3, 0, p.Exact == path
	case prefix != "":
		return 2, len(prefix), path == prefix || strings.HasPrefix(path, prefix+"/")
	case p.Regex != "":
		return 1, len(p.Regex), regexp.MustCompile("^(" + p.Regex + ")$").MatchString(path)
	}
	return 0, 0, true
}

func valuesMatch(m *route.Match, q *route.Query) bool {
	values, _ := url.ParseQuery(q.Args)
	for _, v := range m.Headers {
		lines := q.Header.PeekAll(v.Name)
		var text []string
		for _, l := range lines {
			text = append(text, string(l))
		}
		if !anyMatches(v, text) {
			return false
		}
	}
	for _, v := range m.Query {
		if !anyMatches(v, values[v.Name][:min(1, len(values[v.Name]))]) {
			return false
		}
	}
	for _, v := range m.Cookies {
		var text []string
		for _, pair := range strings.Split(string(q.Header.Peek("Cookie")), "; ") {
			if name, value, ok := strings.Cut(pair, "="); ok && name == v.Name && text == nil {
				text = append(text, value)
			}
		}
		if !anyMatches(v, text) {
			return false
		}
	}
	return true
}

func anyMatches(v route.Value, values []string) bool {
	if v.Op == route.Absent {
		return len(values) == 0
	}
	return slices.ContainsFunc(values, func(s string) bool {
		switch v.Op {
		case route.Exact:
			return s == v.Text
		case route.Prefix:
			return strings.HasPrefix(s, v.Text)
		case route.Regex:
			return regexp.MustCompile("^(" + v.Text + ")$").MatchString(s)
		}
		return true
	})
}

var (
	hosts    = []string{"*", "a.x", "b.a.x", "x", "*.x", "*.a.x", "*.b.a.x", "c.b.a.x"}
	segments = []string{"a", "b", "ab", "", "a%20b", "c"}
	patterns = []string{"/.*", "/a/.*", "/a/b(/c)?", "(?i)/A/b", "/a/[a-c]+", "/(a|b)/c", "/a/b/c", "^/a/b.*$", "/a/b/.*c", "/ab?", "/", "(/a|/b/a).*"}
)

func drawPath(t *rapid.T) string {
	return "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom(segments), 0, 4).Draw(t, "segments"), "/")
}

func drawValues(t *rapid.T, label string) []route.Value {
	var list []route.Value
	for _, name := range []string{"K", "L"} {
		if rapid.IntRange(0, 3).Draw(t, label+name) == 0 {
			op := rapid.SampledFrom([]route.Op{route.Exact, route.Prefix, route.Regex, route.Present, route.Absent}).Draw(t, "op")
			list = append(list, route.Value{Name: name, Op: op, Text: rapid.SampledFrom([]string{"", "1", "12", "2"}).Draw(t, "text")})
		}
	}
	return list
}

func drawMatch(t *rapid.T) route.Match {
	m := route.Match{
		Hosts:   rapid.SliceOfNDistinct(rapid.SampledFrom(hosts), 0, 2, rapid.ID[string]).Draw(t, "hosts"),
		Methods: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"GET", "PUT"}), 0, 1, rapid.ID[string]).Draw(t, "methods"),
	}
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		m.Path.Exact = drawPath(t)
	case 1, 2:
		m.Path.Prefix = drawPath(t)
	case 3:
		m.Path.Regex = rapid.SampledFrom(patterns).Draw(t, "regex")
	}
	if rapid.Bool().Draw(t, "conditions") {
		m.Headers, m.Query, m.Cookies = drawValues(t, "header"), drawValues(t, "query"), drawValues(t, "cookie")
	}
	return m
}

func drawQuery(t *rapid.T) *route.Query {
	value := rapid.SampledFrom([]string{"1", "12", "%31", "", "2"})
	args := []string{}
	for range rapid.IntRange(0, 2).Draw(t, "args") {
		args = append(args, rapid.SampledFrom([]string{"K=", "L=", "M="}).Draw(t, "name")+value.Draw(t, "value"))
	}
	var lines []string
	for range rapid.IntRange(0, 3).Draw(t, "headers") {
		lines = append(lines, rapid.SampledFrom([]string{"K: ", "l: ", "Cookie: K=", "Cookie: z=1; L="}).Draw(t, "header")+value.Draw(t, "value"))
	}
	cookie := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "Cookie") })
	for i := len(lines) - 1; i > cookie && cookie >= 0; i-- { // one Cookie line, as the oracle reads it
		if strings.HasPrefix(lines[i], "Cookie") {
			lines = slices.Delete(lines, i, i+1)
		}
	}
	q := query(rapid.SampledFrom([]string{"GET", "PUT"}).Draw(t, "method")+" "+rapid.SampledFrom(append(hosts[1:4:4], "y", "c.b.a.x", "z.c.b.a.x", ".x")).Draw(t, "host")+"/?"+strings.Join(args, "&"), lines...)
	q.Path = drawPath(t)
	return q
}

// TestLookupAgreesWithOracle also holds Explain to the same answer.
func TestLookupAgreesWithOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list []route.Entry[string]
		for i := range rapid.IntRange(1, 24).Draw(t, "routes") {
			name := string(rune('a'+i)) + rapid.SampledFrom([]string{"", "z"}).Draw(t, "name")
			list = append(list, route.Entry[string]{Name: name, Match: drawMatch(t), Value: name})
		}
		list = rapid.Permutation(list).Draw(t, "order")
		tbl, err := route.New(list)
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			q := drawQuery(t)
			want := oracle(list, q)
			got, ok := tbl.Lookup(q)
			if got != want || ok != (want != "") {
				t.Fatalf("%s%s: %q, want %q\n%+v", q.Host, q.Path, got, want, list)
			}
			steps := tbl.Explain(q)
			if want != "" && (steps[len(steps)-1].Route != want || steps[len(steps)-1].Failed != "") {
				t.Fatalf("%s%s: explained %+v, want %s", q.Host, q.Path, steps, want)
			}
		}
	})
}

func FuzzLookup(f *testing.F) {
	list := []route.Entry[string]{}
	for i, p := range patterns {
		list = append(list, route.Entry[string]{Name: "r" + string(rune('a'+i)), Value: "r" + string(rune('a'+i)), Match: route.Match{Path: route.Path{Regex: p}}})
	}
	for i, h := range hosts {
		for j, s := range []string{"/", "/a", "/a/b", "/a//b", "/c"} {
			name := "p" + string(rune('a'+i)) + string(rune('a'+j))
			list = append(list, route.Entry[string]{Name: name, Value: name, Match: route.Match{Hosts: []string{h}, Path: route.Path{Prefix: s}}})
		}
	}
	tbl, err := route.New(list)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("b.a.x", "/a/b")
	f.Fuzz(func(t *testing.T, host, path string) {
		if !strings.HasPrefix(path, "/") && path != "*" {
			return
		}
		q := route.Request("GET", host, path, "", nil)
		if got, _ := tbl.Lookup(q); got != oracle(list, q) {
			t.Fatalf("%s%s: %q, want %q", host, path, got, oracle(list, q))
		}
	})
}
