package http1

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// gate is the queue before a Limiter.
type gate struct {
	limiter transport.Limiter
	waiters atomic.Int32 // len(waiting), to be read without the lock

	mu      sync.Mutex // guards waiting, pools; no other lock is taken while it is held
	waiting []*waiter  // in order of arrival
	pools   []*Pool
}

// waiter is a request at the gate. It gets a connection of its pool, or nil: a
// place to make one.
type waiter struct {
	pool *Pool
	turn chan *Conn
}

// enter takes a place for a new connection, or waits for one or for a
// connection of p. The place is given back by leave.
func (g *gate) enter(ctx context.Context, p *Pool) (*Conn, error) {
	g.mu.Lock()
	if len(g.waiting) == 0 && g.limiter.TryConnection() {
		g.mu.Unlock()
		return nil, nil
	}
	if !g.limiter.TryPending() {
		g.mu.Unlock()
		return nil, transport.ErrOverflow
	}
	defer g.limiter.ReleasePending()
	w := &waiter{pool: p, turn: make(chan *Conn, 1)}
	g.waiting = append(g.waiting, w)
	g.waiters.Store(int32(len(g.waiting)))
	g.mu.Unlock()
	g.evict(p)
	// A connection may have been put back between the look into the pool and
	// here; nobody will hand that one over.
	if c := p.take(); c != nil {
		if !g.withdraw(w) {
			g.giveBack(<-w.turn)
		}
		return c, nil
	}
	select {
	case c := <-w.turn:
		return c, nil
	case <-ctx.Done():
		if !g.withdraw(w) {
			g.giveBack(<-w.turn)
		}
		return nil, ctx.Err()
	}
}

func (g *gate) giveBack(c *Conn) {
	if c == nil {
		g.leave()
		return
	}
	c.pool.put(c)
}

// evict closes an idle connection of another pool, so that its place goes to
// the first in the queue.
func (g *gate) evict(p *Pool) {
	g.mu.Lock()
	pools := append([]*Pool(nil), g.pools...)
	g.mu.Unlock()
	for _, o := range pools {
		if o == p {
			continue
		}
		if c := o.take(); c != nil {
			c.close()
			return
		}
	}
}

// withdraw takes w out of the queue; false if its turn has come already.
func (g *gate) withdraw(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, o := range g.waiting {
		if o == w {
			g.remove(i)
			return true
		}
	}
	return false
}

func (g *gate) remove(i int) *waiter {
	w := g.waiting[i]
	g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
	g.waiters.Store(int32(len(g.waiting)))
	return w
}

// leave gives a place back, to the first in the queue if there is one.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) > 0 {
		g.remove(0).turn <- nil
		return
	}
	g.limiter.ReleaseConnection()
}

// handOver gives a connection that has become free to who waits: to the first
// that wants one of its pool, else it is closed so that somebody else's can be
// made. False if nobody waits.
func (g *gate) handOver(c *Conn) bool {
	if g.waiters.Load() == 0 {
		return false
	}
	g.mu.Lock()
	if len(g.waiting) == 0 {
		g.mu.Unlock()
		return false
	}
	for i, w := range g.waiting {
		if w.pool == c.pool {
			g.remove(i).turn <- c
			g.mu.Unlock()
			return true
		}
	}
	g.mu.Unlock()
	c.close()
	return true
}
