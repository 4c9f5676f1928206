// Package listener accepts TCP connections and hands them to a protocol front,
// within limits in all and per client. It knows nothing of what is spoken on them.
package listener

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
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
)

// Handler takes over accepted connections; it returns at once.
type Handler interface{ ServeConn(nc net.Conn) }

// Settings of a listener.
type Settings struct {
	// Address is "host:port"; an empty host is every interface, port 0 any free one.
	Address string
	// MaxConnections is how many connections may be open, MaxPerClient how many
	// of one IPv4 address or IPv6 /64; 0 means no limit.
	MaxConnections, MaxPerClient int
	// Sockets are those the process was started with, Label is what the one for
	// this address is called among them. May be nil.
	Sockets *socket.Inherited
	Label   string
	// Filter, if set, gets each accepted connection first, on a goroutine of its
	// own: it may read from it (a PROXY header, a TLS handshake) and returns the
	// connection to serve. With an error the connection is closed. What it
	// returns must not have a Socket method unless reading the socket is the
	// same as reading the connection.
	Filter func(nc net.Conn) (net.Conn, error)
	// Announces says which peers are proxies: their connections count for no
	// client until the Filter calls Announce. nil: none is.
	Announces func(peer netip.Addr) bool
	// Refused is told of connections closed because of a limit. May be nil. Concurrent.
	Refused func(r *reason.Reason, peer netip.AddrPort)
	// AcceptFailed is told why no connection could be accepted; for want of
	// descriptors or memory, most likely. May be nil.
	AcceptFailed func(err error)
}

// Stats are a listener's counters since it was bound, and the connections open now.
type Stats struct {
	Open                     int
	Accepted, Refused        uint64
	AcceptErrors, FilterFail uint64
}

// Listener is a bound TCP address. Its methods are safe for concurrent use.
type Listener struct {
	ln        net.Listener
	settings  atomic.Pointer[Settings]
	stop      chan struct{}
	closed    sync.Once
	accepting sync.WaitGroup
	filtering sync.WaitGroup
	closeErr  error

	accepted, refused, errors, filterFail atomic.Uint64

	mu      sync.Mutex
	open    int
	clients map[netip.Prefix]int
	waiting map[net.Conn]struct{} // in a filter
	cut     bool                  // those are to end
}

// Listen binds s.Address, or takes over a socket that is. Nothing is accepted before Serve. Its error names the address.
func Listen(ctx context.Context, s Settings) (*Listener, error) {
	// Package net probes silent connections after 15 seconds, and each 15 seconds.
	ln, err := s.Sockets.Listen(ctx, s.Label, s.Address)
	if err != nil {
		return nil, err
	}
	return newListener(ln, s), nil
}

func newListener(ln net.Listener, s Settings) *Listener {
	l := &Listener{ln: ln, stop: make(chan struct{}), clients: map[netip.Prefix]int{}, waiting: map[net.Conn]struct{}{}}
	l.settings.Store(&s)
	return l
}

// Addr is the address bound, with the port the system chose.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Update makes the limits and functions of s apply to connections accepted from
// now on; the address stays.
func (l *Listener) Update(s Settings) { l.settings.Store(&s) }

// Stats returns the counters.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	open := l.open
	l.mu.Unlock()
	return Stats{open, l.accepted.Load(), l.refused.Load(), l.errors.Load(), l.filterFail.Load()}
}

// Serve accepts connections for h until Close, in the background. It is called once.
func (l *Listener) Serve(h Handler) { l.accepting.Go(func() { l.accept(h) }) }

// Socket is what another process can accept from.
func (l *Listener) Socket() syscall.Conn { return l.ln.(syscall.Conn) }

// Stop stops accepting. What has been accepted goes through its filter and is
// handed over. Stopping twice is allowed.
func (l *Listener) Stop() error {
	l.closed.Do(func() {
		close(l.stop)
		l.closeErr = l.ln.Close()
	})
	l.accepting.Wait()
	return l.closeErr
}

// Settle is Close, except that it first waits for the filters, until ctx is done.
func (l *Listener) Settle(ctx context.Context) error {
	_ = l.Stop() // Close returns the error
	settled := make(chan struct{})
	go func() {
		l.filtering.Wait()
		close(settled)
	}()
	select {
	case <-settled:
	case <-ctx.Done():
	}
	err := l.Close()
	<-settled
	return err
}

// Close stops accepting, ends connections in a filter, and waits until no more
// are handed over. Those handed over stay open. Closing twice is allowed.
func (l *Listener) Close() error {
	err := l.Stop()
	l.mu.Lock()
	l.cut = true
	for nc := range l.waiting {
		_ = nc.Close() // interrupts its filter
	}
	l.mu.Unlock()
	l.filtering.Wait()
	return err
}

const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

func (l *Listener) accept(h Handler) {
	pause := firstPause
	for {
		nc, err := l.ln.Accept()
		if err == nil {
			pause = firstPause
			l.accepted.Add(1)
			l.admit(h, nc)
			continue
		}
		select {
		case <-l.stop:
			return
		default:
		}
		l.errors.Add(1)
		if errors.Is(err, syscall.ECONNABORTED) {
			continue // the client changed its mind
		}
		if failed := l.settings.Load().AcceptFailed; failed != nil {
			failed(err)
		}
		// Out of descriptors or memory, most likely: trying again at once would
		// spin, and giving up would be worse.
		select {
		case <-l.stop:
			return
		case <-time.After(pause):
			pause = min(2*pause, lastPause)
		}
	}
}

// admit counts a connection in and hands it over, or closes it.
func (l *Listener) admit(h Handler, nc net.Conn) {
	s := l.settings.Load()
	peer := clientaddr.AddrPort(nc.RemoteAddr())
	c := &conn{l: l}
	if s.Announces == nil || !s.Announces(peer.Addr()) {
		c.client = clientOf(peer.Addr())
	}
	if !l.count(c.client, s) {
		l.refused.Add(1)
		reset(nc)
		if s.Refused != nil {
			s.Refused(reason.TooManyConnections, peer)
		}
		return
	}
	var counted net.Conn = &plainConn{Conn: nc, conn: c}
	if t, ok := nc.(*net.TCPConn); ok {
		counted = &tcpConn{TCPConn: t, conn: c}
	}
	if s.Filter == nil {
		h.ServeConn(counted)
		return
	}
	l.filtering.Go(func() { l.filter(h, nc, counted, s.Filter) })
}

func (l *Listener) filter(h Handler, nc, counted net.Conn, filter func(net.Conn) (net.Conn, error)) {
	l.mu.Lock()
	l.waiting[nc] = struct{}{}
	cut := l.cut
	l.mu.Unlock()
	if cut { // Close has not seen it
		_ = nc.Close()
	}
	out, err := filter(counted)
	l.mu.Lock()
	delete(l.waiting, nc)
	l.mu.Unlock()
	if err != nil {
		l.filterFail.Add(1)
		_ = counted.Close() // whatever is wrong with it, the filter has said
		return
	}
	h.ServeConn(out)
}

// count admits one more connection of client, or refuses it. The zero client is
// one that is not known yet.
func (l *Listener) count(client netip.Prefix, s *Settings) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.MaxConnections > 0 && l.open >= s.MaxConnections || !l.enter(client, s.MaxPerClient) {
		return false
	}
	l.open++
	return true
}

// recount counts an open connection as another client's and returns whose it
// is then.
func (l *Listener) recount(from, to netip.Prefix) (netip.Prefix, bool) {
	most := l.settings.Load().MaxPerClient
	l.mu.Lock()
	defer l.mu.Unlock()
	if from == to {
		return from, true
	}
	if !l.enter(to, most) {
		return from, false
	}
	l.exit(from)
	return to, true
}

func (l *Listener) left(client netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	l.exit(client)
}

var (
	// unknown is whose connection it is as long as a proxy has not said.
	unknown = netip.Prefix{}
	// nobody are all clients without an IP address: one client.
	nobody = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
)

func (l *Listener) enter(client netip.Prefix, most int) bool {
	if client == unknown {
		return true
	}
	n := l.clients[client]
	if most > 0 && n >= most {
		return false
	}
	l.clients[client] = n + 1
	return true
}

func (l *Listener) exit(client netip.Prefix) {
	if client == unknown {
		return
	}
	if n := l.clients[client] - 1; n > 0 {
		l.clients[client] = n
	} else {
		delete(l.clients, client)
	}
}

// reset closes without keeping the port busy for whom we do not serve.
func reset(nc net.Conn) {
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // the client may have gone
	}
	_ = nc.Close()
}

// clientOf is what is counted as one client.
func clientOf(a netip.Addr) netip.Prefix {
	if p := clientaddr.Network(a); p.IsValid() {
		return p
	}
	return nobody
}
