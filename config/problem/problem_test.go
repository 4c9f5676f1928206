package problem_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

func TestViewsShareOneList(t *testing.T) {
	var p problem.List
	routes := p.Under("routes").Under("a")
	routes.Add("match", "first %d", 1)
	p.Check(false, "node", "second")
	p.Check(true, "node", "never")
	routes.Under("plugins[2]").Under("jwt").AddAt(problem.Position{File: "f", Line: 3, Column: 4}, "", "third")
	const want = "routes.a.match: first 1\nnode: second\nf:3:4: routes.a.plugins[2].jwt: third"
	if got := p.Err().Error(); got != want || p.Len() != 3 || routes.Path() != "routes.a" {
		t.Fatalf("got %q", got)
	}
	var none problem.List
	if none.Err() != nil || none.All() != nil {
		t.Fatal("an empty list is an error")
	}
}

func TestSort(t *testing.T) {
	at := func(file string, line, column int, path string) problem.Problem {
		return problem.Problem{At: problem.Position{File: file, Line: line, Column: column}, Path: path}
	}
	all := []problem.Problem{at("b", 1, 1, ""), at("a", 10, 1, ""), at("a", 2, 9, "y"), at("a", 2, 9, "x"), at("a", 2, 10, ""), at("a", 0, 0, "")}
	problem.Sort(all)
	var got []string
	for _, p := range all {
		got = append(got, p.String())
	}
	if s := strings.Join(got, "|"); s != "a: |a:2:9: x: |a:2:9: y: |a:2:10: |a:10:1: |b:1:1: " {
		t.Fatalf("got %s", s)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"backends", "match", "plugins", "respond", "retries", "rewrite"}
	for got, want := range map[string]string{
		"pluginz": "plugins", "Plugins": "plugins", "macth": "match", "backend": "backends", "retires": "retries",
		"x": "", "": "", "zzzzzzz": "", "responds": "respond", "MATCH": "match",
	} {
		if n := problem.Nearest(got, known); n != want {
			t.Errorf("nearest to %q is %q, want %q", got, n, want)
		}
	}
	long := strings.Repeat("a", 500)
	if n := problem.Nearest(long+"x", []string{long}); n != long {
		t.Error("long names are not found")
	}
}

func TestSuggestIsShort(t *testing.T) {
	known := make([]string, 1000)
	for i := range known {
		known[i] = fmt.Sprintf("name-%04d", i)
	}
	got := problem.Suggest("name-x500", known)
	if !strings.HasPrefix(got, ` (did you mean "name-0500"?); known: name-0000, name-0001`) || !strings.HasSuffix(got, " and 980 more") {
		t.Fatalf("got %s", got)
	}
	if got := problem.Suggest("x", nil); got != "; known: none" {
		t.Fatalf("got %s", got)
	}
	var p problem.List
	for range 200 {
		p.Add("", "x")
	}
	p.Undefined("a", "upstream", "b", known)
	if got := p.All()[200].Message; got != `"b" is not a known upstream; known: 1000 others` {
		t.Fatalf("got %s", got)
	}
}
