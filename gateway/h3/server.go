package h3

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Server is a bound UDP address. Serve, Stop and Close are for one goroutine at
// a time; the rest is concurrent.
type Server struct {
	socket    *net.UDPConn
	transport *quic.Transport
	settings  atomic.Pointer[Settings]
	accepting *quic.EarlyListener // nil: nobody is let in
	serving   sync.WaitGroup      // the accept loops and what they began

	accepted, refused atomic.Uint64

	mu          sync.Mutex // guards what follows; taken before Conn.mu
	conns       map[*Conn]struct{}
	clients     map[netip.Prefix]int
	handshaking int            // of conns
	lastRefused netip.AddrPort // for a limit
	changed     chan struct{}  // closed, and made anew, when one of conns has gone
}

// Listen binds the UDP address, or takes over a socket that is. Nobody is let in,
// and nothing is read, before Serve. Its error names the address.
func Listen(address string, s Settings) (*Server, error) {
	bound, err := s.Sockets.ListenUDP(context.Background(), s.Label, address)
	if err != nil {
		return nil, err
	}
	srv := &Server{
		socket: bound, conns: map[*Conn]struct{}{}, clients: map[netip.Prefix]int{}, changed: make(chan struct{}),
	}
	srv.settings.Store(&s)
	// Keys of this process: what a former one has promised it has forgotten, and
	// a client that learns so at once (stateless reset) tries anew.
	var reset quic.StatelessResetKey
	var token quic.TokenGeneratorKey
	_, _ = rand.Read(reset[:]) // never fails
	_, _ = rand.Read(token[:])
	srv.transport = &quic.Transport{
		Conn: bound, StatelessResetKey: &reset, TokenGeneratorKey: &token,
		ConnContext: srv.admit, VerifySourceAddress: srv.mustProve,
	}
	return srv, nil
}

// Addr is the address bound, with the port the system chose.
func (s *Server) Addr() net.Addr { return s.socket.LocalAddr() }

// Socket is what another process can read from once this server is closed. Two
// that read at once would take each other's packets.
func (s *Server) Socket() syscall.Conn { return s.socket }

// Update makes new settings apply to connections accepted from now on; Handler
// and the functions to all of them.
func (s *Server) Update(next Settings) { s.settings.Store(&next) }

// Serve lets clients in, in the background, until Stop or Close. After Stop it
// may be called again, whether those that were there have gone or not.
func (s *Server) Serve() error {
	config := &quic.Config{
		GetConfigForClient: func(*quic.ClientInfo) (*quic.Config, error) { return s.settings.Load().quic(), nil },
		Allow0RTT:          true,
	}
	shake := &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return s.settings.Load().TLS.QUIC(hello)
	}}
	ln, err := s.transport.ListenEarly(shake, config)
	if err != nil {
		return err
	}
	s.accepting = ln
	s.serving.Go(func() {
		for {
			q, err := ln.Accept(context.Background())
			if err != nil {
				s.acceptEnded(err)
				return
			}
			s.serving.Go(func() { s.serve(q) })
		}
	})
	return nil
}

// acceptEnded tells of a socket that broke; there is nothing to mend.
func (s *Server) acceptEnded(err error) {
	if l := s.settings.Load().Log; l != nil && !errors.Is(err, quic.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		l.Error("HTTP/3 is served no longer: reading from its socket failed", "address", s.Addr(), "error", err)
	}
}

// serve speaks HTTP/3 on one connection to its end.
func (s *Server) serve(q *quic.Conn) {
	settings := s.settings.Load()
	c := Of(q.Context())
	h := &http3.Server{
		Handler:        c,
		MaxHeaderBytes: settings.maxFieldSection(),
	}
	c.begin(q, h, settings.idleTimeout())
	s.serving.Go(c.shake)
	_ = h.ServeQUICConn(q) // over reports what ended it
	_ = q.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Open: len(s.conns), Accepted: s.accepted.Load(), Refused: s.refused.Load()}
	for c := range s.conns {
		if c.idle() {
			st.Idle++
		}
	}
	return st
}

// Departure is the clients that were there at a Stop.
type Departure struct {
	server  *Server
	leaving []*Conn
}

// Stop lets nobody in any more and tells the clients that are there (GOAWAY).
func (s *Server) Stop() *Departure {
	s.refuseAll()
	return &Departure{s, s.leave()}
}

// Wait lets the requests of those clients finish and closes connections that
// have none left. It returns when they have gone, or with ctx's error.
func (d *Departure) Wait(ctx context.Context) error {
	tick := time.NewTicker(lingerTime / 20)
	defer tick.Stop()
	for {
		d.leaving = slices.DeleteFunc(d.leaving, (*Conn).gone)
		if len(d.leaving) == 0 {
			return nil
		}
		for _, c := range d.leaving {
			if c.rested(lingerTime) {
				c.close()
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Tell makes Ending true of the clients that are left.
func (d *Departure) Tell() {
	for _, c := range d.leaving {
		c.told.Store(true)
	}
}

// refuseAll ends what Serve began.
func (s *Server) refuseAll() {
	if s.accepting != nil {
		_ = s.accepting.Close() // never fails
		s.accepting = nil
	}
}

// open are the connections there are.
func (s *Server) open() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.conns))
}

// leave tells all clients that are there to open no more requests.
func (s *Server) leave() []*Conn {
	leaving := s.open()
	for _, c := range leaving {
		if h := c.leave(); h != nil {
			s.serving.Go(func() { _ = h.Shutdown(context.Background()) }) // to the connection's end
		}
	}
	return leaving
}

var errClose = errors.New("h3: handlers did not return in time")

// Close ends everything at once and waits for handlers, which it interrupts. It
// may be called twice.
func (s *Server) Close() error {
	s.refuseAll()
	for _, c := range s.open() {
		c.close()
	}
	_ = s.transport.Close() // for those in a handshake; the socket is closed below
	err := s.socket.Close()
	done := make(chan struct{})
	go func() {
		s.serving.Wait()
		s.wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(closeTime):
		return errClose
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// wait waits until the last connection is counted out.
func (s *Server) wait() {
	for {
		s.mu.Lock()
		left, changed := len(s.conns), s.changed
		s.mu.Unlock()
		if left == 0 {
			return
		}
		<-changed
	}
}
