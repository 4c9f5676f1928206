// Package control keeps a node's running snapshot equal to its config: it reads
// the source, compiles, swaps, and remembers what went wrong. A config that
// cannot be used changes nothing. Configs come from files, which the loop reads
// itself, or from package fleet, which hands it those of many nodes.
package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"runtime/debug"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/watch"
	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// Settings are what a node's control loop works with.
type Settings struct {
	// Load reads, checks and validates the source anew. nil: configs come by Take.
	Load func() (*config.Config, *config.Source, error)
	// Paths are watched for changes; none: only Reload reloads.
	Paths    []string
	Compiler *compile.Compiler
	Gateway  *gateway.Gateway
	// Prepare makes ready what a config asks of the node besides a snapshot. One
	// of commit and undo is called afterwards. A problem changes nothing. nil:
	// there is nothing besides.
	Prepare func(cfg *config.Config) (commit, undo func(), problems []problem.Problem)
	Metrics *metrics.Metrics
	Log     *slog.Logger
}

// Status says which revision runs and what is wrong with the last one seen.
type Status struct {
	// Digest of the running revision, and since when it runs.
	Digest string    `json:"digest"`
	Loaded time.Time `json:"loaded"`
	// Reloads and failures since the node started.
	Reloads  int `json:"reloads"`
	Failures int `json:"failures"`
	// Error says why the newest config is not running; empty when it is.
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`
	// Broken are routes that answer 503 because this node cannot build them.
	Broken map[string]string `json:"broken,omitempty"`
	// Missing is what else of the config this node does without.
	Missing string `json:"missing,omitempty"`
}

// Whole is true if all of the live config works on this node.
func (s *Status) Whole() bool { return len(s.Broken) == 0 && s.Missing == "" }

// Loop is the control loop of one node.
type Loop struct {
	s     Settings
	node  config.Node
	drain time.Duration

	reload   sync.Mutex     // serialises changes and what is told of them; guards source; taken before mu
	source   *config.Source // of the running config
	mu       sync.Mutex     // guards status
	status   Status
	revision int64 // counts the configs that went live

	tidy *time.Timer
	stop func()
	done sync.WaitGroup
}

// tidyAfter is how long after the last change memory is given back.
const tidyAfter = time.Second

// New returns a loop that has done nothing yet.
func New(s Settings) *Loop {
	// Building leaves more behind than serving will ever need. Collecting that
	// takes the time of a whole collection, for which nobody has to wait, and it
	// is enough to do it once after several changes.
	tidy := time.AfterFunc(tidyAfter, debug.FreeOSMemory)
	tidy.Stop()
	return &Loop{s: s, stop: func() {}, tidy: tidy}
}

// Start applies first, the config the node was started with, and then follows
// the source. A route that cannot be built on this node is served as broken
// instead of keeping the node from starting. Without src nothing is live before
// the first Take; first then only says what the node was started with.
func (l *Loop) Start(ctx context.Context, first *config.Config, src *config.Source) error {
	l.node, l.drain = first.Node, first.Node.Drain.Timeout.D()
	if src == nil {
		return nil
	}
	if len(l.s.Paths) == 0 {
		return l.apply(ctx, first, src, compile.ServeTheRest)
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	changed := func() { _ = l.Reload(running, "file changed") } // Reload reports its own failure
	// Building takes a while: what changes meanwhile must not be missed.
	w, err := watch.New(l.s.Paths, changed)
	if err != nil {
		cancel()
		return fmt.Errorf("watching the config: %w", err)
	}
	if err := l.apply(ctx, first, src, compile.ServeTheRest); err != nil {
		cancel()
		return errors.Join(err, w.Close())
	}
	l.stop = cancel
	l.done.Go(func() {
		if outdated(src) {
			changed()
		}
		w.Run(running)
	})
	return nil
}

// outdated is true if a file has changed between being read and being watched.
func outdated(src *config.Source) bool {
	for _, f := range src.Files {
		if st, err := os.Stat(f.Name); err == nil && !st.Mode().IsRegular() {
			continue // a pipe can be read only once
		}
		if now, err := os.ReadFile(f.Name); err != nil || !bytes.Equal(now, f.Data) {
			return true
		}
	}
	return false
}

// Close ends the watching. It is safe twice and without Start.
func (l *Loop) Close() {
	l.stop()
	l.done.Wait()
	l.tidy.Stop()
}

// Reload reads the source again and swaps to it. On any error the running
// revision stays, and the error is in the log, the status, the metrics and
// returned.
func (l *Loop) Reload(ctx context.Context, why string) error {
	return l.change(ctx, why, l.s.Load)
}

// Take is Reload for a config that somebody else has read, who may try again
// and again: the same error is logged once. The first config that goes live may
// have broken routes, as one the node is started with.
func (l *Loop) Take(ctx context.Context, cfg *config.Config, src *config.Source, why string) error {
	return l.change(ctx, why, func() (*config.Config, *config.Source, error) { return cfg, src, nil })
}

func (l *Loop) change(ctx context.Context, why string, load func() (*config.Config, *config.Source, error)) error {
	l.reload.Lock()
	defer l.reload.Unlock()
	started := time.Now()
	err := l.tryChange(ctx, why, load)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		level := slog.LevelError
		if l.s.Load == nil && l.status.Error == err.Error() {
			level = slog.LevelDebug
		}
		l.s.Metrics.Config.Failed(time.Since(started))
		l.status.Failures++
		l.status.Error, l.status.ErrorAt = err.Error(), time.Now()
		l.s.Log.Log(ctx, level, "the new config was refused; the running one stays", "cause", why, "error", err)
		return err
	}
	l.status.Reloads++
	l.status.Error, l.status.ErrorAt = "", time.Time{}
	return nil
}

func (l *Loop) tryChange(ctx context.Context, why string, load func() (*config.Config, *config.Source, error)) error {
	cfg, src, err := load()
	if err != nil {
		return err
	}
	if status := l.Status(); l.source != nil && status.Whole() && src.Same(l.source) {
		l.s.Log.Info("the config has not changed", "cause", why)
		l.s.Metrics.Config.Unchanged()
		return nil // with a broken route one goes on: it may have been mended outside the config
	}
	if !reflect.DeepEqual(cfg.Node, l.node) {
		l.s.Log.Warn("settings under node differ from those the node started with; they take effect after a restart")
	}
	mode := compile.AllOrNothing
	if l.source == nil {
		mode = compile.ServeTheRest
	}
	return l.apply(ctx, cfg, src, mode)
}

func (l *Loop) apply(ctx context.Context, cfg *config.Config, src *config.Source, mode compile.Mode) error {
	started := time.Now()
	result, err := l.s.Compiler.Build(ctx, cfg, src, l.s.Gateway.Current(), mode)
	if err != nil {
		return err
	}
	commit, undo, missing, err := l.prepare(cfg, src, mode)
	if err != nil {
		result.Snapshot.Release()
		return err
	}
	if err := l.s.Gateway.Swap(ctx, result.Snapshot, l.drain); err != nil {
		undo()
		result.Snapshot.Release()
		return located(err, src)
	}
	commit()
	l.s.Metrics.Retain(result.Routes, result.Upstreams, result.Listeners)
	l.s.Compiler.Live(result)
	l.source = src
	digest := src.Digest()
	for name, why := range result.Broken {
		l.s.Log.Error("a route cannot be built on this node; it answers 503", "route", name, "error", why)
	}
	l.mu.Lock()
	l.revision++
	l.s.Metrics.Config.Applied(l.revision, time.Now(), time.Since(started), len(result.Broken))
	l.status.Digest, l.status.Loaded, l.status.Broken, l.status.Missing = digest, time.Now(), result.Broken, missing
	l.status.Error, l.status.ErrorAt = "", time.Time{} // it tells of an older config
	l.mu.Unlock()
	l.tidy.Reset(tidyAfter)
	l.s.Log.Info("config is live", "digest", short(digest), "routes", len(cfg.Routes), "upstreams", len(cfg.Upstreams))
	return nil
}

// prepare asks for what the config wants besides a snapshot. What cannot be had
// keeps a node from starting with its own file, which somebody looks at then;
// one that starts with a config of others does without.
func (l *Loop) prepare(cfg *config.Config, src *config.Source, mode compile.Mode) (commit, undo func(), missing string, err error) {
	none := func() {}
	if l.s.Prepare == nil {
		return none, none, "", nil
	}
	commit, undo, problems := l.s.Prepare(cfg)
	if len(problems) == 0 {
		return commit, undo, "", nil
	}
	err = src.Locate(problems)
	if mode != compile.ServeTheRest || l.s.Load != nil {
		return none, none, "", err
	}
	l.s.Log.Error("a part of the config cannot be had on this node, which does without", "error", err)
	return none, none, err.Error(), nil
}

// located gives what cannot be bound its place in the config.
func located(err error, src *config.Source) error {
	var unbound gateway.BindError
	if !errors.As(err, &unbound) {
		return err
	}
	var p problem.List
	for _, u := range unbound {
		p.Add(u.Path, "%v", u.Err)
	}
	return src.Place(err, p.All()...)
}

// Status is a copy of the current status.
func (l *Loop) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// ErrNotLoaded is what Ready says before the first config is live.
var ErrNotLoaded = errors.New("no config is live yet")

// Ready is nil when the node serves a config; a refused newer one does not
// make it unready, since the old one still serves.
func (l *Loop) Ready() error {
	if l.Status().Digest == "" {
		return ErrNotLoaded
	}
	return nil
}

func short(digest string) string { return digest[:min(12, len(digest))] }
