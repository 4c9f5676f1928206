package h3

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

// Conn is a client's connection. A request's context has it; see Of.
type Conn struct {
	server *Server
	first  netip.AddrPort // where the first packet came from
	client netip.Prefix   // what it is counted as

	mu      sync.Mutex
	quic    *quic.Conn    // nil until the handshake has come so far that we may send
	http    *http3.Server // this connection's own, so that it can be told to go alone
	shaken  bool          // the handshake is over
	ended   bool
	leaving bool
	running map[quic.StreamID]struct{} // requests in Handler
	rest    time.Time                  // since when there has been none
	maxRest time.Duration              // how long that may be
	idling  *time.Timer                // looks whether the rest has been long enough
	// verdicts are on requests that have not come to ServeHTTP yet.
	verdicts map[quic.StreamID]verdict

	attached atomic.Value // what Attach was given last
	told     atomic.Bool  // see Ending

	known sync.Once
	state tls.ConnectionState
	about exchange.TLS
}

var _ exchange.Secured = (*Conn)(nil)

type connKey struct{}

// Of is the connection that a request, by its context, came by; nil if it did
// not come by HTTP/3.
func Of(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// Peer is the client's address now: it changes when a client moves between
// networks.
func (c *Conn) Peer() netip.AddrPort { return clientaddr.AddrPort(c.RemoteAddr()) }

// RemoteAddr is Peer as a *net.UDPAddr.
func (c *Conn) RemoteAddr() net.Addr { return c.quic.RemoteAddr() }

// LocalAddr is the address of the server.
func (c *Conn) LocalAddr() net.Addr { return c.quic.LocalAddr() }

// Attach keeps what its caller wants to know of the connection next time; always
// of one type.
func (c *Conn) Attach(v any) { c.attached.Store(v) }

// Attached is what Attach was given last; nil at first.
func (c *Conn) Attached() any { return c.attached.Load() }

// Ending reports that what has no end of its own is to end now; see Departure.Tell.
func (c *Conn) Ending() bool { return c.told.Load() }

// Flooded ends a connection whose client opens streams only to reset them.
func (c *Conn) Flooded() {
	_ = c.quic.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "")
}

// TLS implements exchange.Secured. It is for requests: the handshake is over.
func (c *Conn) TLS() *exchange.TLS {
	c.know()
	return &c.about
}

// ConnectionState is the state after the handshake, which is over.
func (c *Conn) ConnectionState() tls.ConnectionState {
	c.know()
	return c.state
}

func (c *Conn) know() {
	c.known.Do(func() {
		c.state = c.quic.ConnectionState().TLS
		c.about = tlsterm.About(c.state)
	})
}

// begin takes over a connection that may be written to; its handshake may still
// be waiting for the client. It ends after idle without a request: one whose
// head is not there yet is none, however many streams have been opened for it.
// quic-go's own timer stops at the first byte of the first one, so that a client
// could keep connections and streams for ever by never saying the second.
func (c *Conn) begin(q *quic.Conn, h *http3.Server, idle time.Duration) {
	c.mu.Lock()
	c.quic, c.http, c.rest = q, h, time.Now()
	c.running = map[quic.StreamID]struct{}{}
	c.maxRest, c.idling = idle, time.AfterFunc(idle, c.idled)
	leaving := c.leaving
	c.mu.Unlock()
	if leaving {
		c.close() // told to go before it came
	}
}

// shake waits for the end of the handshake.
func (c *Conn) shake() {
	select {
	case <-c.quic.HandshakeComplete():
		c.shook(true)
	case <-c.quic.Context().Done(): // over has counted
	}
}

// shook notes, once, that the handshake is over, one way or the other.
func (c *Conn) shook(well bool) {
	c.mu.Lock()
	again := c.shaken
	c.shaken = true
	c.mu.Unlock()
	if again {
		return
	}
	c.server.shook()
	if f := c.server.settings.Load().Secured; f != nil && well {
		f(c.ConnectionState())
	}
}

// over is called once, when the connection has ended for whatever cause.
func (c *Conn) over(cause error) {
	c.mu.Lock()
	c.ended = true
	if c.idling != nil {
		c.idling.Stop()
	}
	shaken := c.handshakeDone()
	c.mu.Unlock()
	c.shook(shaken)
	c.server.left(c)
	settings := c.server.settings.Load()
	if why := ending(cause, shaken); why != nil {
		settings.refuse(why, c.first)
	}
}

// handshakeDone is for who holds mu.
func (c *Conn) handshakeDone() bool {
	if c.quic == nil {
		return false
	}
	select {
	case <-c.quic.HandshakeComplete():
		return true
	default:
		return false
	}
}

// ending is why a connection was refused, or ended for breaking the protocol;
// nil if it ended well.
func ending(cause error, shaken bool) *reason.Refusal {
	var app *quic.ApplicationError
	var transport *quic.TransportError
	var slow *quic.HandshakeTimeoutError
	var idle *quic.IdleTimeoutError
	switch {
	case errors.As(cause, &app):
		if app.Remote || app.ErrorCode == quic.ApplicationErrorCode(http3.ErrCodeNoError) {
			return nil
		}
		return reason.ProtocolError.Wrap(cause)
	case !shaken && (errors.As(cause, &slow) || errors.As(cause, &idle)):
		return reason.TLSHandshakeTimeout.Wrap(cause)
	case errors.As(cause, &transport):
		switch {
		case transport.ErrorCode == quic.NoError, transport.ErrorCode == quic.ConnectionRefused && !transport.Remote:
			return nil // we are closing, which is not the client's doing
		case transport.ErrorCode.IsCryptoError():
			return tlsterm.Refusal(cause)
		case transport.Remote:
			return nil
		}
		return reason.ProtocolError.Wrap(cause)
	}
	return nil
}

// leave tells the client to open no more requests; nil if there is nobody to
// tell any more, or yet.
func (c *Conn) leave() *http3.Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving || c.ended {
		return nil
	}
	c.leaving = true
	if c.quic != nil && len(c.running) == 0 {
		c.rest = time.Now() // it still has to hear of it
	}
	return c.http
}

// close ends the connection at once, without blame.
func (c *Conn) close() {
	c.mu.Lock()
	q := c.quic
	c.mu.Unlock()
	if q != nil {
		_ = q.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
}

func (c *Conn) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

func (c *Conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.running) == 0
}

// idled closes a connection that has had no request for long enough, or looks
// again when it may have had none for that long.
func (c *Conn) idled() {
	c.mu.Lock()
	over := false
	if !c.ended && len(c.running) == 0 { // else it is set again with the last one's end
		left := c.maxRest - time.Since(c.rest)
		if over = left <= 0; !over {
			c.idling.Reset(left)
		}
	}
	c.mu.Unlock()
	if over {
		c.close()
	}
}

// rested reports that there has been no request for d.
func (c *Conn) rested(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.quic != nil && len(c.running) == 0 && time.Since(c.rest) >= d
}
