package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/handover"
	"github.com/gatehouse-proxy/gatehouse/control/store/local"
)

// handoverStatus tells about changes of the process, those before included.
type handoverStatus struct {
	Succeeded uint64 `json:"succeeded"`
	Failed    uint64 `json:"failed"`
	// Going says that a new process is starting now.
	Going bool `json:"going,omitempty"`
	// Error is why the last one failed; empty when it did not, or there was none.
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`
}

// change is a handover that is going on, and what became of the last one.
type change struct {
	mu      sync.Mutex // guards going, err, at
	going   bool
	err     error
	at      time.Time
	cancel  context.CancelCauseFunc
	outcome chan succession // nil: none is going on
}

// succession is what came of a handover: a successor or an error.
type succession struct {
	successor *handover.Successor
	err       error
}

// handOver begins a handover; its outcome comes by n.change.outcome.
func (n *node) handOver() {
	c := &n.change
	if c.outcome != nil {
		n.log.Warn("a handover is going on already")
		return
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	c.cancel, c.outcome = cancel, make(chan succession, 1)
	c.mu.Lock()
	c.going = true
	c.mu.Unlock()
	go func() {
		s, err := n.startSuccessor(ctx)
		c.mu.Lock()
		c.going, c.err, c.at = false, err, time.Now()
		c.mu.Unlock()
		c.outcome <- succession{s, err}
	}()
}

// errFirst is why the first process of a container cannot hand over.
var errFirst = errors.New("this process is the first of its container (PID 1), which ends with it; replace the container instead, one node after the other")

// mayLeave says whether another process can go on without the one of this ID.
func mayLeave(pid int) error {
	if pid == 1 {
		return errFirst
	}
	return nil
}

// startSuccessor returns a process that serves. After an error all is as before.
func (n *node) startSuccessor(ctx context.Context) (*handover.Successor, error) {
	if err := mayLeave(os.Getpid()); err != nil {
		return nil, err
	}
	path, err := handover.Binary(os.Args, n.dir)
	if err != nil {
		return nil, err
	}
	limit := n.config.Node.Handover.Timeout.D()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the new process was not ready within %v", limit))
	defer cancel()
	sockets := n.gateway.Sockets()
	if n.admin != nil {
		sockets = append(sockets, n.admin.Socket())
	}
	if n.eureka != nil {
		sockets = append(sockets, n.eureka.Socket())
	}
	file, shared := n.store.(*local.Store)
	if shared {
		if err := file.Lend(); err != nil {
			n.log.Warn("closing the store for the new process", "error", err)
		}
	}
	succeeded, failed := n.metrics.Handovers.Counts()
	n.log.Info("starting a new process to hand over to", "binary", path, "sockets", len(sockets))
	s, err := handover.Start(ctx, handover.Settings{
		Path: path, Args: os.Args, Env: os.Environ(), Sockets: sockets,
		State: handover.State{Live: n.loop.Ready() == nil, Succeeded: succeeded, Failed: failed},
	})
	if err != nil && shared {
		file.Reclaim()
	}
	return s, err
}

// concluded takes down the outcome of a handover. It returns nil if this process
// goes on.
func (n *node) concluded(s succession) *handover.Successor {
	n.change.cancel(nil)
	n.change.outcome = nil
	if s.err != nil {
		n.metrics.Handovers.Count(0, 1)
		n.log.Error("the handover failed; this process goes on", "error", s.err)
	}
	return s.successor
}

// abort ends a handover that is going on, if one is. The successor, where it was
// just ready, is to stop as well.
func (n *node) abort(sig os.Signal) {
	if n.change.outcome == nil {
		return
	}
	n.change.cancel(fmt.Errorf("stopped by the signal %v", sig))
	if s := n.concluded(<-n.change.outcome); s != nil {
		_ = s.Go() // it may have gone
		if err := s.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			n.log.Error("the new process could not be told to stop", "pid", s.PID(), "error", err)
		}
	}
}

// adminLeave is how long requests to the admin server may take to finish.
const adminLeave = 5 * time.Second

// leave stops serving in favour of a successor, which serves already: what waits
// to be accepted is its own from here on. Requests in flight have the drain time.
func (n *node) leave(ctx context.Context, s *handover.Successor) error {
	d := n.config.Node.Drain.Timeout.D()
	n.log.Info("handed over; draining", "pid", s.PID(), "timeout", d)
	if err := n.systemd.Main(s.PID()); err != nil {
		n.log.Error("the new process may be taken for a stray one", "error", err)
	}
	errs := []error{n.closeEureka(ctx)}
	if file, ok := n.store.(*local.Store); ok {
		errs = append(errs, file.Close()) // it is lent: who waits for it gives up
	}
	if n.fleet != nil {
		n.fleet.close() // the successor speaks for the node
	}
	if n.announcer != nil {
		n.announcer.Close() // as above
	}
	n.loop.Close()
	last, cancel := context.WithTimeout(ctx, n.config.Node.Handover.HTTP3.D())
	n.gateway.LeaveDatagrams(last)
	cancel()
	if err := s.Go(); err != nil {
		n.log.Error("the new process has gone", "pid", s.PID(), "error", err)
	}
	var going sync.WaitGroup
	if n.admin != nil {
		going.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, adminLeave)
			defer cancel()
			n.admin.Leave(ctx)
		})
	}
	draining, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	errs = append(errs, n.gateway.Drain(draining))
	going.Wait()
	return errors.Join(append(errs, n.close(context.WithoutCancel(ctx)))...)
}

// arrived says that a node, which has been started by its predecessor, serves.
// From the return on it is alone.
func (n *node) arrived(p *handover.Predecessor) error {
	if err := n.loop.Ready(); p.Live && err != nil {
		return fmt.Errorf("the old process serves a config, this one has none: %w", err)
	}
	_ = p.Ready() // it is gone: there is nothing to wait for
	ctx, cancel := context.WithTimeout(context.Background(), awaitPredecessor)
	defer cancel()
	p.Await(ctx)
	n.gateway.ReadDatagrams()
	return nil
}

// awaitPredecessor is longer than node.handover.http3 can be.
const awaitPredecessor = 90 * time.Second

func (n *node) handoverStatus() *handoverStatus {
	c := &n.change
	s := &handoverStatus{}
	s.Succeeded, s.Failed = n.metrics.Handovers.Counts()
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Going = c.going
	if c.err != nil {
		s.Error, s.ErrorAt = c.err.Error(), c.at
	}
	if *s == (handoverStatus{}) {
		return nil
	}
	return s
}
