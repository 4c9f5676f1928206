package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/handover"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/systemd"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
)

type runCommand struct {
	Config  []string `short:"c" required:"" sep:"none" help:"Config file, or a folder of them; may be repeated." placeholder:"FILE"`
	NoWatch bool     `help:"Do not reload when the file changes; SIGHUP still reloads."`
	PIDFile string   `name:"pid-file" help:"Where to write the process ID once the node serves." placeholder:"FILE"`
}

// Help is what is shown besides the flags.
func (*runCommand) Help() string {
	return `Signals: SIGTERM and SIGINT drain and stop, a second one stops at once. SIGHUP
reads the config again and reopens the logs. SIGUSR1 reopens the logs, after a
rotation. SIGUSR2 starts the binary anew, hands it the sockets, and drains.`
}

// Run runs a node until SIGTERM or SIGINT, or until another process has taken
// its place; a second signal ends it at once.
func (r *runCommand) Run(env *environment) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	p, err := handover.Begin()
	if err != nil {
		return err
	}
	n, err := r.start(env, p)
	if err != nil {
		if p != nil {
			p.Fail(err)
		}
		return err
	}
	watching, stop := context.WithCancel(context.Background())
	var watched sync.WaitGroup
	watched.Go(func() { n.systemd.Watch(watching, func() { n.gateway.Connections() }) })
	err = n.follow(signals)
	stop()
	watched.Wait()
	if e := pidFile(r.PIDFile).remove(); e != nil {
		n.log.Warn("the file of the process ID stays", "error", e)
	}
	return err
}

// start returns a node that serves; p is whose place it takes, nil for nobody's.
func (r *runCommand) start(env *environment, p *handover.Predecessor) (*node, error) {
	load := func() (*config.Config, *config.Source, error) { return loadConfig(r.Config, env.plugins) }
	cfg, src, err := load()
	if err != nil {
		return nil, &usageError{err}
	}
	s := nodeSettings{
		version: env.version, plugins: env.plugins,
		config: cfg, source: src, load: load, log: env.err, predecessor: p,
	}
	if p != nil {
		s.sockets = p.Sockets
	} else if s.sockets, err = systemd.Sockets(); err != nil {
		return nil, err
	}
	// The library of HTTP/3 complains on the standard log about socket buffers
	// that the kernel keeps small, which is no error: docs/rationale.md tells.
	if err := os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true"); err != nil {
		return nil, err
	}
	if cfg.Node.Config == "store" {
		s.load = nil
	} else if !r.NoWatch {
		s.watch = r.Config
	}
	redis.LogTo(slog.New(slog.DiscardHandler)) // until there is a log; failures come as errors as well
	n, err := newNode(context.Background(), s)
	if err != nil {
		return nil, err
	}
	if err := r.serve(n, p, s.sockets); err != nil {
		_ = n.close(context.Background()) // why it does not serve says more
		return nil, err
	}
	return n, nil
}

// serve tells everybody that n serves.
func (r *runCommand) serve(n *node, p *handover.Predecessor, given *socket.Inherited) error {
	// net/http tells the standard logger, and only that, what it thinks of
	// endpoints that speak HTTP/2.
	slog.SetLogLoggerLevel(slog.LevelDebug)
	slog.SetDefault(n.log)
	redis.LogTo(n.log)
	if err := pidFile(r.PIDFile).check(); err != nil {
		return fmt.Errorf("--pid-file: %w", err)
	}
	for _, unused := range given.Close() {
		n.log.Warn("no listener of the config has the address of a socket that the process was started with; it is closed", "socket", unused)
	}
	if p != nil {
		if err := n.arrived(p); err != nil {
			return err
		}
	}
	if err := pidFile(r.PIDFile).write(); err != nil {
		n.log.Error("the process ID could not be written", "error", err)
	}
	n.tell(n.systemd.Ready())
	n.log.Info("gatehouse is ready", "version", n.version, "listeners", n.addresses())
	return nil
}

// tell logs that systemd could not be told.
func (n *node) tell(err error) {
	if err != nil {
		n.log.Error("systemd does not know what this process does", "error", err)
	}
}

// follow acts on signals until the node has stopped.
func (n *node) follow(signals <-chan os.Signal) error {
	for {
		select {
		case s := <-signals:
			switch s {
			case syscall.SIGHUP:
				n.tell(n.systemd.Reloading())
				n.reopenLogs()
				n.reload("SIGHUP")
				n.tell(n.systemd.Ready())
			case syscall.SIGUSR1:
				n.reopenLogs()
			case syscall.SIGUSR2:
				n.handOver()
			default:
				n.abort(s)
				n.tell(n.systemd.Stopping())
				return n.end(signals, 1, n.stop)
			}
		case s := <-n.change.outcome:
			if next := n.concluded(s); next != nil {
				// A service manager, or a terminal, sends its signal to both.
				return n.end(signals, 2, func(ctx context.Context) error { return n.leave(ctx, next) })
			}
		}
	}
}

// end ends the node by stop, or at once when the given number of signals to stop
// have come meanwhile.
func (n *node) end(signals <-chan os.Signal, times int, stop func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-signals:
				if s != syscall.SIGTERM && s != syscall.SIGINT {
					continue
				}
				if times--; times == 0 {
					cancel(errors.New("stopped by a second signal"))
					return
				}
				n.log.Info("draining already; the next signal ends this process at once", "signal", s.String())
			}
		}
	}()
	err := stop(ctx)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err == nil {
		n.log.Info("stopped")
	}
	return err
}

// reopenLogs lets logrotate move the files away.
func (n *node) reopenLogs() {
	var errs []error
	if n.accessLog != nil {
		errs = append(errs, n.accessLog.Reopen())
	}
	errs = append(errs, n.events.reopen())
	if err := errors.Join(errs...); err != nil {
		n.log.Error("a log could not be reopened; the old file stays in use", "error", err)
	}
}

func (n *node) addresses() string {
	var list []string
	for name, a := range n.gateway.Addresses() {
		list = append(list, fmt.Sprintf("%s=%s", name, a))
	}
	slices.Sort(list)
	if n.admin != nil {
		list = append(list, "admin="+n.admin.Addr().String())
	}
	return strings.Join(list, " ")
}
