package http2

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
	// Scheme is what requests say about the way they came; empty means "http".
	Scheme string
	// DialTimeout bounds connecting, up to the endpoint's SETTINGS; 0 means 5 s.
	DialTimeout time.Duration
	// IdleTimeout closes connections unused for that long; 0 means 50 s.
	IdleTimeout time.Duration
	// KeepNone closes a connection as soon as it has no request.
	KeepNone bool
	// Limits of a reply head; zero means 64 KiB and 200 fields.
	Limits wire.Limits
	// Window is how much of a reply may come before somebody reads it; 0 means
	// 512 KiB. It bounds what a slow client costs in memory, and by that what a
	// distant endpoint can send in one round trip.
	Window int
	// PingTimeout is how long a connection may stay silent after a request on it
	// has timed out; 0 means 5 s.
	PingTimeout time.Duration
	// Limiter bounds the connections of several pools together; nil: no limit.
	Limiter transport.Limiter
	// Manager is shared by the pools of a node; nil: one of its own.
	Manager *Manager
	// Dial replaces the plain TCP dialer. It must bring about a connection on
	// which HTTP/2 can be spoken at once.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	defaultWindow = 512 << 10
	// userTimeout is how long what was sent may stay unacknowledged by the
	// endpoint's host. Shorter than what Linux takes to give up (about 15
	// minutes), longer than a network needs to find another way.
	userTimeout = 20 * time.Second
)

// Pool is the connections to one endpoint. A request goes to the one with the
// fewest. Safe for concurrent use.
type Pool struct {
	settings Settings
	manager  *Manager
	room     *room     // nil: no limit
	streams  sync.Pool // of *Conn
	open     atomic.Int64

	connects, failures atomic.Uint64 // dials that worked, and those that did not

	mu     sync.Mutex // guards what follows, link.active and link.since; taken before room's
	links  []*link
	dial   *dial // under way
	closed bool
}

var (
	_ transport.Pool = (*Pool)(nil)
	_ transport.Conn = (*Conn)(nil)
)

// NewPool makes a pool. It opens nothing and starts nothing.
func NewPool(s Settings) *Pool {
	if s.Scheme == "" {
		s.Scheme = "http"
	}
	if s.DialTimeout <= 0 {
		s.DialTimeout = 5 * time.Second
	}
	if s.IdleTimeout <= 0 {
		s.IdleTimeout = 50 * time.Second
	}
	if s.PingTimeout <= 0 {
		s.PingTimeout = 5 * time.Second
	}
	if s.Limits.Head <= 0 {
		s.Limits.Head = 64 << 10
	}
	if s.Limits.Fields <= 0 {
		s.Limits.Fields = 200
	}
	if s.Window <= 0 {
		s.Window = defaultWindow
	}
	if s.Manager == nil {
		s.Manager = NewManager()
	}
	if s.Dial == nil {
		d := &net.Dialer{KeepAlive: 30 * time.Second}
		s.Dial = d.DialContext
	}
	p := &Pool{settings: s, manager: s.Manager}
	p.streams.New = func() any { return newConn(p) }
	if s.Limiter != nil {
		p.room = s.Manager.join(s.Limiter, p)
	}
	return p
}

// Counts implements upstream.CountingPool.
func (p *Pool) Counts() (open int, connects, failures uint64) {
	return int(p.open.Load()), p.connects.Load(), p.failures.Load()
}

// Close implements transport.Pool.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	idle := p.takeIdle()
	p.mu.Unlock()
	if p.room != nil {
		p.manager.part(p.room, p)
	}
	for _, l := range idle {
		l.close()
	}
}

// takeIdle removes the links without requests. p.mu is held.
func (p *Pool) takeIdle() (idle []*link) {
	kept := p.links[:0]
	for _, l := range p.links {
		if l.active == 0 {
			idle = append(idle, l)
		} else {
			kept = append(kept, l)
		}
	}
	clear(p.links[len(kept):])
	p.links = kept
	return idle
}

// Get implements transport.Pool: it reserves a stream. A connection that failed
// takes no more requests, so that fresh asks for nothing special.
func (p *Pool) Get(call *transport.Call, _ bool) (transport.Conn, error) {
	p.mu.Lock()
	l := p.reserve()
	p.mu.Unlock()
	if l == nil {
		var err error
		if l, err = p.wait(call); err != nil {
			return nil, err
		}
	}
	c := p.streams.Get().(*Conn)
	c.take(l)
	return c, nil
}

// reserve takes a stream of the connection with the fewest requests; nil if
// there is none to be had. p.mu is held.
func (p *Pool) reserve() *link {
	var best *link
	for _, l := range p.links {
		if (best == nil || l.active < best.active) && l.available() && !l.suspected() {
			best = l
		}
	}
	if best != nil {
		best.active++
	}
	return best
}

// available reports that the connection takes another request. Pool.mu is held.
func (l *link) available() bool { return !l.ending.Load() && l.active < int(l.most.Load()) }

// done gives a stream's place back.
func (p *Pool) done(l *link) {
	p.mu.Lock()
	l.active--
	idle := l.active == 0
	end := idle && (p.closed || p.settings.KeepNone || l.ending.Load())
	if end {
		p.forget(l)
	} else if idle {
		l.since = time.Now()
	}
	p.mu.Unlock()
	if end {
		l.close()
	}
	p.freed()
	if idle && p.room != nil {
		p.room.wake(nil) // it may have to make room for another pool's
	}
}

// freed tells whoever waits that a stream may be had.
func (p *Pool) freed() {
	if p.room != nil {
		p.room.wake(p)
	}
}

// forget takes l out of the list. p.mu is held.
func (p *Pool) forget(l *link) {
	for i, o := range p.links {
		if o == l {
			p.links = append(p.links[:i], p.links[i+1:]...)
			return
		}
	}
}

// retire takes a link out that takes no more requests.
func (p *Pool) retire(l *link) {
	p.mu.Lock()
	p.forget(l)
	idle := l.active == 0
	p.mu.Unlock()
	if idle {
		l.close()
	}
	p.freed()
}

// idled looks whether a link has been without requests for long.
func (p *Pool) idled(l *link) {
	p.mu.Lock()
	left := p.settings.IdleTimeout
	if l.active == 0 {
		left -= time.Since(l.since)
	}
	if left > 0 {
		l.timer.Reset(left)
	} else {
		p.forget(l)
	}
	p.mu.Unlock()
	if left <= 0 {
		l.close()
	}
}

// lost is called once for each link, when its connection has been closed.
func (p *Pool) lost(l *link) {
	p.mu.Lock()
	p.forget(l)
	p.mu.Unlock()
	p.open.Add(-1)
	p.manager.remove(l)
	if p.room != nil {
		p.room.release()
	}
}
