package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/cmd"
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control"
	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

const (
	fleetNodes  = 50
	fleetRoutes = 5000
	fleetRounds = 3
)

// sharedConfig is a config of many routes, of which the n-th version differs from
// the one before in one route.
func sharedConfig(routes, n int) []config.File {
	var b strings.Builder
	b.WriteString("listeners: { web: { address: \"127.0.0.1:0\" } }\nupstreams:\n")
	for i := range 100 {
		fmt.Fprintf(&b, "  u%d: { endpoints: [\"10.0.0.%d:8080\", \"10.0.1.%d:8080\"] }\n", i, i, i)
	}
	b.WriteString("routes:\n")
	for i := range routes {
		limit := 100
		if i == n%routes {
			limit += n
		}
		fmt.Fprintf(&b, `  r%d:
    match: { hosts: [a%d.example.com], path: /v1/service-%d, methods: [GET, POST] }
    plugins: [{ request_id: {} }, { rate_limit: { limit: %d, per: 1m } }]
    backends: [{ upstream: u%d }]
`, i, i%500, i, limit, i%100)
	}
	return []config.File{{Name: "shared.yaml", Data: []byte(b.String())}}
}

// fleetNode is a node in this process: everything but the admin API.
type fleetNode struct {
	follower *fleet.Follower
	store    store.Store
	loop     *control.Loop
	gateway  *gateway.Gateway
	compiler *compile.Compiler

	mu   sync.Mutex
	live map[string]time.Time // by cause: "revision N"
}

func (n *fleetNode) at(revision uint64) time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.live[fmt.Sprintf("revision %d", revision)]
}

func (n *fleetNode) close(ctx context.Context) {
	n.follower.Close()
	n.loop.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = n.gateway.Drain(ctx) // the bench is over
	n.compiler.Close()
	_ = n.store.Close() // as above
}

// join starts a node of the fleet.
func join(ctx context.Context, dir, name, address string, key *revision.Key) (*fleetNode, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	kinds := cmd.Kinds()
	file := fmt.Sprintf("node: { name: %s, data_dir: %q, config: store, admin: { address: \"off\" }, access_log: { path: \"off\" } }\n", name, dir)
	first, _, err := config.Parse([]byte(file), "node.yaml", kinds, config.Options{})
	if err != nil {
		return nil, err
	}
	log, m := slog.New(slog.DiscardHandler), metrics.New(metrics.Settings{})
	n := &fleetNode{store: redis.New(redis.Settings{Addresses: []string{address}}), live: map[string]time.Time{}}
	if n.compiler, err = compile.New(compile.Settings{Plugins: cmd.Plugins(), Log: log, Metrics: m, Node: name}); err != nil {
		return nil, err
	}
	n.gateway = gateway.New(gateway.Settings{Log: log, Metrics: m})
	n.loop = control.New(control.Settings{Compiler: n.compiler, Gateway: n.gateway, Metrics: m, Log: log})
	n.follower, err = fleet.New(fleet.Settings{
		Store: n.store, Trusted: revision.Keyring{key.Public()}, Dir: dir, Self: fleet.Member{Node: name, Role: "gateway"},
		Parse: func(files []config.File) (*config.Config, *config.Source, error) {
			return config.ParseFiles(files, kinds, config.Options{Node: &first.Node, Dir: dir})
		},
		Metrics: m, Log: log,
	})
	if err != nil {
		return nil, err
	}
	n.follower.Begin(ctx)
	if err := n.loop.Start(ctx, first, nil); err != nil {
		return nil, err
	}
	n.follower.Start(ctx, func(ctx context.Context, cfg *config.Config, src *config.Source, why string) error {
		err := n.loop.Take(ctx, cfg, src, why)
		if err == nil {
			n.mu.Lock()
			n.live[why] = time.Now()
			n.mu.Unlock()
		}
		return err
	})
	return n, nil
}

// publish appends a revision as a control node does, who has checked it before.
func publish(ctx context.Context, s store.Store, key *revision.Key, n uint64, files []config.File) (size int, err error) {
	data, err := revision.Pack(files)
	if err != nil {
		return 0, err
	}
	return len(data), s.Publish(ctx, key.New(n, data, "bench", "bench", time.Now()))
}

// spread publishes revisions and returns how long each took to be live on each
// node.
func spread(ctx context.Context, nodes []*fleetNode, key *revision.Key, first uint64, rounds int) ([]time.Duration, error) {
	var took []time.Duration
	for i := range uint64(rounds) {
		number := first + i
		began := time.Now()
		if _, err := publish(ctx, nodes[0].store, key, number, sharedConfig(fleetRoutes, int(number))); err != nil {
			return nil, err
		}
		for _, n := range nodes {
			for n.at(number).IsZero() {
				if s := n.follower.Status(); s.Error != "" || time.Since(began) > time.Minute {
					return nil, fmt.Errorf("revision %d is not live after %v: %+v", number, time.Since(began), s)
				}
				time.Sleep(time.Millisecond)
			}
			took = append(took, n.at(number).Sub(began))
		}
	}
	slices.Sort(took)
	return took, nil
}

func percentile(sorted []time.Duration, p float64) time.Duration {
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)].Round(time.Millisecond)
}

// ownCPU is what this process has used so far.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fleets measures how long an apply takes to be live everywhere.
func fleets(ctx context.Context, r *run) error {
	address, err := freePort()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(address)
	server, err := r.start(ctx, "redis", address, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", r.dir)
	if err != nil {
		return err
	}
	defer r.stop(server)
	client := goredis.NewClient(&goredis.Options{Addr: address})
	defer client.Close()
	key, _, err := revision.LoadOrCreateKey(filepath.Join(r.dir, "fleet", "control.key"))
	if err != nil {
		return err
	}
	var nodes []*fleetNode
	defer func() {
		for _, n := range nodes {
			n.close(context.WithoutCancel(ctx))
		}
	}()
	add := func(up int) error {
		for len(nodes) < up {
			name := fmt.Sprintf("n%d", len(nodes))
			n, err := join(ctx, filepath.Join(r.dir, "fleet", name), name, address, key)
			if err != nil {
				return err
			}
			nodes = append(nodes, n)
		}
		return nil
	}
	if err := add(1); err != nil {
		return err
	}
	files := sharedConfig(fleetRoutes, 1)
	size, err := publish(ctx, nodes[0].store, key, 1, files)
	if err != nil {
		return err
	}
	weight, err := client.MemoryUsage(ctx, "gatehouse:{revisions}:1", 0).Result()
	if err != nil {
		return err
	}
	fmt.Printf("a revision of %d routes: %d KiB of YAML, %d KiB packed, %d KiB in Redis\n", fleetRoutes, len(files[0].Data)>>10, size>>10, weight>>10)
	next := uint64(2)
	for _, count := range []int{1, 10, fleetNodes} {
		if err := add(count); err != nil {
			return err
		}
		if _, err := spread(ctx, nodes, key, next, 1); err != nil { // warm, and all are there
			return err
		}
		cpu, redisCPU := ownCPU(), server.cpu()
		took, err := spread(ctx, nodes, key, next+1, fleetRounds)
		if err != nil {
			return err
		}
		applies := time.Duration(fleetRounds * count)
		next += 1 + fleetRounds
		fmt.Printf("%2d nodes: live after p50 %v, p99 %v, at most %v; CPU per apply and node %v, of Redis %v per apply\n", count,
			percentile(took, 0.50), percentile(took, 0.99), took[len(took)-1].Round(time.Millisecond),
			((ownCPU() - cpu) / applies).Round(10*time.Microsecond), ((server.cpu() - redisCPU) / fleetRounds).Round(100*time.Microsecond))
	}
	return idleFleet(ctx, client, server, nodes)
}

// idleFleet is what a fleet costs in which nothing happens.
func idleFleet(ctx context.Context, client *goredis.Client, server *process, nodes []*fleetNode) error {
	const watched = 10 * time.Second
	commands := func() (n int) {
		info, _ := client.Info(ctx, "stats").Result() // without it the figure is 0
		_, rest, _ := strings.Cut(info, "total_commands_processed:")
		_, _ = fmt.Sscan(rest, &n)
		return n
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	cpu, redisCPU, before := ownCPU(), server.cpu(), commands()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(watched):
	}
	share := func(used time.Duration) float64 { return 100 * used.Seconds() / watched.Seconds() }
	fmt.Printf("idle: %.3f %% of a core per node, %.2f %% for Redis, %.0f commands/s of %d nodes; %.1f MiB of heap per node\n",
		share(ownCPU()-cpu)/float64(len(nodes)), share(server.cpu()-redisCPU), float64(commands()-before)/watched.Seconds(), len(nodes),
		float64(m.HeapAlloc)/float64(len(nodes))/(1<<20))
	return nil
}
