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
	"syscall"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
)

type runCommand struct {
	Config  []string `short:"c" required:"" sep:"none" help:"Config file, or a folder of them; may be repeated." placeholder:"FILE"`
	NoWatch bool     `help:"Do not reload when the file changes; SIGHUP still reloads."`
}

// Help is what is shown besides the flags.
func (*runCommand) Help() string {
	return `Signals: SIGTERM and SIGINT drain and stop, a second one stops at once. SIGHUP
reads the config again and reopens the logs. SIGUSR1 reopens the logs, after a
rotation.`
}

// Run runs a node until SIGTERM or SIGINT; a second one ends it at once.
func (r *runCommand) Run(env *environment) error {
	load := func() (*config.Config, *config.Source, error) { return loadConfig(r.Config, env.plugins) }
	cfg, src, err := load()
	if err != nil {
		return &usageError{err}
	}
	s := nodeSettings{
		version: env.version, plugins: env.plugins,
		config: cfg, source: src, load: load, log: env.err,
	}
	// The library of HTTP/3 complains on the standard log about socket buffers
	// that the kernel keeps small, which is no error: docs/rationale.md tells.
	if err := os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true"); err != nil {
		return err
	}
	if cfg.Node.Config == "store" {
		s.load = nil
	} else if !r.NoWatch {
		s.watch = r.Config
	}
	redis.LogTo(slog.New(slog.DiscardHandler)) // until there is a log; failures come as errors as well
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(signals)
	n, err := newNode(context.Background(), s)
	if err != nil {
		return err
	}
	// net/http tells the standard logger, and only that, what it thinks of
	// endpoints that speak HTTP/2.
	slog.SetLogLoggerLevel(slog.LevelDebug)
	slog.SetDefault(n.log)
	redis.LogTo(n.log)
	n.log.Info("gatehouse is ready", "version", env.version, "listeners", n.addresses())
	return n.follow(signals)
}

// follow acts on signals until the node has stopped.
func (n *node) follow(signals <-chan os.Signal) error {
	for s := range signals {
		switch s {
		case syscall.SIGHUP:
			n.reopenLogs()
			n.reload("SIGHUP")
		case syscall.SIGUSR1:
			n.reopenLogs()
		default:
			ctx, cancel := context.WithCancelCause(context.Background())
			go func() {
				for s := range signals {
					if s != syscall.SIGHUP && s != syscall.SIGUSR1 {
						cancel(errors.New("stopped by a second signal"))
						return
					}
				}
			}()
			err := n.stop(ctx)
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			if err == nil {
				n.log.Info("stopped")
			}
			return err
		}
	}
	return nil
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
