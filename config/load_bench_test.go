package config_test

import (
	"fmt"
	"strings"
	"testing"

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
