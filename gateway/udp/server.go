// Package udp passes datagrams on: what comes from one client is a session with
// a socket of its own, connected to an endpoint that gateway/l4 chooses, until
// nothing has come either way for the idle time. Replies leave by the address
// that the client has written to, also where the listener is bound to all. An
// endpoint whose machine says that nobody listens (ICMP) is blamed, and the
// session moves to another one unless it has been answered before.
package udp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
	"github.com/gatehouse-proxy/gatehouse/gateway/l4"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
)

// Job is what to do with a new session.
type Job struct {
	// Route is nil where there is none, which refuses the session.
	Route *l4.Route
	// Idle ends a session, 0 means a minute; Replies ends it earlier, after so
	// many replies to each datagram of the client.
	Idle    time.Duration
	Replies int
	// Listener is for the log.
	Listener string
	// Release is called when the session has ended.
	Release func()
}

// Settings of a server.
type Settings struct {
	// Address is "host:port"; an empty host is every address, port 0 any free one.
	Address string
	// Sockets are those the process was started with, Label is what the one for
	// this address is called among them. May be nil.
	Sockets *socket.Inherited
	Label   string
	// MaxSessions is how many sessions there may be, MaxPerClient how many of one
	// IPv4 address or IPv6 /64; 0 means no limit.
	MaxSessions, MaxPerClient int
	// Acquire says what to do with a new session; false: nothing, it is dropped.
	Acquire func() (Job, bool)
	// Ended is told of every session. Concurrent.
	Ended func(*l4.Record)
	// Refused is told of sessions over a limit, for each datagram. May be nil.
	Refused func(r *reason.Reason, client netip.AddrPort)
	// Failed is told of errors of the socket, which is then left alone for a
	// moment. May be nil.
	Failed func(error)
}

// Stats are a server's counters, and the sessions there are now.
type Stats struct {
	Open                          int
	Accepted, Refused, ReadErrors uint64
	Received, Sent                uint64 // bytes from clients and to them
}

// Server is a bound UDP address. Its methods are safe for concurrent use.
type Server struct {
	settings atomic.Pointer[Settings]
	socket   *net.UDPConn
	info     bool // replies need the address that was written to
	ctx      context.Context
	cancel   context.CancelFunc
	reading  sync.WaitGroup
	muted    atomic.Bool

	accepted, refused, readErrors, received, sent atomic.Uint64

	kept atomic.Int64 // bytes that sessions keep for a second try

	mu       sync.Mutex       // guards what follows
	sessions map[key]*session // one that is over may have been replaced
	open     int              // all there are
	going    int              // those of them that gave way
	quiet    time.Duration    // how long those that give way must have been
	clients  map[netip.Prefix]int
	closing  bool
	empty    chan struct{} // closed once closing and without sessions
}

// key tells sessions apart.
type key struct {
	client netip.AddrPort
	local  [16]byte // the address written to, where there are several
}

// bufferSize is asked for the kernel's queue, so that a burst from many clients
// at once is not lost while one of them is looked up.
const bufferSize = 4 << 20

// Listen binds s.Address, or takes over a socket that is. Nothing is read before Serve. Its error names the address.
func Listen(ctx context.Context, s Settings) (*Server, error) {
	bound, err := s.Sockets.ListenUDP(ctx, s.Label, s.Address)
	if err != nil {
		return nil, err
	}
	_ = bound.SetReadBuffer(bufferSize) // as much as the system allows
	srv := &Server{socket: bound, sessions: map[key]*session{}, clients: map[netip.Prefix]int{}, quiet: quiet, empty: make(chan struct{})}
	if bound.LocalAddr().(*net.UDPAddr).IP.IsUnspecified() {
		if srv.info, err = askForInfo(bound); err != nil {
			_ = bound.Close()
			return nil, err
		}
	}
	srv.settings.Store(&s)
	srv.ctx, srv.cancel = context.WithCancel(context.Background())
	return srv, nil
}

// Addr is the address bound, with the port the system chose.
func (s *Server) Addr() net.Addr { return s.socket.LocalAddr() }

// Update makes the limits and functions of settings apply to sessions from now
// on; the address stays.
func (s *Server) Update(settings Settings) { s.settings.Store(&settings) }

// Serve reads datagrams until Close, in the background. It is called once.
func (s *Server) Serve() { s.reading.Go(s.read) }

// Socket is what another process can read from; see Mute.
func (s *Server) Socket() syscall.Conn { return s.socket }

// Mute reads no more datagrams: another process does from now on. Sessions go
// on passing replies to their clients, until they are idle.
func (s *Server) Mute() {
	s.muted.Store(true)
	_ = s.socket.SetReadDeadline(longAgo) // closed: as good
	s.reading.Wait()
}

// maxDatagram is the longest there is.
const maxDatagram = 64 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, maxDatagram); return &b }}

func (s *Server) read() {
	b, info := make([]byte, maxDatagram), make([]byte, 128)
	for {
		n, m, _, from, err := s.socket.ReadMsgUDPAddrPort(b, info)
		if err != nil {
			if s.ctx.Err() != nil || s.muted.Load() || errors.Is(err, net.ErrClosed) {
				return
			}
			s.readErrors.Add(1)
			if f := s.settings.Load().Failed; f != nil {
				f(err)
			}
			select {
			case <-s.ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		s.received.Add(uint64(n))
		k := key{client: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
		if s.info {
			k.local = localOf(info[:m])
		}
		s.mu.Lock()
		x := s.sessions[k]
		s.mu.Unlock()
		if x == nil || !x.forward(b[:n]) {
			if x = s.admit(k, from, info[:m]); x != nil {
				x.forward(b[:n])
			}
		}
	}
}

// admit begins a session, or refuses it.
func (s *Server) admit(k key, from netip.AddrPort, info []byte) *session {
	set := s.settings.Load()
	client := clientaddr.Network(k.client.Addr())
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil
	}
	if set.MaxPerClient > 0 && s.clients[client] >= set.MaxPerClient ||
		set.MaxSessions > 0 && s.open-s.going >= set.MaxSessions && s.giveWay("") == nil {
		s.mu.Unlock()
		s.refused.Add(1)
		if set.Refused != nil {
			set.Refused(reason.TooManyConnections, k.client)
		}
		return nil
	}
	job, ok := set.Acquire()
	if !ok {
		s.mu.Unlock()
		return nil
	}
	s.accepted.Add(1)
	x := newSession(s, k, from, info, job)
	s.sessions[k] = x
	s.open++
	s.clients[client]++
	s.mu.Unlock()
	go x.run()
	return x
}

// left forgets a session.
func (s *Server) left(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[x.key] == x {
		delete(s.sessions, x.key)
	}
	s.open--
	if x.going {
		s.going--
	}
	client := clientaddr.Network(x.key.client.Addr())
	if s.clients[client]--; s.clients[client] == 0 {
		delete(s.clients, client)
	}
	s.ended()
}

// ended tells those who wait for the last session. s.mu is held.
func (s *Server) ended() {
	if s.closing && s.open == 0 {
		select {
		case <-s.empty:
		default:
			close(s.empty)
		}
	}
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	open := s.open
	s.mu.Unlock()
	return Stats{
		Open: open, Accepted: s.accepted.Load(), Refused: s.refused.Load(), ReadErrors: s.readErrors.Load(),
		Received: s.received.Load(), Sent: s.sent.Load(),
	}
}

// Shutdown begins no more sessions and waits for those there are; an error,
// when ctx was done first. The address stays bound until Close.
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

// closeTime is how long Close waits for sessions that it has ended.
const closeTime = 5 * time.Second

// Close ends all sessions, waits for them and lets go of the address. Closing
// twice is allowed.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closing = true
	s.cancel() // with s.mu held: a session that connects later sees it
	for _, x := range s.sessions {
		x.wake()
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := s.Shutdown(ctx)
	_ = s.socket.Close() // closed before: as good
	s.reading.Wait()
	if err != nil {
		return errors.New("udp: sessions did not end in time")
	}
	return nil
}
