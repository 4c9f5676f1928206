package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gatehouse-proxy/gatehouse/admin"
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/control"
	"github.com/gatehouse-proxy/gatehouse/control/handover"
	"github.com/gatehouse-proxy/gatehouse/control/limits"
	"github.com/gatehouse-proxy/gatehouse/control/nodes"
	"github.com/gatehouse-proxy/gatehouse/control/secrets"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/systemd"
	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/telemetry/accesslog"
	"github.com/gatehouse-proxy/gatehouse/telemetry/logging"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
	"github.com/gatehouse-proxy/gatehouse/telemetry/trace"
	"github.com/gatehouse-proxy/gatehouse/waf"
)

// node is one running process, assembled. It is built and closed by one goroutine.
type node struct {
	version   string
	log       *slog.Logger
	config    *config.Config
	metrics   *metrics.Metrics
	accessLog *accesslog.Log
	tracer    *trace.Tracer
	registry  *registry.Registry
	eureka    *eurekaServer // nil: none
	gateway   *gateway.Gateway
	compiler  *compile.Compiler
	loop      *control.Loop
	admin     *admin.Server // nil: off
	events    *eventLog
	store     store.Store     // what the node shares with others; untouched unless something needs it
	secrets   *secrets.Shared // nil: nothing secret is shared with other nodes
	fleet     *member         // nil: the config is a file
	systemd   *systemd.Notifier
	dir       string           // where the process was started
	change    change           // to another process
	announcer *nodes.Announcer // nil: there is nobody to tell, or fleet does
	limits    *limits.Limits
	quotas    quotas // of the live config
}

// nodeSettings are what newNode builds a node from.
type nodeSettings struct {
	version string
	plugins []plugins.Factory // besides the built-in ones
	config  *config.Config
	source  *config.Source
	own     *config.Source // set by open: the node's own file, also where source is a revision's
	load    func() (*config.Config, *config.Source, error)
	watch   []string
	log     io.Writer
	// sockets are those the process was started with; nil: none.
	sockets *socket.Inherited
	// predecessor is whose place the node takes; nil: nobody's.
	predecessor *handover.Predecessor
}

// newNode builds and starts a node. On an error everything started so far is stopped.
func newNode(ctx context.Context, s nodeSettings) (*node, error) {
	n := &node{config: s.config, version: s.version, systemd: systemd.New()}
	n.dir, _ = os.Getwd() // without it a successor is started by the file of this process
	if err := n.open(ctx, s); err != nil {
		_ = n.close(ctx) // why it did not start says more
		return nil, err
	}
	return n, nil
}

// open fills in a node, part by part; close undoes what it got to.
func (n *node) open(ctx context.Context, s nodeSettings) (err error) {
	c := s.config.Node
	c.Name = nodeName(c)
	s.own = s.source
	if n.log, err = logging.New(s.log, logging.Settings{Level: c.Log.Level, Format: c.Log.Format}); err != nil {
		return err
	}
	n.metrics = metrics.New(metrics.Settings{Version: s.version, Reasons: reasonNames()})
	if err := n.openTelemetry(ctx, c, s.version); err != nil {
		return err
	}
	if n.store, err = newStore(c, s.source.Dir); err != nil {
		return err
	}
	n.openRegistry(c)
	if err := n.openFleet(ctx, &s); err != nil {
		return err
	}
	if err := n.announce(ctx, c); err != nil {
		return err
	}
	n.events = newEventLog(n.metrics.Registerer(), n.log)
	if err := n.openSecrets(c); err != nil {
		return err
	}
	authorities, err := n.openACME(s)
	if err != nil {
		return err
	}
	n.gateway = gateway.New(gateway.Settings{
		Log: n.log, Metrics: n.metrics, AccessLog: n.accessLog, Tracer: n.tracer, Challenge: authorities.Challenges().HTTP,
		Sockets: s.sockets, HoldDatagrams: s.predecessor != nil,
	})
	n.compiler, err = compile.New(compile.Settings{
		Plugins: append(builtin(waf.NewPool(), n.events, n.openLimits(ctx, c)), s.plugins...),
		Log:     n.log, Metrics: n.metrics, Zone: c.Zone, Node: c.Name, ACME: authorities, Tickets: n.tickets(),
		DiscoveryDir: filepath.Join(c.DataDir, "discovery"), Version: s.version,
		Mesh: n.registry.Source,
	})
	if err != nil {
		return err
	}
	if n.secrets != nil {
		n.secrets.Start(authorities)
	}
	n.loop = control.New(control.Settings{
		Load: s.load, Paths: s.watch, Compiler: n.compiler,
		Gateway: n.gateway, Prepare: n.prepare, Metrics: n.metrics, Log: n.log,
	})
	if err := n.openAdmin(ctx, s); err != nil {
		return err
	}
	if err := n.openEureka(ctx, s); err != nil {
		return err
	}
	if p := s.predecessor; p != nil {
		n.metrics.Handovers.Count(p.Succeeded+1, p.Failed)
	} else if n.admin != nil {
		n.admin.Serve() // a predecessor is asked as long as this node is not ready
	}
	if err := n.goLive(ctx, s); err != nil {
		return err
	}
	if s.predecessor != nil && n.admin != nil {
		n.admin.Serve()
	}
	n.serveEureka()
	return nil
}

// prepare makes ready what a config asks of the node besides a snapshot.
func (n *node) prepare(cfg *config.Config) (commit, undo func(), problems []problem.Problem) {
	open, undo, problems := n.events.prepare(cfg)
	return func() {
		open()
		n.quotas.follow(cfg)
	}, undo, problems
}

// goLive makes the first config live, or follows the store for one.
func (n *node) goLive(ctx context.Context, s nodeSettings) error {
	if n.fleet == nil {
		return n.loop.Start(ctx, s.config, s.source)
	}
	if err := n.loop.Start(ctx, s.config, nil); err != nil {
		return err
	}
	n.fleet.follower.Start(ctx, n.loop.Take)
	return nil
}

// nodeName is the name in the config, or else the machine's.
func nodeName(c config.Node) string {
	if c.Name != "" {
		return c.Name
	}
	name, _ := os.Hostname() // without one the name stays empty, as in the config
	return name
}

func (n *node) openTelemetry(ctx context.Context, c config.Node, version string) (err error) {
	if c.AccessLog.Path != "off" {
		n.accessLog, err = accesslog.Open(accesslog.Settings{
			Path: c.AccessLog.Path, Format: c.AccessLog.Format, Sample: c.AccessLog.Sample,
			Headers: c.AccessLog.Headers, Mask: c.AccessLog.Mask,
			OnError: func(err error) { n.log.Error("writing the access log", "error", err) },
		})
		if err != nil {
			return err
		}
		n.metrics.AccessLog(n.accessLog.Stats)
	}
	if c.Tracing.OTLP == "" && n.accessLog == nil {
		return nil // nobody would read a trace; headers pass as they are
	}
	n.tracer, err = trace.New(ctx, trace.Settings{
		OTLP: c.Tracing.OTLP, Sample: c.Tracing.Sample, ServiceName: c.Tracing.ServiceName,
		NodeName: c.Name, Zone: c.Zone, Version: version,
		OnError: func(err error) { n.log.Warn("sending traces", "error", err) },
	})
	if err != nil {
		return fmt.Errorf("node.tracing.otlp %q: %w", c.Tracing.OTLP, err)
	}
	n.metrics.Traces(n.tracer.Stats)
	return nil
}

// openAdmin makes the admin server and binds its address.
func (n *node) openAdmin(ctx context.Context, set nodeSettings) (err error) {
	c := set.config.Node
	if c.Admin.Address == "off" {
		return nil
	}
	s := admin.Settings{
		Address: c.Admin.Address, Sockets: set.sockets, DataDir: c.DataDir, Pprof: c.Admin.Pprof, Log: n.log,
		Metrics: n.metrics.Handler(), Ready: n.loop.Ready,
		Detail: func() any { return n.status() }, Registry: n.registry, Quotas: &n.quotas,
	}
	if n.fleet != nil {
		s.Fleet = n.fleet.publisher
	}
	if n.fleet != nil || n.announcer != nil {
		s.Members = n.members
	}
	n.admin, err = admin.New(s)
	if err != nil {
		return err
	}
	if err := n.admin.Bind(ctx); err != nil {
		return set.unbound("node.admin.address", err)
	}
	return nil
}

// unbound gives an address of the node that cannot be bound its place.
func (s *nodeSettings) unbound(path string, err error) error {
	return s.own.Place(err, problem.Problem{Path: path, Message: err.Error()})
}

// stop drains: readiness fails first, then listeners close, requests in flight
// get their time, and what is left is cut.
func (n *node) stop(ctx context.Context) error {
	d := n.config.Node.Drain
	n.log.Info("draining", "delay", d.Delay, "timeout", d.Timeout)
	if n.admin != nil {
		n.admin.Drain()
	}
	select {
	case <-time.After(d.Delay.D()):
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(ctx, d.Timeout.D())
	defer cancel()
	return errors.Join(n.gateway.Drain(ctx), n.close(context.WithoutCancel(ctx)))
}

// close ends what newNode opened, in reverse; safe on a half-built node.
func (n *node) close(ctx context.Context) error {
	errs := []error{n.closeEureka(ctx)}
	if n.fleet != nil {
		n.fleet.close()
	}
	if n.loop != nil {
		n.loop.Close()
	}
	if n.gateway != nil {
		done, cancel := context.WithCancel(ctx)
		cancel()
		errs = append(errs, n.gateway.Drain(done))
	}
	if n.compiler != nil {
		n.compiler.Close()
	}
	if n.secrets != nil {
		n.secrets.Close()
	}
	if n.limits != nil {
		n.limits.Close()
	}
	if n.announcer != nil {
		n.announcer.Close()
	}
	if n.admin != nil {
		errs = append(errs, n.admin.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if n.tracer != nil {
		errs = append(errs, n.tracer.Close(ctx))
	}
	if n.events != nil {
		errs = append(errs, n.events.close())
	}
	if n.accessLog != nil {
		errs = append(errs, n.accessLog.Close(ctx))
	}
	if n.registry != nil {
		n.registry.Close()
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	return errors.Join(errs...)
}

func reasonNames() []string {
	var names []string
	for _, r := range reason.All() {
		names = append(names, r.Name)
	}
	return names
}
