// Package h2 is the HTTP/2 server (RFC 9113). One goroutine reads a connection;
// each request is answered by the handler that h1 also calls, on a goroutine
// that is used again, as is all the memory that a request needs. What HTTP/1
// refuses is refused here by the same code: a head is written down in the form
// of HTTP/1 as its fields are decoded, and read by wire.
//
// Replies are written as frames into one buffer for each connection, which goes
// out while the next frames come: many streams share a system call. Every
// refusal is counted, also of what is answered by a reset or by the end of the
// connection.
package h2

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/live"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// Settings of a server: Limits are for connections that come, the rest is for
// the next request of all. A time of 0 or less means no limit.
type Settings struct {
	// Handler answers a request. It runs on a goroutine of its own; ctx and f are
	// valid until it has returned and the reply is written.
	Handler func(ctx *fasthttp.RequestCtx, f exchange.Front)
	// Heads limits a head as it would be in HTTP/1.
	Heads wire.Limits
	// MaxBody is how many bytes a request body may have; 0 means no limit.
	MaxBody int64
	// HeadTimeout is for the client's preface, and for a head from its first byte
	// to its last.
	HeadTimeout time.Duration
	// BodyTimeout is how long a reader of the body waits for more of it.
	BodyTimeout time.Duration
	// WriteTimeout is how long a client may take none of what is written, and how
	// long it may leave a stream without a window for more.
	WriteTimeout time.Duration
	// IdleTimeout is for the time without a request.
	IdleTimeout time.Duration
	Limits
	// WebSockets lets clients open them (RFC 8441); connections are told when
	// they begin.
	WebSockets bool
	// Refused is told of what was answered without a handler: by a reply, by a
	// reset or by the end of the connection. head is what the client sent in the
	// form of HTTP/1, borrowed, and nil where it was no request. May be nil.
	// Concurrent.
	Refused func(r *reason.Reason, peer netip.AddrPort, head []byte)
	// Panicked is told of a panic in Handler, which has its own recover: this is
	// the last line of defence. May be nil. Concurrent.
	Panicked func(value any, stack []byte)
}

// Limits of a connection.
type Limits struct {
	// MaxStreams at once; 0 means 100, which RFC 9113, 6.5.2 asks for at least.
	MaxStreams int
	// StreamWindow and ConnectionWindow are how many bytes of request bodies may
	// wait to be read, of one stream and of all; 0 means 65535, the RFC's own
	// value and the least of the latter.
	StreamWindow, ConnectionWindow int
}

// orDefault fills in what was not said.
func (l Limits) orDefault() Limits {
	if l.MaxStreams <= 0 {
		l.MaxStreams = 100
	}
	if l.StreamWindow <= 0 {
		l.StreamWindow = frames.DefaultWindow
	}
	l.ConnectionWindow = max(l.ConnectionWindow, frames.DefaultWindow)
	return l
}

// Stats is a moment's count of a server's connections.
type Stats struct {
	// Open counts all of them, Idle those without a stream.
	Open, Idle int
	// Tunnels counts streams that carry another protocol.
	Tunnels int
}

// Server serves HTTP/2 on connections given to it. All methods are safe for
// concurrent use.
type Server struct {
	settings atomic.Pointer[Settings]
	streams  sync.Pool
	workers  workers
	conns    *live.Set[*conn]
	clock    *live.Clock // moves from the first connection on
	closing  atomic.Bool
	telling  atomic.Bool // tunnels are told to end
	tunnels  atomic.Int32
}

// New returns a server. Close ends what its first connection starts.
func New(settings Settings) *Server {
	s := &Server{conns: live.NewSet[*conn]()}
	s.clock = live.NewClock(s.sweep)
	s.settings.Store(&settings)
	return s
}

// Update makes settings apply: the limits to connections from now on, the rest
// to requests.
func (s *Server) Update(settings Settings) { s.settings.Store(&settings) }

// ServeTLS serves nc, which is the server's from now on and whose handshake has
// agreed on "h2", and returns at once.
func (s *Server) ServeTLS(nc *tls.Conn, about *exchange.TLS) {
	state := nc.ConnectionState()
	s.serve(nc, nil, about, &state)
}

// ServePlain serves nc, which is the server's from now on, without TLS. early
// are the bytes read from it already.
func (s *Server) ServePlain(nc net.Conn, early []byte) { s.serve(nc, early, nil, nil) }

func (s *Server) serve(nc net.Conn, early []byte, about *exchange.TLS, state *tls.ConnectionState) {
	if s.closing.Load() {
		_ = nc.Close() // nobody waits for it
		return
	}
	s.clock.Start()
	s.conns.Enter()
	c := newConn(s, nc, about, state)
	s.conns.Add(c)
	if s.closing.Load() { // since: Shutdown may have missed it
		s.conns.Remove(c)
		_ = nc.Close()
		s.conns.Leave()
		return
	}
	go c.serve(early)
}

// Stats counts the connections.
func (s *Server) Stats() (t Stats) {
	s.conns.Each(func(c *conn) {
		t.Open++
		if c.busy.Load() == 0 {
			t.Idle++
		}
	})
	t.Tunnels = int(s.tunnels.Load())
	return t
}
