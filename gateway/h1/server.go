package h1

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves HTTP/1.x on connections given to it. All methods are safe for
// concurrent use.
type Server struct {
	settings atomic.Pointer[Settings]
	states   sync.Pool
	shards   [16]shard
	turn     atomic.Uint32
	open     atomic.Int64
	closing  atomic.Bool // every reply ends its connection
	leaving  atomic.Bool // Shutdown: no connection is taken, those without a request end
	telling  atomic.Bool // tunnels are to end by themselves
	// empty has an item when the last connection has gone while closing.
	empty chan struct{}

	now  atomic.Int64           // coarse unix milliseconds
	date atomic.Pointer[[]byte] // "Date: …\r\n"

	start     sync.Once
	stop      chan struct{}
	stopOnce  sync.Once
	sweeping  sync.WaitGroup
	watchOnce sync.Once
	watcher   *watcher // nil: not started, or not on this system
	parkAfter time.Duration
}

// shard is a part of the connections, so that counting them, sweeping them and
// adding one wait for each other as little as possible.
type shard struct {
	mu    sync.Mutex
	conns []*conn
	_     [32]byte
}

// New returns a server. Close ends what its first connection starts.
func New(settings Settings) *Server {
	s := &Server{stop: make(chan struct{}), empty: make(chan struct{}, 1), parkAfter: parkAfter}
	s.settings.Store(&settings)
	s.setTime(time.Now())
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
	s.start.Do(func() {
		s.setTime(time.Now())
		s.sweeping.Go(s.sweep)
	})
	s.open.Add(1)
	c := newConn(s, nc)
	s.add(c)
	if s.leaving.Load() { // since: Shutdown may have missed it
		c.finish()
		return
	}
	go c.serve()
}

func (s *Server) add(c *conn) {
	h := &s.shards[s.turn.Add(1)%uint32(len(s.shards))]
	c.shard = h
	h.mu.Lock()
	c.place = len(h.conns)
	h.conns = append(h.conns, c)
	h.mu.Unlock()
}

func (s *Server) remove(c *conn) {
	h := c.shard
	h.mu.Lock()
	last := len(h.conns) - 1
	h.conns[c.place] = h.conns[last]
	h.conns[c.place].place = c.place
	h.conns[last] = nil
	h.conns = h.conns[:last]
	h.mu.Unlock()
}

// left is called once a connection is closed.
func (s *Server) left() {
	if s.open.Add(-1) == 0 && s.closing.Load() {
		select {
		case s.empty <- struct{}{}:
		default:
		}
	}
}

// each calls f for every connection. A connection stays open while f looks at it.
func (s *Server) each(f func(*conn)) {
	for i := range s.shards {
		h := &s.shards[i]
		h.mu.Lock()
		for _, c := range h.conns {
			f(c)
		}
		h.mu.Unlock()
	}
}

// Stats counts the connections.
func (s *Server) Stats() (t Stats) {
	s.each(func(c *conn) {
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
	s.each(func(c *conn) {
		if c.rested() {
			c.dismiss()
		}
	})
	if at, ok := ctx.Deadline(); ok {
		half, cancel := context.WithTimeout(ctx, time.Until(at)/2)
		defer cancel()
		s.wait(half.Done())
		s.telling.Store(true)
		s.each((*conn).tell)
	}
	if s.wait(ctx.Done()) {
		s.end()
		return nil
	}
	s.each(func(c *conn) {
		if c.phase.Load() == phaseTunnel {
			c.abandon()
		}
	})
	return ctx.Err()
}

// wait returns true when no connection is left, false when done comes first.
func (s *Server) wait(done <-chan struct{}) bool {
	for s.open.Load() > 0 {
		select {
		case <-s.empty:
		case <-done:
			return s.open.Load() == 0
		}
	}
	return true
}

// Close closes every connection, interrupts what their handlers wait for, and
// waits for them. Its error says that some did not end. Closing twice is allowed.
func (s *Server) Close() error {
	s.closing.Store(true)
	s.leaving.Store(true)
	s.each((*conn).abandon)
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	ok := s.wait(ctx.Done())
	s.end()
	if !ok {
		return errors.New("h1: handlers did not return in time")
	}
	return nil
}

// end stops what ServeConn started.
func (s *Server) end() {
	s.stopOnce.Do(func() { close(s.stop) })
	s.sweeping.Wait()
	s.watchOnce.Do(func() {}) // nobody starts it from now on
	if s.watcher != nil {
		s.watcher.close()
	}
}
