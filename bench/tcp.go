package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const gatewayTCP = `listeners: { web: { address: "LISTEN", protocol: tcp, backends: [{ upstream: b }] } }
upstreams: { b: { endpoints: ["BACKEND"] } }
`

// flow is a bulk transfer through a TCP proxy.
type flow struct {
	bytes int64
	cpu   time.Duration
	took  time.Duration
}

func (f flow) rate() float64 { return float64(f.bytes) / 1e6 / f.took.Seconds() }
func (f flow) cost() float64 { return f.cpu.Seconds() * 1000 / (float64(f.bytes) / 1e9) }

// tcp compares bulk transfers over four connections.
func tcp(ctx context.Context, r *run) error {
	backend, err := r.helper(ctx, "stream", "stream", "")
	if err != nil {
		return err
	}
	defer r.stop(backend)
	with := *r
	with.backend = backend.address
	h, err := with.haproxyWith(ctx, fmt.Sprintf("frontend f\n  mode tcp\n  option splice-auto\n  bind LISTEN\n  default_backend b\nbackend b\n  mode tcp\n  option splice-auto\n  server s %s\n", backend.address))
	if err != nil {
		return err
	}
	defer r.stop(h)
	g, err := with.gateway(ctx, "gatehouse", gatewayTCP)
	if err != nil {
		return err
	}
	defer r.stop(g)
	for _, way := range []string{"download", "upload"} {
		fmt.Printf("%s:\n| | MB/s | CPU ms/GB | throughput ratio | CPU ratio |\n|---|---|---|---|---|\n", way)
		all := map[*process][]flow{}
		for range r.rounds {
			for _, p := range []*process{h, g} {
				f, err := r.transfer(ctx, p, way[:1])
				if err != nil {
					return err
				}
				all[p] = append(all[p], f)
			}
		}
		var base flow
		for _, p := range []*process{h, g} {
			slices.SortFunc(all[p], func(a, b flow) int { return int(a.rate() - b.rate()) })
			mid := all[p][len(all[p])/2]
			if p == h {
				base = mid
			}
			fmt.Printf("| %s | %.0f | %.0f | %.2f | %.2f |\n", p.name, mid.rate(), mid.cost(), mid.rate()/base.rate(), mid.cost()/base.cost())
		}
	}
	return nil
}

// transfer moves bytes over four connections for one round.
func (r *run) transfer(ctx context.Context, p *process, way string) (flow, error) {
	var total atomic.Int64
	var failed atomic.Pointer[error]
	before, began := p.cpu(), time.Now()
	end := began.Add(time.Duration(r.seconds) * time.Second)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := move(ctx, p.address, way, end, &total); err != nil {
				failed.Store(&err)
			}
		})
	}
	wg.Wait()
	f := flow{total.Load(), p.cpu() - before, time.Since(began)}
	if err := failed.Load(); err != nil {
		return f, *err
	}
	return f, nil
}

func move(ctx context.Context, address, way string, end time.Time, total *atomic.Int64) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, way); err != nil {
		return err
	}
	b := make([]byte, len(zeros))
	for time.Now().Before(end) && ctx.Err() == nil {
		do := c.Write
		if way == "d" {
			do = c.Read
		}
		n, err := do(b)
		total.Add(int64(n))
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
