// Package http1 is the HTTP/1.1 client of the gateway: a pool of connections to
// one endpoint, and one request at a time on each of them. It writes and reads
// at the same time, so that an early reply arrives; it reads replies strictly,
// so that both sides agree on where one ends; and it gives a connection back
// only when nothing can be left on it. It knows nothing of balancing or retries.
package http1

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// Settings of a pool. Only Address is required.
type Settings struct {
	// Address is HOST:PORT.
	Address string
	// DialTimeout bounds connecting; 0 means 5 s.
	DialTimeout time.Duration
	// IdleTimeout closes connections unused for that long; 0 means 50 s.
	IdleTimeout time.Duration
	// MaxIdle bounds the idle connections kept; 0 means 256, below 0 none.
	MaxIdle int
	// Limits of a reply head; zero means 64 KiB and 200 fields.
	Limits wire.Limits
	// Limiter bounds the connections of several pools together; nil: no limit.
	Limiter transport.Limiter
	// Manager keeps time for the pool; nil: one of its own.
	Manager *Manager
	// Dial replaces the plain TCP dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// OnIdleClosed hears that the endpoint closed a connection that had been
	// idle for so long: its own idle timeout, which IdleTimeout should be below.
	OnIdleClosed func(idle time.Duration)
}

// Pool is the connections to one endpoint. The last one used is used again
// first, so that the others can grow old and go. Safe for concurrent use.
type Pool struct {
	settings Settings
	manager  *Manager
	gate     *gate
	open     atomic.Int64

	connects, failures atomic.Uint64 // dials that worked, and those that did not

	mu     sync.Mutex // guards idle, closed; no other lock is taken while it is held
	idle   []*Conn
	closed bool
}

// NewPool makes a pool. It opens nothing and starts nothing.
func NewPool(s Settings) *Pool {
	if s.DialTimeout <= 0 {
		s.DialTimeout = 5 * time.Second
	}
	if s.IdleTimeout <= 0 {
		s.IdleTimeout = 50 * time.Second
	}
	if s.MaxIdle == 0 {
		s.MaxIdle = 256
	}
	if s.Limits.Head <= 0 {
		s.Limits.Head = 64 << 10
	}
	if s.Limits.Fields <= 0 {
		s.Limits.Fields = 200
	}
	if s.Manager == nil {
		s.Manager = NewManager()
	}
	if s.Dial == nil {
		d := &net.Dialer{KeepAlive: 30 * time.Second}
		s.Dial = d.DialContext
	}
	p := &Pool{settings: s, manager: s.Manager}
	if s.Limiter != nil {
		p.gate = s.Manager.join(s.Limiter, p)
	}
	return p
}

var (
	_ transport.Pool     = (*Pool)(nil)
	_ transport.Hijacker = (*Conn)(nil)
)

// Stats are numbers of connections at one moment.
type Stats struct{ Open, Idle int }

// Stats counts the connections.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Open: int(p.open.Load()), Idle: len(p.idle)}
}

// Counts implements upstream.CountingPool.
func (p *Pool) Counts() (open int, connects, failures uint64) {
	return int(p.open.Load()), p.connects.Load(), p.failures.Load()
}

// Close closes the idle connections now and the others when their request is
// over. It is safe to call twice; Get still works afterwards, for a request
// that had chosen the endpoint before, but keeps nothing.
func (p *Pool) Close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	for _, c := range idle {
		c.idleSince.Store(0) // the manager must not look after it meanwhile
	}
	p.mu.Unlock()
	if p.gate != nil {
		p.manager.part(p.gate, p)
	}
	for _, c := range idle {
		c.close()
	}
}

// Get returns a connection for call: an idle one, unless fresh asks for a new
// one, or a new one, for which it may have to wait at the gate. An error is a
// *transport.Failure; nothing has been sent then.
func (p *Pool) Get(call *transport.Call, fresh bool) (transport.Conn, error) {
	if !fresh {
		if c := p.take(); c != nil {
			c.reused = true
			return c, nil
		}
	}
	c, err := p.connect(call)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (p *Pool) take() *Conn {
	p.mu.Lock()
	n := len(p.idle)
	if n == 0 {
		p.mu.Unlock()
		return nil
	}
	c := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	c.idleSince.Store(0)
	p.mu.Unlock()
	return c
}

// put keeps c for the next request, or closes it where there are enough.
func (p *Pool) put(c *Conn) {
	if p.gate != nil && p.gate.handOver(c) {
		return
	}
	p.mu.Lock()
	if p.closed || len(p.idle) >= p.settings.MaxIdle {
		p.mu.Unlock()
		c.close()
		return
	}
	c.idleSince.Store(p.manager.now.Load())
	p.idle = append(p.idle, c)
	p.mu.Unlock()
	// Somebody may have begun to wait since, having seen no idle connection.
	if p.gate != nil && p.gate.waiters.Load() > 0 {
		if c := p.take(); c != nil {
			p.put(c)
		}
	}
}

// examine looks after a connection that the manager found idle: one that is
// too old, or that the endpoint has closed, goes.
func (p *Pool) examine(c *Conn, now int64) {
	p.mu.Lock()
	since := c.idleSince.Load()
	if since == 0 { // in use again
		p.mu.Unlock()
		return
	}
	idle := time.Duration(now-since) * time.Millisecond
	old, quiet := idle >= p.settings.IdleTimeout, c.quiet()
	if !old && quiet {
		p.mu.Unlock()
		return
	}
	for i, o := range p.idle {
		if o == c {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			break
		}
	}
	c.idleSince.Store(0)
	p.mu.Unlock()
	c.close()
	if !quiet && p.settings.OnIdleClosed != nil {
		p.settings.OnIdleClosed(idle)
	}
}

// connect dials, once the gate allows it.
func (p *Pool) connect(call *transport.Call) (*Conn, error) {
	w, err := transport.Wait(call)
	if err != nil {
		return nil, err
	}
	defer w.End()
	if p.gate != nil {
		c, err := p.gate.enter(w, p)
		if err != nil {
			return nil, w.Failure(err)
		}
		if c != nil {
			c.reused = true
			return c, nil
		}
	}
	ctx, cancel := context.WithTimeout(w, p.settings.DialTimeout)
	defer cancel()
	nc, err := p.settings.Dial(ctx, "tcp", p.settings.Address)
	if err != nil {
		if p.gate != nil {
			p.gate.leave()
		}
		failure, blamed := w.DialFailure(err)
		if blamed {
			p.failures.Add(1)
		}
		return nil, failure
	}
	p.connects.Add(1)
	return newConn(p, nc), nil
}
