package bridge

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// Conn is what the requests of one connection have in common. The server puts
// it into the context that its requests get theirs from. Nothing but the
// counters changes once it is there.
type Conn struct {
	// Face has addresses of the type *net.TCPAddr, whatever the protocol below:
	// that is where plugins look for a client's address.
	Face exchange.Face
	// TLS tells of the connection; nil for plain text.
	TLS *exchange.TLS
	// Flooded is called once, when the client opens streams only to reset them:
	// the connection is to be ended. May be nil.
	Flooded func()
	// Ending reports that tunnels are to end by themselves. May be nil.
	// Concurrent.
	Ending func() bool

	served, reset atomic.Int64
	told          atomic.Bool
}

type connKey struct{}

// NewContext returns a context whose requests belong to c.
func NewContext(ctx context.Context, c *Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// unknown is for a server that does not say.
var unknown = &Conn{Face: exchange.Face{Local: &net.TCPAddr{}, Remote: &net.TCPAddr{}}}

func connOf(ctx context.Context) *Conn {
	if c, ok := ctx.Value(connKey{}).(*Conn); ok {
		return c
	}
	return unknown
}

// Peer is the client's address; zero where Face has none of TCP.
func (c *Conn) Peer() netip.AddrPort {
	if t, ok := c.Face.Remote.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// enoughResets is how many streams a client may reset before they are held
// against those that it lets finish (Envoy's premature_reset_total_stream_count
// is 500): beyond it, not more than half.
const enoughResets = 200

// note counts a stream that has ended. Resetting one costs a client nothing and
// us a request to the upstream: CVE-2023-44487.
func (c *Conn) note(reset bool) {
	served := c.served.Add(1)
	if !reset || c.Flooded == nil {
		return
	}
	if n := c.reset.Add(1); n >= enoughResets && 2*n > served && !c.told.Swap(true) {
		c.Flooded()
	}
}
