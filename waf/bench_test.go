package waf

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/plugins"
)

func benchRequest(method, target, kind, body string) *Request {
	r := &Request{
		Client: netip.MustParseAddrPort("203.0.113.7:4000"), Server: netip.MustParseAddrPort("10.0.0.1:80"),
		Protocol: "HTTP/1.1", Method: method, Target: target, Host: "example.com", Path: "/api/v1/users",
		Fields: []Field{
			{"Host", "example.com"},
			{"User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"},
			{"Accept", "application/json"},
			{"Cookie", "session=abcdef0123456789; theme=dark"},
		},
	}
	if body != "" {
		r.Fields = append(r.Fields, Field{"Content-Type", kind}, Field{"Content-Length", strconv.Itoa(len(body))})
	}
	return r
}

func inspect(g *Guard, r *Request, body string) (Verdict, Outcome) {
	i := g.Begin()
	v := i.Head(r)
	if v.Action == Pass {
		v = i.Body([]byte(body), true)
	}
	return v, i.End()
}

func benchmark(b *testing.B, p plugins.WAFPolicy, method, target, kind, body string, want Action) {
	g := guard(b, NewPool(), p)
	defer g.Close() //nolint:errcheck // the benchmark is over
	r := benchRequest(method, target, kind, body)
	b.ReportAllocs()
	for b.Loop() {
		if v, out := inspect(g, r, body); v.Action != want {
			b.Fatalf("%+v %+v", v, out)
		}
	}
}

const (
	benchTarget = "/api/v1/users?id=42&name=alice&sort=desc"
	benchJSON   = `{"user":"alice","email":"alice@example.com","items":[{"sku":"A-1","qty":2},{"sku":"B-2","qty":1}],"note":"please ring the bell"}`
)

func BenchmarkGET(b *testing.B) { benchmark(b, testPolicy(), "GET", benchTarget, "", "", Pass) }

func BenchmarkJSON(b *testing.B) {
	benchmark(b, testPolicy(), "POST", "/api/v1/users", "application/json", benchJSON, Pass)
}

func BenchmarkAttack(b *testing.B) {
	benchmark(b, testPolicy(), "GET", benchTarget+"&q=1%27+OR+%271%27%3D%271", "", "", Deny)
}

func BenchmarkForm2KB(b *testing.B) {
	const text = "Thank you for the quick reply. We would like to order two more chairs, in blue if possible. "
	benchmark(b, testPolicy(), "POST", "/contact", "application/x-www-form-urlencoded", "text="+strings.ReplaceAll(strings.Repeat(text, 20), " ", "+"), Pass)
}

// BenchmarkGETWithExclusions is what fifty exclusions for other paths cost.
func BenchmarkGETWithExclusions(b *testing.B) {
	p := testPolicy()
	for i := range 50 {
		p.Exclusions = append(p.Exclusions, plugins.WAFExclusion{
			Rules: []string{"942100"}, Targets: []string{"ARGS:q"}, Paths: []string{fmt.Sprintf("/path%d/*", i)},
		})
	}
	benchmark(b, p, "GET", benchTarget, "", "", Pass)
}

func BenchmarkGuardOfKnownPolicy(b *testing.B) {
	pool := NewPool()
	first := guard(b, pool, testPolicy())
	defer first.Close() //nolint:errcheck // the benchmark is over
	b.ReportAllocs()
	for b.Loop() {
		g := guard(b, pool, testPolicy())
		if err := g.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
