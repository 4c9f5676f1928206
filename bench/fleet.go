package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
)

const (
	fleetNodes  = 50
	fleetRoutes = 5000
	fleetRounds = 20
	// rawNodes and rawRounds are for nodes that each compile for themselves: all
	// of the fleet would need a core each.
	rawNodes  = 4
	rawRounds = 3
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

// rollout is how long revisions took, each in order of size.
type rollout struct {
	// live and told are how long it took to be live on a node, and to be known as
	// such by the store.
	live, told []time.Duration
	// last is how long it took, for each revision, until the store knew that it
	// is live on every node.
	last []time.Duration
	// cpu is what an apply cost this process, redis what it cost Redis.
	cpu, redis time.Duration
}

// spread publishes revisions one after the other, each as soon as the one before
// is live everywhere and acknowledged.
func (f *fleetBench) spread(ctx context.Context, rounds int) (*rollout, error) {
	revisions := make([][]config.File, rounds)
	for i := range revisions {
		revisions[i] = sharedConfig(fleetRoutes, int(f.next)+i)
	}
	runtime.GC()
	var out rollout
	cpu, redisCPU := ownCPU(), f.server.cpu()
	for _, files := range revisions {
		began := time.Now()
		if _, err := f.publish(ctx, files); err != nil {
			return nil, err
		}
		number := f.next - 1
		last := time.Duration(0)
		for _, n := range f.nodes {
			m, err := n.reached(ctx, number)
			if err != nil {
				return nil, err
			}
			out.live, out.told = append(out.live, m.live.Sub(began)), append(out.told, m.told.Sub(began))
			last = max(last, m.told.Sub(began))
		}
		out.last = append(out.last, last)
	}
	out.cpu, out.redis = (ownCPU()-cpu)/time.Duration(rounds), (f.server.cpu()-redisCPU)/time.Duration(rounds)
	slices.Sort(out.live)
	slices.Sort(out.told)
	slices.Sort(out.last)
	return &out, nil
}

func percentile(sorted []time.Duration, p float64) time.Duration {
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)].Round(time.Millisecond)
}

// spectrum is what of a distribution is worth telling.
func spectrum(sorted []time.Duration) string {
	return fmt.Sprintf("p50 %v, p99 %v, at most %v", percentile(sorted, 0.50), percentile(sorted, 0.99), percentile(sorted, 1))
}

// ownCPU is what this process has used so far.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fleetBench is a Redis and the nodes that follow it.
type fleetBench struct {
	r      *run
	server *process
	client *goredis.Client
	store  store.Store // the publisher's
	key    *revision.Key
	next   uint64 // revision to publish
	nodes  []*fleetNode
	on     []*machine
}

// publish appends a revision as a control node does, who has checked it before.
func (f *fleetBench) publish(ctx context.Context, files []config.File) (size int, err error) {
	data, err := revision.Pack(files)
	if err != nil {
		return 0, err
	}
	err = f.store.Publish(ctx, f.key.New(f.next, data, "bench", "bench", time.Now()))
	f.next++
	return len(data), err
}

// join starts nodes that share so many machines.
func (f *fleetBench) join(ctx context.Context, count, machines int) error {
	for i := range count {
		if i < machines {
			m, err := newMachine(ctx, fmt.Sprintf("m%d", i))
			if err != nil {
				return err
			}
			f.on = append(f.on, m)
		}
		name := fmt.Sprintf("n%d-%d", f.next, i)
		n, err := join(ctx, filepath.Join(f.r.dir, "fleet", name), name, f.server.address, f.key, f.on[i%machines])
		if err != nil {
			return err
		}
		f.nodes = append(f.nodes, n)
	}
	_, err := f.spread(ctx, 1) // warm, and all are there
	return err
}

func (f *fleetBench) leave(ctx context.Context) {
	for _, n := range f.nodes {
		n.close()
	}
	for _, m := range f.on {
		m.close(context.WithoutCancel(ctx))
	}
	f.nodes, f.on = nil, nil
}

// fleets measures how long an apply takes to be live everywhere.
func fleets(ctx context.Context, r *run) error {
	address, err := freePort()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(address)
	f := &fleetBench{r: r, next: 1}
	if f.server, err = r.start(ctx, "redis", address, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", r.dir); err != nil {
		return err
	}
	defer r.stop(f.server)
	f.client = goredis.NewClient(&goredis.Options{Addr: address})
	defer f.client.Close()
	f.store = redis.New(redis.Settings{Addresses: []string{address}})
	defer f.store.Close() //nolint:errcheck // the bench is over
	if f.key, _, err = revision.LoadOrCreateKey(filepath.Join(r.dir, "fleet", "control.key")); err != nil {
		return err
	}
	defer f.leave(ctx)
	files := sharedConfig(fleetRoutes, 1)
	size, err := f.publish(ctx, files)
	if err != nil {
		return err
	}
	weight, err := f.client.MemoryUsage(ctx, "gatehouse:{revisions}:1", 0).Result()
	if err != nil {
		return err
	}
	fmt.Printf("a revision of %d routes: %d KiB of YAML, %d KiB packed, %d KiB in Redis; load %s\n", fleetRoutes, len(files[0].Data)>>10, size>>10, weight>>10, loadAverage())

	one, err := f.measure(ctx, 1, 1, rawRounds)
	if err != nil {
		return err
	}
	f.leave(ctx)
	fmt.Printf("1 node: acknowledged after %s; CPU %v per apply, publishing included\n", spectrum(one.last), one.cpu.Round(time.Millisecond))

	raw, err := f.measure(ctx, rawNodes, rawNodes, rawRounds)
	if err != nil {
		return err
	}
	f.leave(ctx)
	fmt.Printf("%d nodes that share %d cores, each parses and compiles: acknowledged by the last after %s; CPU %v per apply\n",
		rawNodes, runtime.NumCPU(), spectrum(raw.last), raw.cpu.Round(time.Millisecond))

	all, err := f.measure(ctx, fleetNodes, 1, fleetRounds)
	if err != nil {
		return err
	}
	spent := slices.Clone(f.on[0].spent)[1:] // of all but the first
	slices.Sort(spent)
	fmt.Printf(`%d nodes, %d applies. Each has its own connections, member entry, data folder, fetch, verification, unpacking
and acknowledgement. Parsing and compiling a revision is really done, but once for all of them: the nodes of a fleet
have a machine each and do it at the same time, here they would take turns on %d cores.
  live on a node:                  %s
  acknowledged by a node:          %s
  acknowledged by the last of all: %s
  of which parsing, compiling and swapping: %s
  CPU: %v per apply; %v per node for all but parsing and compiling; Redis %v per apply
`, fleetNodes, fleetRounds, runtime.NumCPU(), spectrum(all.live), spectrum(all.told), spectrum(all.last), spectrum(spent),
		all.cpu.Round(time.Millisecond), ((all.cpu - one.cpu) / (fleetNodes - 1)).Round(10*time.Microsecond), all.redis.Round(100*time.Microsecond))
	return f.idle(ctx)
}

func (f *fleetBench) measure(ctx context.Context, count, machines, rounds int) (*rollout, error) {
	if err := f.join(ctx, count, machines); err != nil {
		return nil, err
	}
	return f.spread(ctx, rounds)
}

// loadAverage is how busy the machine was in the last minute.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(text), " ")
	return one
}

// idle is what a fleet costs in which nothing happens.
func (f *fleetBench) idle(ctx context.Context) error {
	const watched = 20 * time.Second
	commands := func() (n int) {
		info, _ := f.client.Info(ctx, "stats").Result() // without it the figure is 0
		_, rest, _ := strings.Cut(info, "total_commands_processed:")
		_, _ = fmt.Sscan(rest, &n)
		return n
	}
	cpu, redisCPU, before := ownCPU(), f.server.cpu(), commands()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(watched):
	}
	count := float64(len(f.nodes))
	share := func(used time.Duration) float64 { return 100 * used.Seconds() / watched.Seconds() }
	fmt.Printf("idle for %v: %.3f %% of a core per node, %.2f %% for Redis, %.0f commands/s of %.0f nodes; load %s\n", watched,
		share(ownCPU()-cpu)/count, share(f.server.cpu()-redisCPU), float64(commands()-before)/watched.Seconds(), count, loadAverage())
	return nil
}
