// Package compile turns a config into a snapshot: the one place where the
// control plane and the data plane meet. Whatever can be decided before a
// request comes is decided here.
package compile

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// Settings are what all snapshots of a node have in common.
type Settings struct {
	// Plugins that a config may use; names are unique.
	Plugins []plugins.Factory
	Log     *slog.Logger
	Metrics *metrics.Metrics
	// Node and Zone name where this is.
	Node, Zone string
	// ACME is what the node's ACME certificates share; nil: they cannot be had.
	ACME *acme.Node
	// Mesh makes the source of a service's instances, to speak TLS with or not;
	// nil: this node has no registry. It opens nothing yet and asks nobody.
	Mesh func(service string, secure bool) upstream.Source
	// Tickets makes what session tickets are encrypted with, from what the nodes
	// of a fleet share; nil: each listener has its own.
	Tickets func(rotate time.Duration) TicketKeys
	// DiscoveryDir is where the last endpoints that sources found are kept; empty:
	// nowhere.
	DiscoveryDir string
	// Version of the program, for servers that are asked.
	Version string
}

// TicketKeys are a unit: they begin to change when it starts.
type TicketKeys interface {
	tlsterm.TicketKeys
	snapshot.Unit
}

// Compiler compiles configs. It is for one goroutine at a time.
type Compiler struct {
	settings  Settings
	factories map[string]plugins.Factory
	http1     *http1.Manager // of all upstream connections
	http2     *http2.Manager
	observers sync.Map      // upstream name → *observer
	changes   atomic.Uint64 // of certificates
}

// New returns a compiler; two plugins of one name are an error.
func New(s Settings) (*Compiler, error) {
	if s.ACME == nil {
		s.ACME = acme.NewNode(acme.NodeSettings{Log: s.Log})
	}
	c := &Compiler{settings: s, factories: map[string]plugins.Factory{}, http1: http1.NewManager(), http2: http2.NewManager()}
	for _, f := range s.Plugins {
		if _, twice := c.factories[f.Name]; twice {
			return nil, fmt.Errorf("two plugins are called %q", f.Name)
		}
		c.factories[f.Name] = f
	}
	return c, nil
}

// Close ends what the snapshots shared. All of them must be retired.
func (c *Compiler) Close() {
	c.http1.Close()
	c.http2.Close()
}

// Mode says what to do about a unit that cannot be built on this node.
type Mode int

const (
	// AllOrNothing makes any problem an error: right for a reload.
	AllOrNothing Mode = iota
	// ServeTheRest builds what can be built; routes that cannot answer 503.
	// Right for a start: one missing file must not take everything down.
	ServeTheRest
	// DryRun builds but starts nothing and reports like AllOrNothing.
	DryRun
	// Sketch is DryRun for somebody who asks what a config means, perhaps on
	// another machine: it needs no certificates, keys and authorities in files.
	Sketch
)

// dry says that nothing is to be started.
func (m Mode) dry() bool { return m == DryRun || m == Sketch }

// Result is a compiled config.
type Result struct {
	Snapshot *snapshot.Snapshot
	// Routes, Upstreams and Listeners are the names in use.
	Routes, Upstreams, Listeners []string
	// Broken are routes that answer 503, and why. Only with ServeTheRest.
	Broken map[string]string
	// Plans tell what each route does, for explain.
	Plans map[string]Plan
	// Streams tell, by listener and name (".REST" for *.REST, "" for all
	// others), where connections are passed on to.
	Streams map[string]map[string]string
}

// Plan tells a person what a route does.
type Plan struct {
	// Steps are the plugins in order.
	Steps []string
	// Action is what answers: "forward to users (95), canary (5)".
	Action string
	// Upstreams that requests may go to.
	Upstreams []string
}

// build is one run of Build.
type build struct {
	*Compiler
	cfg   *config.Config
	src   *config.Source
	prev  *snapshot.Units
	units *snapshot.Units
	mode  Mode

	problems problem.List
	// broken are the units that cannot be used, by key, and why.
	broken map[string]string
	// paths are where in the config a unit comes from, by key.
	paths map[string]string

	consumers *plugins.Directory
	policies  map[string]plugins.WAFPolicy
	// What instances depend on besides their own config.
	consumersDigest, policiesDigest string
	upstreamDigests                 map[string]string
	digester                        digester

	dialers map[string]*dial.Dialer // by upstream

	result *Result
}

// Build compiles cfg. prev is the running snapshot, whose units are taken over
// where nothing changed; nil for none. An error is of type config.Problems
// where a place in the config can be named; then nothing is left behind.
func (c *Compiler) Build(ctx context.Context, cfg *config.Config, src *config.Source, prev *snapshot.Snapshot, mode Mode) (*Result, error) {
	b := &build{
		Compiler: c, cfg: cfg, src: src, mode: mode,
		units: snapshot.NewUnits(func(key string, err error) {
			c.settings.Log.Warn("closing a part of an old config", "unit", key, "error", err)
		}),
		broken: map[string]string{}, paths: map[string]string{}, upstreamDigests: map[string]string{}, dialers: map[string]*dial.Dialer{},
		result: &Result{Broken: map[string]string{}, Plans: make(map[string]Plan, len(cfg.Routes)), Streams: map[string]map[string]string{}},
	}
	if prev != nil {
		b.prev = prev.Units
		b.paths = make(map[string]string, b.prev.Len())
		b.units.Grow(b.prev.Len())
	}
	b.directories()
	b.upstreams()
	b.certificates(ctx)
	terminators := b.terminators()
	routes := b.routes()
	if !mode.dry() {
		for key, err := range b.units.Start(ctx) {
			b.fail(key, err)
		}
	}
	b.markBroken(routes)
	listeners := b.listeners(routes, terminators)
	if all := b.problems.All(); len(all) > 0 {
		b.units.Release()
		return nil, src.Locate(all)
	}
	b.result.Snapshot = snapshot.New(src.Digest(), listeners, b.units)
	b.result.Upstreams = slices.Sorted(maps.Keys(cfg.Upstreams))
	b.result.Routes = append(slices.Sorted(maps.Keys(cfg.Routes)), noRoute)
	for _, l := range listeners {
		if l.Redirect != nil && !slices.Contains(b.result.Routes, httpsRedirect) {
			b.result.Routes = append(b.result.Routes, httpsRedirect)
		}
	}
	b.result.Listeners = slices.Sorted(maps.Keys(cfg.Listeners))
	return b.result, nil
}

// fail notes that a unit cannot be used: a problem, or a broken route.
func (b *build) fail(key string, err error) {
	if b.mode == ServeTheRest {
		b.broken[key] = err.Error()
		return
	}
	b.problems.Add(b.paths[key], "%v", err)
}
