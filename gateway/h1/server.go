package h1

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/live"
)

// Server serves HTTP/1.x on connections given to it. All methods are safe for
// concurrent use.
type Server struct {
	settings atomic.Pointer[Settings]
	states   sync.Pool
	conns    *live.Set[*conn]
	clock    *live.Clock // moves from the first connection on
	closing  atomic.Bool // every reply ends its connection
	leaving  atomic.Bool // Shutdown: no connection is taken, those without a request end
	telling  atomic.Bool // tunnels are to end by themselves

	watchOnce sync.Once
	watcher   *watcher // nil: not started, or not on this system
	parkAfter time.Duration
}

// New returns a server. Close ends what its first connection starts.
func New(settings Settings) *Server {
	s := &Server{conns: live.NewSet[*conn](), parkAfter: parkAfter}
	s.clock = live.NewClock(s.sweep)
	s.settings.Store(&settings)
	return s
}

// Update makes settings apply from the next request of every connection on.
func (s *Server) Update(settings Settings) { s.settings.Store(&settings) }

// ServeConn serves nc, which it owns from now on, and returns at once. After
// Shutdown or Close it closes nc.
func (s *Server) ServeConn(nc net.Conn) {
	if s.leaving.Load() {
		_ = nc.Close() // nobody waits for it
		return
	}
	s.clock.Start()
	s.conns.Enter()
	c := newConn(s, nc)
	s.conns.Add(c)
	if s.leaving.Load() { // since: Shutdown may have missed it
		c.finish()
		return
	}
	go c.serve()
}

// Stats counts the connections.
func (s *Server) Stats() (t Stats) {
	s.conns.Each(func(c *conn) {
		t.Open++
		switch c.phase.Load() {
		case phaseIdle, phaseHead:
			t.Idle++
			if c.parked.Load() {
				t.Parked++
			}
		case phaseBusy:
			t.Busy++
		case phaseTunnel:
			t.Tunnels++
		}
	})
	return t
}

// Retire has every reply from now on end its connection. Connections are still
// taken: those that were accepted before.
func (s *Server) Retire() { s.closing.Store(true) }

// Shutdown ends busy connections with their reply, idle ones once they have been
// so for a moment, since a client may be writing its next request, and lets
// tunnels finish. Tunnels left after half the time that ctx gives are told, so
// that both sides can end them in their own way. When ctx is done first it ends
// the tunnels and returns ctx's error; Close ends the rest.
func (s *Server) Shutdown(ctx context.Context) error {
	s.closing.Store(true)
	s.leaving.Store(true)
	s.conns.Each(func(c *conn) {
		if c.rested() {
			c.dismiss()
		}
	})
	if at, ok := ctx.Deadline(); ok {
		half, cancel := context.WithTimeout(ctx, time.Until(at)/2)
		defer cancel()
		s.conns.Wait(half.Done())
		s.telling.Store(true)
		s.conns.Each((*conn).tell)
	}
	if s.conns.Wait(ctx.Done()) {
		s.end()
		return nil
	}
	s.conns.Each(func(c *conn) {
		if c.phase.Load() == phaseTunnel {
			c.abandon()
		}
	})
	return ctx.Err()
}

// Close closes every connection, interrupts what their handlers wait for, and
// waits for them. Its error says that some did not end. Closing twice is allowed.
func (s *Server) Close() error {
	s.closing.Store(true)
	s.leaving.Store(true)
	s.conns.Each((*conn).abandon)
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	ok := s.conns.Wait(ctx.Done())
	s.end()
	if !ok {
		return errors.New("h1: handlers did not return in time")
	}
	return nil
}

// end stops what ServeConn started.
func (s *Server) end() {
	s.clock.Stop()
	s.watchOnce.Do(func() {}) // nobody starts it from now on
	if s.watcher != nil {
		s.watcher.close()
	}
}
