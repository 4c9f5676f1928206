package compile_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
)

// large is a config of n routes to n/10 upstreams, each with plugins.
func large(n int) []byte {
	var b strings.Builder
	b.WriteString(web + "plugins: [{ request_id: {} }]\nupstreams:\n")
	for i := range n / 10 {
		fmt.Fprintf(&b, "  up%d: { endpoints: [\"10.0.%d.%d:8080\", \"10.1.%d.%d:8080\"] }\n", i, i/250, i%250, i/250, i%250)
	}
	b.WriteString("routes:\n")
	for i := range n {
		fmt.Fprintf(&b, `  route%d:
    match: { hosts: [h%d.example.com], path: { prefix: /v1/service%d }, methods: [GET, POST] }
    plugins:
      - rate_limit: { limit: 100, per: 1m }
      - headers: { request: { set: { X-Route: "%d" } } }
    backends: [{ upstream: up%d }]
`, i, i%100, i, i, i/10)
	}
	return []byte(b.String())
}

func TestManyRoutes(t *testing.T) {
	w := newWorld(t)
	text := string(large(1000))
	r := w.apply(text)
	if n := len(r.Routes); n != 1001 {
		t.Errorf("%d routes", n)
	}
	before := w.units()
	w.apply(strings.Replace(text, "limit: 100, per: 1m", "limit: 99, per: 1m", 1))
	if same, fresh := kept(before, w.units()); len(fresh) != 1 || len(same) != len(before)-1 {
		t.Errorf("one plugin was changed: kept %d of %d, new %v", len(same), len(before), fresh)
	}
}

// BenchmarkLoad is what a start with 10 000 routes costs, from text to snapshot.
func BenchmarkLoad(b *testing.B) {
	text := large(10_000)
	w := newWorld(b)
	b.Run("parse", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := config.Parse(text, "x.yaml", w.kinds, config.Options{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	c, src, err := config.Parse(text, "x.yaml", w.kinds, config.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			r, err := w.compiler.Build(context.Background(), c, src, nil, compile.DryRun)
			if err != nil {
				b.Fatal(err)
			}
			r.Snapshot.Release()
			<-r.Snapshot.Retired()
		}
	})
	first, err := w.compiler.Build(context.Background(), c, src, nil, compile.DryRun)
	if err != nil {
		b.Fatal(err)
	}
	defer first.Snapshot.Release()
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			r, err := w.compiler.Build(context.Background(), c, src, first.Snapshot, compile.DryRun)
			if err != nil {
				b.Fatal(err)
			}
			r.Snapshot.Release()
			<-r.Snapshot.Retired()
		}
	})
}
