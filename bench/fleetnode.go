package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/cmd"
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control"
	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/nodes"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// flight does a thing once for all who ask for it while it is the newest.
type flight[T any] struct {
	mu   sync.Mutex
	key  string
	call func() (T, error)
}

func (f *flight[T]) do(key string, work func() (T, error)) (T, error) {
	f.mu.Lock()
	if f.call == nil || f.key != key {
		f.key, f.call = key, sync.OnceValues(work)
	}
	call := f.call
	f.mu.Unlock()
	return call()
}

type parsed struct {
	cfg *config.Config
	src *config.Source
}

// machine parses, compiles and swaps, once for all nodes on it: the first that
// asks does it, the others wait for what comes of it.
type machine struct {
	first    *config.Config
	loop     *control.Loop
	gateway  *gateway.Gateway
	compiler *compile.Compiler
	parsing  flight[parsed] // by text
	taking   flight[bool]   // by cause: "revision N"

	mu    sync.Mutex
	began time.Time
	spent []time.Duration // for each revision, from the beginning of parsing on
}

func newMachine(ctx context.Context, name string) (*machine, error) {
	file := fmt.Sprintf("node: { name: %s, config: store, admin: { address: \"off\" }, access_log: { path: \"off\" } }\n", name)
	first, _, err := config.Parse([]byte(file), "node.yaml", cmd.Kinds(), config.Options{})
	if err != nil {
		return nil, err
	}
	log, met := slog.New(slog.DiscardHandler), metrics.New(metrics.Settings{})
	m := &machine{first: first, gateway: gateway.New(gateway.Settings{Log: log, Metrics: met})}
	if m.compiler, err = compile.New(compile.Settings{Plugins: cmd.Plugins(), Log: log, Metrics: met, Node: name}); err != nil {
		return nil, err
	}
	m.loop = control.New(control.Settings{Compiler: m.compiler, Gateway: m.gateway, Metrics: met, Log: log})
	return m, m.loop.Start(ctx, first, nil)
}

func (m *machine) close(ctx context.Context) {
	m.loop.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = m.gateway.Drain(ctx) // the bench is over
	m.compiler.Close()
}

func (m *machine) parse(files []config.File) (*config.Config, *config.Source, error) {
	p, err := m.parsing.do(string(files[0].Data), func() (p parsed, err error) {
		m.mu.Lock()
		m.began = time.Now()
		m.mu.Unlock()
		p.cfg, p.src, err = config.ParseFiles(files, cmd.Kinds(), config.Options{Node: &m.first.Node})
		return p, err
	})
	return p.cfg, p.src, err
}

func (m *machine) take(ctx context.Context, cfg *config.Config, src *config.Source, why string) error {
	_, err := m.taking.do(why, func() (bool, error) {
		err := m.loop.Take(ctx, cfg, src, why)
		m.mu.Lock()
		m.spent = append(m.spent, time.Since(m.began))
		m.mu.Unlock()
		return true, err
	})
	return err
}

// milestones are when a revision was live on a node, and when Redis had been told.
type milestones struct{ live, told time.Time }

// fleetNode is a node in this process: everything but the admin API.
type fleetNode struct {
	store.Store // its own connections, in which it notices what it tells
	follower    *fleet.Follower

	mu      sync.Mutex
	reaches map[uint64]*milestones
}

// at is where the milestones of a revision are kept; the caller holds mu.
func (n *fleetNode) at(revision uint64) *milestones {
	if n.reaches[revision] == nil {
		n.reaches[revision] = &milestones{}
	}
	return n.reaches[revision]
}

// Put is the store's; what a node tells of itself goes through it.
func (n *fleetNode) Put(ctx context.Context, folder, name string, data []byte, ttl time.Duration) error {
	err := n.Store.Put(ctx, folder, name, data, ttl)
	var self nodes.Member
	if err == nil && folder == nodes.Folder && json.Unmarshal(data, &self) == nil {
		n.mu.Lock()
		if m := n.at(self.Revision); m.told.IsZero() {
			m.told = time.Now()
		}
		n.mu.Unlock()
	}
	return err
}

// reached waits until a revision is live on the node and Redis knows that.
func (n *fleetNode) reached(ctx context.Context, revision uint64) (milestones, error) {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		n.mu.Lock()
		m := *n.at(revision)
		n.mu.Unlock()
		if !m.told.IsZero() {
			return m, nil
		}
		if s := n.follower.Status(); s.Error != "" || time.Since(began) > time.Minute || ctx.Err() != nil {
			return m, fmt.Errorf("revision %d is not live after %v: %+v", revision, time.Since(began), s)
		}
	}
}

func (n *fleetNode) close() {
	n.follower.Close()
	_ = n.Store.Close() // the bench is over
}

// join starts a node of the fleet.
func join(ctx context.Context, dir, name, address string, key *revision.Key, on *machine) (*fleetNode, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	n := &fleetNode{Store: redis.New(redis.Settings{Addresses: []string{address}}), reaches: map[uint64]*milestones{}}
	var err error
	n.follower, err = fleet.New(fleet.Settings{
		Store: n, Trusted: revision.Keyring{key.Public()}, Dir: dir, Self: fleet.Member{Node: name, Role: "gateway"},
		Parse: on.parse, Metrics: metrics.New(metrics.Settings{}), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	n.follower.Begin(ctx)
	n.follower.Start(ctx, func(ctx context.Context, cfg *config.Config, src *config.Source, why string) error {
		err := on.take(ctx, cfg, src, why)
		if err == nil {
			var number uint64
			_, err = fmt.Sscanf(why, "revision %d", &number)
			n.mu.Lock()
			n.at(number).live = time.Now()
			n.mu.Unlock()
		}
		return err
	})
	return n, nil
}
