package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

const (
	instances = 10_000
	readers   = 10
	// writers register at the same time, as many clients would.
	writers = 64
	// idleFor is how long an idle node is looked at.
	idleFor = 20 * time.Second
)

const gatewayOfMesh = `listeners: { web: { address: "LISTEN" } }
upstreams: { b: { endpoints: ["BACKEND"] }, services: { mesh: service-07 } }
routes: { all: { match: { path: / }, backends: [{ upstream: b }] }, mesh: { match: { path: /mesh }, backends: [{ upstream: services }] } }
`

// services fills a registry in a real Redis and looks how long others take to
// know of it, and what knowing costs a node that does nothing else.
func services(ctx context.Context, r *run) error {
	address, err := freePort()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(address)
	p, err := r.start(ctx, "redis", address, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", r.dir)
	if err != nil {
		return err
	}
	defer r.stop(p)
	nodes := make([]*registry.Registry, readers+1)
	for i := range nodes {
		n, done := registryIn(address)
		defer done()
		n.Looked(ctx)
		nodes[i] = n
	}
	began := time.Now()
	if err := everybody(ctx, func(ctx context.Context, i registry.Instance) error {
		_, _, err := nodes[0].Register(ctx, i, registry.Expect{})
		return err
	}); err != nil {
		return err
	}
	told := time.Now()
	for _, n := range nodes {
		if err := know(ctx, n); err != nil {
			return err
		}
	}
	fmt.Printf("%d instances, registered by %d at once in %.2f s; all %d readers know them %.3f s later\n",
		instances, writers, told.Sub(began).Seconds(), readers, time.Since(told).Seconds())
	cold, done := registryIn(address)
	defer done()
	began = time.Now()
	if err := know(ctx, cold); err != nil {
		return err
	}
	fmt.Printf("a node that starts knows them after %.3f s\n", time.Since(began).Seconds())
	began = time.Now()
	if _, err := nodes[1].Override(ctx, "service-07", "i00007", registry.Drain, registry.Expect{}); err != nil {
		return err
	}
	for _, n := range nodes {
		for n.Get("service-07", "i00007").Effective() != registry.Drain {
			time.Sleep(100 * time.Microsecond)
		}
	}
	fmt.Printf("one that is drained is so for all after %.1f ms\n", float64(time.Since(began).Microseconds())/1e3)
	for _, n := range nodes[1:] {
		n.Close() // the idle node shall be alone with who sends heartbeats
	}
	return idleNode(ctx, r, nodes[0], address)
}

// registryIn is a node's part in the registry, and what ends it.
func registryIn(address string) (*registry.Registry, func()) {
	s := redis.New(redis.Settings{Addresses: []string{address}})
	n := registry.New(registry.Settings{Store: s, Log: slog.New(slog.DiscardHandler)})
	return n, func() {
		n.Close()
		_ = s.Close() // never an error
	}
}

// everybody does something for each instance, many at once.
func everybody(ctx context.Context, do func(context.Context, registry.Instance) error) error {
	var all sync.WaitGroup
	errs := make([]error, writers)
	for w := range writers {
		all.Go(func() {
			for k := w; k < instances && errs[w] == nil && ctx.Err() == nil; k += writers {
				errs[w] = do(ctx, registry.Instance{
					Service: fmt.Sprintf("service-%02d", k%100), ID: fmt.Sprintf("i%05d", k), Host: fmt.Sprintf("10.0.%d.%d", k/250, k%250), Port: 8080,
					Zone: "z1", Metadata: map[string]string{"version": "1.2.3", "management.port": "8081"}, Status: registry.Up, TTL: unit.Duration(90 * time.Second),
				})
			}
		})
	}
	all.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// know waits until a node knows every instance.
func know(ctx context.Context, n *registry.Registry) error {
	n.Use()
	for n.Summary().Instances < instances {
		if err := ctx.Err(); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// idleNode measures a node whose registry is full, while heartbeats go on
// elsewhere, each instance's every 30 s.
func idleNode(ctx context.Context, r *run, n *registry.Registry, redisAddress string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var beating sync.WaitGroup
	defer beating.Wait()
	defer cancel()
	beating.Go(func() {
		tick := time.NewTicker(30 * time.Second / instances * 10)
		defer tick.Stop()
		for k := 0; ctx.Err() == nil; k += 10 {
			for j := k; j < k+10; j++ {
				_ = n.Heartbeat(ctx, fmt.Sprintf("service-%02d", j%100), fmt.Sprintf("i%05d", j%instances)) // at the end it is cut off
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	for _, x := range []struct{ name, node string }{ // node is the end of its node section
		{"idle without a registry", ""},
		{"idle with the registry", fmt.Sprintf("  store: { redis: { addresses: [%q] } }\n", redisAddress)},
	} {
		g, err := r.gateway(ctx, x.name, x.node+gatewayOfMesh)
		if err != nil {
			return err
		}
		time.Sleep(5 * time.Second)
		before := g.cpu()
		time.Sleep(idleFor)
		used := g.cpu() - before
		fmt.Printf("%s: %.2f %% of a core, %.1f MB\n", g.name, 100*used.Seconds()/idleFor.Seconds(), mb(g.rss()))
		r.stop(g)
	}
	return nil
}
