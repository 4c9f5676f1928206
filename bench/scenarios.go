package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"
)

// beside starts nginx, HAProxy and Gatehouse for one scenario.
func (r *run) beside(ctx context.Context, do func(nginx, haproxy, gatehouse *process) error) error {
	n, err := r.nginxPlain(ctx)
	if err != nil {
		return err
	}
	defer r.stop(n)
	h, err := r.haproxy(ctx)
	if err != nil {
		return err
	}
	defer r.stop(h)
	g, err := r.gateway(ctx, "gatehouse", gatewayPlain)
	if err != nil {
		return err
	}
	defer r.stop(g)
	return do(n, h, g)
}

var get = wrk("http", "/")

func plain(ctx context.Context, r *run) error {
	return r.beside(ctx, func(n, h, g *process) error {
		return r.compare(ctx, row{p: n, load: get}, row{p: h, load: get}, row{p: g, load: get})
	})
}

func post(ctx context.Context, r *run) error {
	script, err := r.file("post.lua", fmt.Sprintf(
		"wrk.method = 'POST'\nwrk.body = '%s'\nwrk.headers['Content-Type'] = 'text/plain'\n", strings.Repeat("p", 512)))
	if err != nil {
		return err
	}
	s := wrk("http", "/", "-s", script)
	return r.beside(ctx, func(n, h, g *process) error {
		return r.compare(ctx, row{p: n, load: s}, row{p: h, load: s}, row{p: g, load: s})
	})
}

func latency(ctx context.Context, r *run) error {
	return r.beside(ctx, func(n, h, g *process) error {
		fmt.Println("| | p50 ms | p99 ms | p99.9 ms | p99 ratio |\n|---|---|---|---|---|")
		p99 := map[*process][]float64{}
		lines := map[*process]string{}
		for range r.rounds {
			for _, p := range []*process{n, h, g} {
				all, err := r.openLoop(ctx, p, 4000, 32, r.seconds+1)
				if err != nil {
					return err
				}
				p99[p] = append(p99[p], quantile(all, 0.99))
				lines[p] += fmt.Sprintf(" %.2f/%.2f/%.2f", quantile(all, 0.5), quantile(all, 0.99), quantile(all, 0.999))
			}
		}
		base := 0.0
		for _, p := range []*process{n, h, g} {
			slices.Sort(p99[p])
			mid := p99[p][len(p99[p])/2]
			if p == n {
				base = mid
			}
			fmt.Printf("| %s | rounds (p50/p99/p99.9):%s | median p99 %.2f | | %.2f |\n", p.name, lines[p], mid, mid/base)
		}
		return nil
	})
}

func routes(ctx context.Context, r *run) error {
	one, err := r.gateway(ctx, "one route", gatewayPlain)
	if err != nil {
		return err
	}
	defer r.stop(one)
	var many strings.Builder
	many.WriteString("listeners: { web: { address: \"LISTEN\" } }\nupstreams: { b: { endpoints: [\"BACKEND\"] } }\nroutes:\n")
	for i := range 10000 {
		fmt.Fprintf(&many, "  r%05d: { match: { path: /service-%05d }, backends: [{ upstream: b }] }\n", i, i)
	}
	began := time.Now()
	all, err := r.gateway(ctx, "last of 10 000 routes", many.String())
	if err != nil {
		return err
	}
	defer r.stop(all)
	fmt.Printf("started and answering with 10 000 routes after %.0f ms\n", float64(time.Since(began).Milliseconds()))
	load := wrk("http", "/service-09999/x")
	return r.compare(ctx, row{p: one, load: load}, row{p: all, load: load})
}

const gatewayGuarded = `listeners: { web: { address: "LISTEN" } }
upstreams: { b: { endpoints: ["BACKEND"] } }
consumers: { bench: { api_keys: ["sha256:93adc7e9a2f3adc7f8b0b3d1ff5d02b6bd0d2b9bd9a5b49c0a0ec3b61cf0ab4c"] } }
routes:
  all:
    match: { path: / }
    plugins:
      - request_id: {}
      - api_key: {}
      - rate_limit: { limit: 100000000, per: 1s, burst: 1000000, key: consumer }
    backends: [{ upstream: b }]
`

func guarded(ctx context.Context, r *run) error {
	n, err := r.nginxGuarded(ctx)
	if err != nil {
		return err
	}
	defer r.stop(n)
	g, err := r.gateway(ctx, "gatehouse guarded", strings.Replace(gatewayGuarded,
		"93adc7e9a2f3adc7f8b0b3d1ff5d02b6bd0d2b9bd9a5b49c0a0ec3b61cf0ab4c", sha256Hex("bench-key"), 1))
	if err != nil {
		return err
	}
	defer r.stop(g)
	load := wrk("http", "/", "-H", "X-API-Key: bench-key")
	return r.compare(ctx, row{p: n, load: load}, row{p: g, load: load})
}

const gatewayWAF = `listeners: { web: { address: "LISTEN" } }
upstreams: { b: { endpoints: ["BACKEND"] } }
routes: { all: { match: { path: / }, plugins: [{ waf: {} }], backends: [{ upstream: b }] } }
`

func firewall(ctx context.Context, r *run) error {
	g, err := r.gateway(ctx, "gatehouse with CRS", gatewayWAF)
	if err != nil {
		return err
	}
	defer r.stop(g)
	load := wrk("http", "/search?q=hello+world&page=2&sort=price", "-c16", "-H", "User-Agent: Mozilla/5.0 (X11; Linux x86_64)", "-H", "Accept: text/html", "-H", "Cookie: session=abcdef0123456789")
	return r.compare(ctx, row{p: g, load: load})
}

// reloads touches the config file while clients are busy.
func reloads(ctx context.Context, r *run) error {
	g, err := r.gateway(ctx, "gatehouse", gatewayPlain)
	if err != nil {
		return err
	}
	defer r.stop(g)
	load := *r
	load.seconds = 8
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 5 {
			time.Sleep(1300 * time.Millisecond)
			_, _ = r.file("gatehouse.yaml", reloadText(r, g, i)) // a failed write shows as a failed count below
			_ = g.cmd.Process.Signal(syscall.SIGHUP)
		}
	}()
	x, err := load.wrk(ctx, g, "http", "/", "-c32")
	<-done
	if err != nil {
		return err
	}
	fmt.Printf("%d requests, %d failed\n", x.requests, x.failed)
	return nil
}

func reloadText(r *run, g *process, i int) string {
	text := strings.ReplaceAll(strings.ReplaceAll(gatewayPlain, "LISTEN", g.address), "BACKEND", r.backend)
	return fmt.Sprintf("node: { name: bench, data_dir: %s/data, admin: { address: \"off\" }, access_log: { path: \"off\" } }\n", r.dir) + text +
		fmt.Sprintf("  extra%d: { match: { path: /extra%d }, respond: { body: \"%d\" } }\n", i, i, i)
}
