package config_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
)

// manyRoutes is a config of n routes as people write them.
func manyRoutes(n int) []byte {
	var b strings.Builder
	b.WriteString("listeners:\n  web: {address: \":8080\"}\nupstreams:\n")
	for i := range 100 {
		fmt.Fprintf(&b, "  u%d: {endpoints: [\"10.0.0.%d:8080\", \"10.0.1.%d:8080\"]}\n", i, i, i)
	}
	b.WriteString("routes:\n")
	for i := range n {
		fmt.Fprintf(&b, `  r%d:
    match:
      hosts: [a%d.example.com]
      path: /v1/service-%d
      methods: [GET, POST]
    plugins:
      - request_id: {}
      - rate_limit: {limit: 100, per: 1m}
    backends:
      - {upstream: u%d, weight: 2}
`, i, i%500, i, i%100)
	}
	return []byte(b.String())
}

func BenchmarkParse10kRoutes(b *testing.B) {
	data := manyRoutes(10_000)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := config.Parse(data, "in.yaml", kinds(), config.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// The cost must grow with the number of routes, not with its square: 16 times
// as many may take 16 times as long, and 6 times that on a busy machine; the
// square would be 256 times.
func TestTimeGrowsWithRoutes(t *testing.T) {
	f := func(name string, make func(n int) []byte, valid bool) {
		t.Run(name, func(t *testing.T) {
			best := func(n int) time.Duration {
				data := make(n)
				least := time.Hour
				for range 3 {
					start := time.Now()
					_, _, err := config.Parse(data, "in.yaml", kinds(), config.Options{})
					if (err == nil) != valid {
						t.Fatal(err)
					}
					least = min(least, time.Since(start))
				}
				return least
			}
			small, large := best(250), best(4000)
			if large > 96*small {
				t.Fatalf("250 take %v, 4000 take %v", small, large)
			}
		})
	}
	f("routes", manyRoutes, true)
	f("routes with one host", func(n int) []byte {
		return []byte(strings.ReplaceAll(string(manyRoutes(n)), "hosts: [a", "hosts: [same.test] #"))
	}, true)
	f("routes that are all the same", func(n int) []byte {
		var b strings.Builder
		b.WriteString("routes:\n")
		for i := range n {
			fmt.Fprintf(&b, "  r%d: {respond: {}}\n", i)
		}
		return []byte(b.String())
	}, false)
	f("unknown upstreams", func(n int) []byte {
		return []byte(strings.ReplaceAll(string(manyRoutes(n)), "{upstream: u", "{upstream: nope"))
	}, false)
	f("hosts in one route", func(n int) []byte {
		return []byte("routes: {r: {respond: {}, match: {hosts: [a" + strings.Repeat(", a", n) + "]}}}\n")
	}, false)
}
