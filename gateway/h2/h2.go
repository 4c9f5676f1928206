// Package h2 is the HTTP/2 server: net/http's, fed with connections whose TLS
// handshake has been made or whose preface has come, behind limits that keep
// one client from costing more than its share. Requests are the bridge's.
//
// Frames, header compression and flow control are net/http's, which also ends
// connections that flood it with CONTINUATION, SETTINGS, PING or RST_STREAM.
package h2

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/batch"
	"github.com/gatehouse-proxy/gatehouse/gateway/bridge"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Settings of a server. Those of Limits are for connections that come, the
// bridge's for the next request of all.
type Settings struct {
	bridge.Settings
	Limits
	// Broken is told of a connection or a stream that net/http has ended for what
	// the client did to it; it does not say who the client is. Concurrent.
	Broken func(r *reason.Reason)
	// Flooded is told of a connection that was ended for the streams it reset.
	// Concurrent.
	Flooded func(r *reason.Reason, peer netip.AddrPort)
	// Log gets what net/http has to say, at the debug level.
	Log *slog.Logger
}

// Limits of a connection.
type Limits struct {
	// MaxStreams at once. 100 is what RFC 9113, 6.5.2 asks for at least.
	MaxStreams int
	// StreamWindow and ConnectionWindow are how many bytes of request bodies may
	// wait to be read, of one stream and of all; the latter is at least 65535.
	StreamWindow, ConnectionWindow int
	// IdleTimeout is for the time without a request; 0 or less means no limit.
	IdleTimeout time.Duration
}

// Stats is a moment's count of a server's connections.
type Stats struct {
	// Open counts all of them, Idle those without a stream.
	Open, Idle int
}

// Server serves HTTP/2 on connections given to it. All methods are safe for
// concurrent use.
type Server struct {
	bridge *bridge.Bridge

	conns    sync.Map      // net.Conn to *conn
	open     atomic.Int64  // of conns
	changed  chan struct{} // has an item when one of conns has gone
	settings atomic.Pointer[Settings]

	mu      sync.Mutex    // guards what follows
	current *generation   // nil until there is a connection
	all     []*generation // those that have connections, and current
	closing bool
	serving sync.WaitGroup // the generations' loops
}

// generation is the connections of one set of limits, which net/http cannot
// change under them.
type generation struct {
	server *http.Server
	queue  *queue
	limits limits
	open   atomic.Int64
}

// limits are what makes a new generation necessary.
type limits struct {
	Limits
	head         int
	writeTimeout time.Duration
}

// conn is one connection.
type conn struct {
	about      bridge.Conn
	generation *generation
	idle       atomic.Bool
}

// New returns a server. Close ends what its first connection starts.
func New(s Settings) *Server {
	s.Armed = true
	srv := &Server{bridge: bridge.New(s.Settings), changed: make(chan struct{}, 1)}
	srv.settings.Store(&s)
	return srv
}

// Update makes s apply: the limits to connections from now on, the rest to
// requests.
func (s *Server) Update(settings Settings) {
	settings.Armed = true
	s.bridge.Update(settings.Settings)
	s.settings.Store(&settings)
}

// ServeTLS serves nc, which is the server's from now on and whose handshake has
// agreed on "h2", and returns at once.
func (s *Server) ServeTLS(nc *tls.Conn, about *exchange.TLS) {
	state := nc.ConnectionState()
	// net/http takes it for plain text, since frames must be gathered above TLS:
	// below they would be a record each. It clears the deadline with the preface.
	if nc.SetReadDeadline(time.Now().Add(prefaceTime)) != nil {
		_ = nc.Close() // closed already
		return
	}
	s.serve(batch.New(nc), about, &state)
}

// prefaceTime is how long a client may take for the preface after the handshake
// (net/http has the same).
const prefaceTime = 10 * time.Second

// ServePlain serves nc, which is the server's from now on, without TLS. early
// are the bytes read from it already.
func (s *Server) ServePlain(nc net.Conn, early []byte) {
	s.serve(&plain{Conn: batch.New(nc), early: early}, nil, nil)
}

func (s *Server) serve(nc net.Conn, about *exchange.TLS, state *tls.ConnectionState) {
	c := new(conn)
	c.idle.Store(true)
	c.about.Local, c.about.Remote, c.about.TLS, c.about.State = nc.LocalAddr(), nc.RemoteAddr(), about, state
	c.about.Flooded = func() { s.flooded(c, nc) }
	s.conns.Store(nc, c)
	s.open.Add(1)
	for {
		g := s.generation()
		if g == nil { // nobody waits for it
			s.left(nc)
			_ = nc.Close()
			return
		}
		g.open.Add(1)
		c.generation = g
		if g.queue.put(nc) {
			break
		}
		c.generation = nil // the limits have just changed
		g.open.Add(-1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing { // since: Shutdown may have missed it
		_ = nc.Close()
	}
}

// generation returns the one for new connections, nil when there are to be none.
func (s *Server) generation() *generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil
	}
	set := s.settings.Load()
	heads := set.Settings.Limits
	l := limits{Limits: set.Limits, head: heads.Head + 32*heads.Fields, writeTimeout: set.WriteTimeout}
	if s.current != nil && s.current.limits == l {
		return s.current
	}
	if s.current != nil {
		s.current.queue.close()
	}
	s.all = slices.DeleteFunc(s.all, func(g *generation) bool { return g.open.Load() == 0 })
	g := &generation{queue: newQueue(), limits: l, server: s.httpServer(l, set.Log)}
	s.current = g
	s.all = append(s.all, g)
	s.serving.Go(func() { _ = g.server.Serve(g.queue) }) // ends when the queue is closed
	return g
}

// maxFrame is the least that RFC 9113, 4.2 allows and what nginx has: a frame is
// held in memory, for each connection.
const maxFrame = 16 << 10

// spare is what a stream's deadline for writing comes later than the bridge's,
// which knows when the client last took something.
const spare = time.Second

func (s *Server) httpServer(l limits, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	h := &http.Server{
		Handler:                      s.bridge,
		Protocols:                    protocols,
		DisableGeneralOptionsHandler: true,
		MaxHeaderBytes:               l.head,
		IdleTimeout:                  l.IdleTimeout,
		ConnState:                    s.connState,
		ConnContext:                  s.connContext,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          l.MaxStreams,
			MaxReceiveBufferPerConnection: l.ConnectionWindow,
			MaxReceiveBufferPerStream:     l.StreamWindow,
			MaxReadFrameSize:              maxFrame,
			CountError:                    s.broken,
		},
	}
	if l.writeTimeout > 0 {
		h.WriteTimeout = l.writeTimeout + spare
		h.HTTP2.WriteByteTimeout = l.writeTimeout
	}
	return h
}

// of is what is known of a connection; nil once it has ended.
func (s *Server) of(nc net.Conn) *conn {
	c, _ := s.conns.Load(nc)
	found, _ := c.(*conn)
	return found
}

func (s *Server) connContext(ctx context.Context, nc net.Conn) context.Context {
	if c := s.of(nc); c != nil {
		return bridge.NewContext(ctx, &c.about)
	}
	return ctx
}

// connState follows what net/http says of its connections.
func (s *Server) connState(nc net.Conn, state http.ConnState) {
	if state == http.StateClosed {
		s.left(nc)
	} else if c := s.of(nc); c != nil {
		c.idle.Store(state != http.StateActive)
	}
}

func (s *Server) left(nc net.Conn) {
	c, ok := s.conns.LoadAndDelete(nc)
	if !ok {
		return
	}
	s.open.Add(-1)
	if g := c.(*conn).generation; g != nil {
		g.open.Add(-1)
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// broken is net/http's CountError: it names a kind of connection, stream or
// frame error, and why.
func (s *Server) broken(kind string) {
	f := s.settings.Load().Broken
	switch {
	case f == nil:
	case strings.HasSuffix(kind, "_too_many_early_resets"):
		f(reason.HTTP2Flood)
	default:
		f(reason.HTTP2Protocol)
	}
}

// flooded ends a connection whose client resets what it asks for.
func (s *Server) flooded(c *conn, nc net.Conn) {
	if f := s.settings.Load().Flooded; f != nil {
		f(reason.HTTP2Flood, c.about.Peer())
	}
	_ = nc.Close() // closed already: as good
}

// Stats counts the connections.
func (s *Server) Stats() (t Stats) {
	s.conns.Range(func(_, c any) bool {
		t.Open++
		if c.(*conn).idle.Load() {
			t.Idle++
		}
		return true
	})
	return t
}

// Shutdown tells every client that no more streams are taken, lets those in
// progress finish, and returns when the last connection has gone or, with an
// error, when ctx is done; Close ends the rest.
func (s *Server) Shutdown(ctx context.Context) error {
	return s.each(func(g *generation) error { return g.server.Shutdown(ctx) })
}

// Close closes every connection, interrupts what their handlers wait for, and
// waits for them. Its error says that some did not end. Closing twice is allowed.
func (s *Server) Close() error {
	err := s.each(func(g *generation) error { return g.server.Close() })
	err = errors.Join(err, s.bridge.Close())
	s.serving.Wait()
	late := time.NewTimer(closeTime)
	defer late.Stop()
	for s.open.Load() > 0 {
		select {
		case <-s.changed:
		case <-late.C:
			return errors.Join(err, errors.New("h2: connections did not end in time"))
		}
	}
	return err
}

// closeTime is for connections that net/http lets linger for a second because
// their client broke the protocol.
const closeTime = 5 * time.Second

// each is for ending: no generation comes after.
func (s *Server) each(do func(*generation) error) error {
	s.mu.Lock()
	s.closing = true
	all := slices.Clone(s.all)
	s.mu.Unlock()
	errs := make([]error, len(all))
	var ended sync.WaitGroup
	for i, g := range all {
		g.queue.close()
		ended.Go(func() { errs[i] = do(g) })
	}
	ended.Wait()
	return errors.Join(errs...)
}
