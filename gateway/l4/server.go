package l4

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/splice"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// Job is what to do with one connection.
type Job struct {
	// Route is nil where there is none, which refuses the connection.
	Route *Route
	Idle  time.Duration
	// Listener and Protocol ("TCP", "TLS") are for the log. Name is the one that
	// the client asked for by TLS.
	Listener, Protocol, Name string
	// First are bytes that have been read of the connection.
	First []byte
	// Screen refuses a connection that begins with a PROXY header, which the
	// client was not to send; First is not screened. It does not hold back
	// servers that speak first.
	Screen bool
	// Release is called once the connection has ended; may be nil.
	Release func()
}

// Record tells of a connection, or a session of datagrams, that has ended.
type Record struct {
	Began    time.Time
	Duration time.Duration
	Client   netip.AddrPort

	Listener, Protocol, Name string // as in Job

	Upstream, Endpoint string
	Attempts           int
	Connected          time.Duration // how long connecting took
	// Received came from the client, Sent went to it.
	Received, Sent int64
	// Refusal is why it was refused or cut; nil for an orderly end.
	Refusal *reason.Refusal
}

// Settings of a server.
type Settings struct {
	// Ended is told of every connection. Concurrent. May be nil.
	Ended func(*Record)
	// Panicked is told of a panic: the last line of defence. May be nil. Concurrent.
	Panicked func(value any, stack []byte)
}

// Stats are a server's connections now, and the bytes of all there have been.
type Stats struct {
	Open           int
	Received, Sent int64
}

// Server passes connections on. Its methods are safe for concurrent use.
type Server struct {
	settings Settings
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc

	mu             sync.Mutex // guards what follows
	conns          map[*conn]struct{}
	closing        bool
	empty          chan struct{} // closed once closing and without connections
	received, sent int64         // of connections that have ended
}

// New returns a server. Close ends what it does.
func New(s Settings) *Server {
	srv := &Server{settings: s, conns: map[*conn]struct{}{}, empty: make(chan struct{})}
	srv.ctx, srv.cancel = context.WithCancel(context.Background())
	return srv
}

// conn is one connection under way.
type conn struct {
	job    Job
	client net.Conn
	peer   netip.AddrPort
	pair   *splice.Pair // guarded by the server's mu; nil while connecting
}

// Serve passes nc on, which it owns from now on, and returns at once. After
// Shutdown or Close it closes nc.
func (s *Server) Serve(nc net.Conn, job Job) {
	c := &conn{job: job, client: nc, peer: clientaddr.AddrPort(nc.RemoteAddr())}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		_ = nc.Close() // nobody waits for it
		c.release()
		return
	}
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	go s.run(c)
}

func (c *conn) release() {
	if c.job.Release != nil {
		c.job.Release()
	}
}

func (s *Server) run(c *conn) {
	r := &Record{Began: time.Now(), Client: c.peer, Listener: c.job.Listener, Protocol: c.job.Protocol, Name: c.job.Name}
	defer s.left(c, r)
	defer func() {
		if v := recover(); v != nil {
			splice.Reset(c.client)
			r.Refusal = reason.Internal.Because("panic: %v", v)
			if s.settings.Panicked != nil {
				s.settings.Panicked(v, debug.Stack())
			}
		}
	}()
	s.serve(c, r)
	r.Duration = time.Since(r.Began)
	if s.settings.Ended != nil {
		s.settings.Ended(r)
	}
}

func (s *Server) left(c *conn, r *Record) {
	c.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.received += r.Received
	s.sent += r.Sent
	s.ended()
}

// ended tells those who wait for the last connection. s.mu is held.
func (s *Server) ended() {
	if s.closing && len(s.conns) == 0 {
		select {
		case <-s.empty:
		default:
			close(s.empty)
		}
	}
}

func (s *Server) serve(c *conn, r *Record) {
	if c.job.Route == nil {
		splice.Reset(c.client)
		r.Refusal = noRoute(c.job.Name)
		return
	}
	choice := c.job.Route.Choose(c.peer, clientaddr.AddrPort(c.client.LocalAddr()))
	leg, endpoint, err := choice.Connect(s.ctx, "tcp")
	r.Upstream, r.Endpoint, r.Attempts, r.Connected = choice.Upstream(), endpoint, choice.Tries(), time.Since(r.Began)
	if err != nil {
		splice.Reset(c.client)
		r.Refusal = reason.From(err)
		return
	}
	settings := splice.Settings{Idle: c.job.Idle}
	if c.job.Screen {
		settings.Screen, settings.ScreenTime = screen, screenTime
	}
	pair := splice.New(c.client, leg.Conn, settings)
	s.mu.Lock()
	c.pair = pair
	stop := s.ctx.Err() != nil
	s.mu.Unlock()
	if stop { // Close has not seen it
		pair.Stop()
	}
	o := pair.Run(c.job.First, nil)
	if o.End.Clean() {
		_ = c.client.Close() // both directions have ended: there is nothing to fail
		_ = leg.Close()
	} else {
		splice.Reset(c.client)
		splice.Reset(leg.Conn)
	}
	r.Received, r.Sent = o.Up, o.Down
	var failure upstream.Failure
	r.Refusal, failure = judge(o)
	leg.Done(failure)
}

func noRoute(name string) *reason.Refusal {
	if name == "" {
		return reason.L4NoRoute.Because("the client named no server")
	}
	return reason.L4NoRoute.Because("no route for the name %s", name)
}

// judge says why a connection ended, nil for an orderly end, and whether the
// endpoint is to blame. What happens after an orderly end of one side (a client
// that breaks off once the server has said goodbye) is nobody's fault.
func judge(o splice.Outcome) (*reason.Refusal, upstream.Failure) {
	switch o.First {
	case splice.ServerEnded:
		if o.Down == 0 {
			return reason.UpstreamReset.Because("the endpoint closed the connection without a word"), upstream.FailedReset
		}
	case splice.ServerFailed:
		return reason.UpstreamReset.Wrap(o.Err), upstream.FailedReset
	case splice.ClientFailed:
		return reason.ClientGone.Wrap(o.Err), upstream.NoFailure
	case splice.Idle:
		return reason.L4IdleTimeout.Wrap(o.Err), upstream.NoFailure
	case splice.Stopped:
		return reason.Draining.Wrap(o.Err), upstream.NoFailure
	case splice.Refused:
		return reason.From(o.Err), upstream.NoFailure
	}
	switch o.End { // a side that ended its part may still be there
	case splice.Idle:
		return reason.L4IdleTimeout.Wrap(o.Err), upstream.NoFailure
	case splice.Stopped:
		return reason.Draining.Wrap(o.Err), upstream.NoFailure
	}
	return nil, upstream.NoFailure
}

// screenTime is how long bytes that may become a PROXY header are held back.
const screenTime = 5 * time.Second

// screen refuses PROXY headers.
func screen(first []byte) (decided bool, err error) {
	switch proxyproto.Look(first) {
	case proxyproto.Proxy:
		return true, reason.ProxyHeaderUntrusted
	case proxyproto.Undecided:
		return false, nil
	}
	return true, nil
}

// Stats counts connections and bytes.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := Stats{Open: len(s.conns), Received: s.received, Sent: s.sent}
	for c := range s.conns {
		if c.pair != nil {
			up, down := c.pair.Bytes()
			t.Received, t.Sent = t.Received+up, t.Sent+down
		}
	}
	return t
}

// Shutdown takes no more connections and waits for those there are; an error,
// when ctx was done first.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.ended()
	s.mu.Unlock()
	select {
	case <-s.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// closeTime is how long Close waits for connections that it has cut.
const closeTime = 5 * time.Second

// Close cuts what is left, and waits for it. Closing twice is allowed.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closing = true
	s.cancel() // with s.mu held: whoever makes a pair later sees it
	for c := range s.conns {
		if c.pair != nil {
			c.pair.Stop()
		}
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		return errors.New("l4: connections did not end in time: " + fmt.Sprint(s.Stats().Open))
	}
	return nil
}
