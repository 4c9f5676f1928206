// Package snapshot is one compiled revision of the config: what the data plane
// reads. A snapshot never changes. Requests hold a reference from dispatch to
// their last byte, so what it owns is closed only after the last one has gone.
package snapshot

import (
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/l4"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/route"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

// Protocol is what a listener takes connections for.
type Protocol uint8

// The protocols. TLS is passed on unopened, TCP perhaps after TLS was ended.
const (
	HTTP Protocol = iota
	TCP
	TLS
	UDP
)

// Listener is what one listener needs to dispatch a request.
type Listener struct {
	Name    string
	Address string
	Routes  *route.Table[*exchange.Route]
	// Protocol is what is spoken; all others than HTTP know no Routes.
	Protocol Protocol
	// Streams says where connections, or datagrams, are passed on to. With HTTP
	// those for its names alone are, and it may be nil.
	Streams *l4.Table
	// Replies ends a session of datagrams after so many of them to each of the
	// client's; 0: the idle time does.
	Replies int
	// NoRoute runs when nothing matches: the global plugins, then a refusal.
	NoRoute *exchange.Route
	// Redirect runs, instead of any route, for requests over plain HTTP; nil: none.
	Redirect *exchange.Route
	// Rules make a path unambiguous.
	Rules target.Rules
	// Trust says whose forwarding headers are believed.
	Trust *target.Trust
	// Settings for the sockets and the protocol front.
	Server ServerSettings
	// Proxies says whose PROXY headers name the client; nil: nobody's do.
	Proxies *proxyproto.Policy
	// TLS makes the handshakes; nil for plain text.
	TLS *tlsterm.Terminator
	// HTTP3 is served on the UDP port of the same number; nil: it is not. It
	// needs TLS.
	HTTP3 *HTTP3
}

// Snapshot is one compiled revision.
type Snapshot struct {
	// Digest of the config it was compiled from.
	Digest string
	// Listeners by address, made unique where the system chooses the port: a key
	// that stays keeps its socket.
	Listeners map[string]*Listener
	// Units are what the snapshot owns, shared with its neighbours in time.
	Units *Units

	refs    atomic.Int64
	retired chan struct{}
	once    sync.Once
}

// New returns a snapshot that is referenced once, by whoever makes it current.
func New(digest string, listeners map[string]*Listener, units *Units) *Snapshot {
	s := &Snapshot{Digest: digest, Listeners: listeners, Units: units, retired: make(chan struct{})}
	s.refs.Store(1)
	return s
}

// TryRef takes a reference for a request; false once the snapshot is retired
// and its last request has gone.
func (s *Snapshot) TryRef() bool {
	for {
		n := s.refs.Load()
		if n <= 0 {
			return false
		}
		if s.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release gives a reference back. The last one closes, in another goroutine,
// the units no newer snapshot shares.
func (s *Snapshot) Release() {
	if s.refs.Add(-1) == 0 {
		s.once.Do(func() {
			go func() {
				s.Units.Release()
				close(s.retired)
			}()
		})
	}
}

// Retired is closed when the snapshot's units have been released.
func (s *Snapshot) Retired() <-chan struct{} { return s.retired }
