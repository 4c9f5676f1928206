package route_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/route"
)

// many makes n routes of one shape; the last is the one looked for.
func many(n int, of func(i int) route.Match) []route.Entry[int] {
	list := make([]route.Entry[int], n)
	for i := range list {
		list[i] = route.Entry[int]{Name: fmt.Sprintf("r%05d", i), Match: of(i), Value: i}
	}
	return list
}

// shapes are the ways ten thousand routes differ, with the request for route i.
var shapes = []struct {
	name  string
	match func(i int) route.Match
	line  string // with the number of the route
}{
	{"host", func(i int) route.Match { return on(prefix("/v1/users"), fmt.Sprintf("h%05d.example.com", i)) }, "GET h%05d.example.com/v1/users/42"},
	{"wildcard", func(i int) route.Match { return on(prefix("/v1/users"), fmt.Sprintf("*.h%05d.example.com", i)) }, "GET www.h%05d.example.com/v1/users/42"},
	{"prefix", func(i int) route.Match { return prefix(fmt.Sprintf("/v1/s%05d", i)) }, "GET h/v1/s%05d/users/42"},
	{"exact", func(i int) route.Match { return route.Match{Path: route.Path{Exact: fmt.Sprintf("/v1/s%05d", i)}} }, "GET h/v1/s%05d"},
	{"regex", func(i int) route.Match {
		return route.Match{Path: route.Path{Regex: fmt.Sprintf("/v1/s%05d/[0-9]+", i)}}
	}, "GET h/v1/s%05d/42"},
}

const lots = 10_000

func TestLookupDoesNotAllocate(t *testing.T) {
	f := func(name string, tbl *route.Table[int], q *route.Query, want int) {
		t.Helper()
		if got, ok := tbl.Lookup(q); !ok || got != want {
			t.Fatalf("%s: %d, %v, want %d", name, got, ok, want)
		}
		if n := testing.AllocsPerRun(1000, func() { tbl.Lookup(q) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
	for _, s := range shapes {
		if s.name == "regex" && raceEnabled {
			continue // regexp's own pool drops at random under the race detector
		}
		tbl, err := route.New(many(lots, s.match))
		if err != nil {
			t.Fatal(err)
		}
		f(s.name, tbl, query(fmt.Sprintf(s.line, lots-1)), lots-1)
	}
	v := []route.Value{{Name: "x-key", Op: route.Exact, Text: "a b"}}
	all := func(int) route.Match {
		return route.Match{Methods: []string{"PUT", "GET"}, Headers: v, Query: v, Cookies: v}
	}
	tbl, err := route.New(many(1, all))
	if err != nil {
		t.Fatal(err)
	}
	f("conditions", tbl, query("GET h/?a=1&x-key=a%20b", "X-Key: a b", "Cookie: b=1; x-key=a b"), 0)
}

func TestEveryOneOfTenThousandRoutesIsFound(t *testing.T) {
	for _, s := range shapes {
		tbl, err := route.New(many(lots, s.match))
		if err != nil {
			t.Fatal(err)
		}
		for i := range lots {
			if got, ok := tbl.Lookup(query(fmt.Sprintf(s.line, i))); !ok || got != i {
				t.Fatalf("%s: route %d: found %d, %v", s.name, i, got, ok)
			}
		}
		if got, ok := tbl.Lookup(query(fmt.Sprintf(s.line, lots))); ok {
			t.Fatalf("%s: route %d: found %d", s.name, lots, got)
		}
	}
}

// hostile is a request as long as the front lets through.
func hostile() *route.Query {
	q := query("GET x/")
	q.Path = "/" + strings.Repeat("a/", 4000)
	q.Host += strings.Repeat(".a", 120)
	return q
}

func hostileTable(t testing.TB) *route.Table[int] {
	tbl, err := route.New(many(1, func(int) route.Match { return on(prefix("/a/a"), "*.a.a") }))
	if err != nil {
		t.Fatal(err)
	}
	return tbl
}

func TestLongPathsAndHosts(t *testing.T) {
	if got, ok := hostileTable(t).Lookup(hostile()); !ok || got != 0 {
		t.Fatalf("found %d, %v", got, ok)
	}
}

// BenchmarkHostile shows that a walk ends where the table does, not the request.
func BenchmarkHostile(b *testing.B) {
	tbl, q := hostileTable(b), hostile()
	for b.Loop() {
		tbl.Lookup(q)
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, s := range shapes {
		for _, n := range []int{1, lots} {
			tbl, err := route.New(many(n, s.match))
			if err != nil {
				b.Fatal(err)
			}
			q := query(fmt.Sprintf(s.line, n-1))
			b.Run(fmt.Sprintf("%s/%d", s.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, ok := tbl.Lookup(q); !ok {
						b.Fatal("not found")
					}
				}
			})
		}
	}
}

func BenchmarkNew(b *testing.B) {
	for _, s := range shapes {
		list := many(lots, s.match)
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := route.New(list); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
