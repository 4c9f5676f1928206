package h1

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

var (
	_ exchange.Front   = (*conn)(nil)
	_ exchange.Secured = (*conn)(nil)
)

// Protocol implements exchange.Front.
func (c *conn) Protocol() string {
	if c.s.head.HTTP10 {
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

// TLS implements exchange.Secured.
func (c *conn) TLS() *exchange.TLS { return c.tls }

// RawTarget implements exchange.Front.
func (c *conn) RawTarget() []byte { return c.s.head.RawTarget }

// EachField implements exchange.Front.
func (c *conn) EachField(f func(name, value []byte) bool) {
	h := &c.s.head
	for _, field := range h.Fields {
		if !f(field.Name(h.Raw), field.Value(h.Raw)) {
			return
		}
	}
}

// HasBody implements exchange.Front.
func (c *conn) HasBody() bool { return c.hasBody }

// Whole implements exchange.Front.
func (c *conn) Whole() []byte { return c.s.body.Whole() }

// Whole returns the complete body if it has been received and nothing of it was
// read, else nil; it counts as reading it. Plugins ask the stream itself, which
// cannot miss that another has taken its place.
func (b *requestBody) Whole() []byte {
	if b.waits.Load() || !b.mu.TryLock() {
		return nil
	}
	defer b.mu.Unlock()
	if b.over {
		return nil
	}
	p := b.body.Whole()
	if p != nil {
		b.count.Store(b.body.Count)
		b.done.Store(true)
	}
	return p
}

// BodyDone implements exchange.Front.
func (c *conn) BodyDone() bool { return c.s.body.done.Load() }

// LimitBody implements exchange.Front. It waits for a Read in progress.
func (c *conn) LimitBody(limit int64) {
	b := c.s.body
	b.mu.Lock()
	b.body.Limit(limit)
	b.mu.Unlock()
}

// RequestTrailers implements exchange.Front.
func (c *conn) RequestTrailers() []byte {
	if b := c.s.body; b.done.Load() && len(b.body.Trailers) > 0 {
		return b.body.Trailers
	}
	return nil
}

// InterruptBody implements exchange.Front.
func (c *conn) InterruptBody() {
	if c.s.body.done.Load() {
		return
	}
	c.bodyBroke.Store(true)
	_ = c.nc.SetReadDeadline(longAgo) // closed meanwhile: nobody is blocked then
}

// OnGone implements exchange.Front. Once it has returned, the Aborter
// registered before does not run and will not.
func (c *conn) OnGone(a exchange.Aborter) {
	c.mu.Lock()
	if a != nil && c.gone.Load() {
		c.aborter = nil
		c.mu.Unlock()
		a.Abort()
		return
	}
	c.aborter = a
	c.mu.Unlock()
}

// Inform implements exchange.Front.
func (c *conn) Inform(status int, fields []byte) error {
	h := &c.s.head
	if h.HTTP10 || c.started || status < 100 || status > 199 || status == 101 {
		return nil
	}
	b := c.s.body
	b.continues.Lock()
	defer b.continues.Unlock()
	if status == 100 && !b.waits.Swap(false) {
		return nil // the client has not asked, or knows
	}
	o := append(c.s.out[:0], statusLine(status)...)
	o = append(append(o, fields...), "\r\n"...)
	c.s.out = o[:0]
	return c.write(o)
}

// ReplyDate implements exchange.Front.
func (c *conn) ReplyDate(value []byte) { c.s.date = append(c.s.date[:0], value...) }

// ReplyTrailers implements exchange.Front.
func (c *conn) ReplyTrailers(lines []byte) { c.s.trailers = append(c.s.trailers, lines...) }

// WantsUpgrade implements exchange.Front.
func (c *conn) WantsUpgrade() (protocol []byte, ok bool) {
	h := &c.s.head
	if !h.WantsUpgrade || len(h.Protocol) == 0 || h.HTTP10 || c.hasBody {
		return nil, false
	}
	return h.Protocol, true
}

// Upgrade implements exchange.Front.
func (c *conn) Upgrade(tunnel func(client net.Conn, early []byte)) {
	if _, ok := c.WantsUpgrade(); ok {
		c.upgrade = tunnel
	}
}

// ReplyBytes implements exchange.Front.
func (c *conn) ReplyBytes() int64 { return c.replied }

// RequestBytes implements exchange.Front.
func (c *conn) RequestBytes() int64 { return c.s.body.count.Load() }

// Cut implements exchange.Front.
func (c *conn) Cut() { c.cut = true }

// Peer is the address the connection comes from; zero where it is no IP address.
func (c *conn) Peer() netip.AddrPort { return c.peer }

// ---- what is left of net.Conn, for RequestCtx and for plugins that look at the
// connection.

func (c *conn) LocalAddr() net.Addr  { return c.nc.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// secure is a connection whose RequestCtx says that it is TLS.
type secure struct {
	*conn
	tls interface{ ConnectionState() tls.ConnectionState }
}

// Handshake makes RequestCtx.IsTLS true; it was done before.
func (secure) Handshake() error { return nil }

// ConnectionState is RequestCtx.TLSConnectionState's.
func (s secure) ConnectionState() tls.ConnectionState { return s.tls.ConnectionState() }

var _ io.Reader = (*requestBody)(nil)
