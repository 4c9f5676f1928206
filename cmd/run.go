package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/gatehouse-proxy/gatehouse/config"
)

type runCommand struct {
	Config  []string `short:"c" required:"" help:"Config file, or a folder of them; may be repeated." placeholder:"FILE"`
	NoWatch bool     `help:"Do not reload when the file changes; SIGHUP still reloads."`
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
	if !r.NoWatch {
		s.watch = r.Config
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(signals)
	n, err := newNode(context.Background(), s)
	if err != nil {
		return err
	}
	n.log.Info("gatehouse is ready", "version", env.version, "listeners", n.addresses())
	return n.follow(signals)
}

// follow acts on signals until the node has stopped.
func (n *node) follow(signals <-chan os.Signal) error {
	for s := range signals {
		switch s {
		case syscall.SIGHUP:
			n.reopenLogs()
			_ = n.loop.Reload(context.Background(), "SIGHUP") // Reload reports its own failure
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
			return err
		}
	}
	return nil
}

// reopenLogs lets logrotate move the files away.
func (n *node) reopenLogs() {
	if n.accessLog == nil {
		return
	}
	if err := n.accessLog.Reopen(); err != nil {
		n.log.Error("reopening the access log", "error", err)
	}
}

func (n *node) addresses() string {
	text := ""
	for name, a := range n.gateway.Addresses() {
		text += fmt.Sprintf("%s=%s ", name, a)
	}
	if n.admin != nil {
		text += "admin=" + n.admin.Addr().String()
	}
	return text
}
