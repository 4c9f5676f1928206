// Package alpn is the pool for endpoints that choose themselves, with every TLS
// handshake, between HTTP/2 and HTTP/1.1. It holds a pool of each and learns
// from the last handshake which of them to ask first. Requests that switch
// protocols (WebSocket) always go over HTTP/1.1, which alone can do that.
package alpn

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// Dial makes a connection and the TLS handshake; the result tells what was
// agreed by a method ConnectionState() tls.ConnectionState.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Settings of a pool. All are required.
type Settings struct {
	// Both offers HTTP/2 and HTTP/1.1, HTTP1 only that.
	Both, HTTP1 Dial
	// NewHTTP2 and NewHTTP1 make the pools; they must connect by what they get.
	NewHTTP2, NewHTTP1 func(Dial) upstream.CountingPool
}

const (
	// askAgain is how long an endpoint that chose HTTP/1.1 is taken at its word.
	askAgain = time.Minute
	// keepSpare is how long a connection on which the other protocol is spoken
	// waits for the request that brought it about.
	keepSpare = time.Second
)

// Pool is a transport.Pool of both protocols. Safe for concurrent use.
type Pool struct {
	settings     Settings
	http2, http1 upstream.CountingPool
	// http1Since is when the endpoint last chose HTTP/1.1, in Unix nanoseconds; 0:
	// it chose HTTP/2, or was not asked yet.
	http1Since atomic.Int64

	mu    sync.Mutex // guards spare, until
	spare net.Conn   // HTTP/1.1 is spoken there; nil: none
	until *time.Timer
}

var (
	_ transport.Pool        = (*Pool)(nil)
	_ upstream.CountingPool = (*Pool)(nil)
)

// New makes a pool. It opens nothing and starts nothing.
func New(s Settings) *Pool {
	p := &Pool{settings: s}
	p.http2 = s.NewHTTP2(p.dialHTTP2)
	p.http1 = s.NewHTTP1(p.dialHTTP1)
	return p
}

// Get implements transport.Pool.
func (p *Pool) Get(call *transport.Call, fresh bool) (transport.Conn, error) {
	if !call.Upgrade && p.mayHTTP2() {
		c, err := p.http2.(transport.Pool).Get(call, fresh)
		if !errors.Is(err, transport.ErrOtherProtocol) {
			return c, err
		}
		p.http1Since.Store(time.Now().UnixNano())
	}
	return p.http1.(transport.Pool).Get(call, fresh)
}

func (p *Pool) mayHTTP2() bool {
	since := p.http1Since.Load()
	return since == 0 || time.Now().UnixNano()-since > int64(askAgain)
}

// dialHTTP2 connects for HTTP/2. What turns out to speak HTTP/1.1 is kept for
// the pool of that.
func (p *Pool) dialHTTP2(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := p.settings.Both(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if t, ok := nc.(interface{ ConnectionState() tls.ConnectionState }); ok && t.ConnectionState().NegotiatedProtocol == "h2" {
		p.http1Since.Store(0)
		return nc, nil
	}
	p.keep(nc)
	return nil, transport.ErrOtherProtocol
}

// dialHTTP1 takes the connection that is at hand, or connects.
func (p *Pool) dialHTTP1(ctx context.Context, network, address string) (net.Conn, error) {
	if nc := p.take(); nc != nil {
		return nc, nil
	}
	return p.settings.HTTP1(ctx, network, address)
}

func (p *Pool) keep(nc net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spare != nil {
		_ = nc.Close() // nothing was said on it
		return
	}
	p.spare = nc
	p.until = time.AfterFunc(keepSpare, p.drop)
}

func (p *Pool) take() net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	nc := p.spare
	if nc != nil {
		p.spare = nil
		p.until.Stop()
	}
	return nc
}

// drop closes a connection that nobody came for.
func (p *Pool) drop() {
	if nc := p.take(); nc != nil {
		_ = nc.Close() // nothing was said on it
	}
}

// Counts implements upstream.CountingPool.
func (p *Pool) Counts() (open int, connects, failures uint64) {
	open, connects, failures = p.http2.Counts()
	o, c, f := p.http1.Counts()
	return open + o, connects + c, failures + f
}

// Close implements transport.Pool.
func (p *Pool) Close() {
	p.http2.Close()
	p.http1.Close()
	p.drop()
}
