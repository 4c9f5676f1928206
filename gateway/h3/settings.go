package h3

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

// Settings of a server. Handler and TLS are required.
type Settings struct {
	// Sockets are those the process was started with, Label is what the one for
	// this address is called among them. May be nil.
	Sockets *socket.Inherited
	Label   string
	// Handler answers requests. The request's context has the connection (Of)
	// and ends when the client gives up; http.ErrAbortHandler, thrown, resets
	// the stream with H3_INTERNAL_ERROR.
	Handler http.Handler
	// TLS says whose certificates are shown and who may connect.
	TLS *tlsterm.Terminator
	// MaxConnections is how many connections may be open, MaxPerClient how many
	// of one IPv4 address or IPv6 /64; 0 means no limit.
	MaxConnections, MaxPerClient int
	// MaxStreams is how many requests of one connection may run at once; 0 is 100.
	MaxStreams int
	// HeadBytes is how long a request's header fields may be, names and values;
	// HeadFields how many they may be. What is somewhat above goes to Handler,
	// which can say so; what is far above is refused without it.
	HeadBytes, HeadFields int
	// IdleTimeout is for a connection without a request; 0 is 75 seconds.
	IdleTimeout time.Duration
	// Secured is told of handshakes that have succeeded. May be nil. Concurrent.
	Secured func(tls.ConnectionState)
	// Refused is told of connections that never came to HTTP, or were ended for
	// breaking it. May be nil. Concurrent.
	Refused func(why *reason.Refusal, peer netip.AddrPort)
	// Malformed is told of requests refused before Handler. May be nil. Concurrent.
	Malformed func(why *reason.Reason, peer netip.AddrPort, method, target string)
	// Log is for what goes wrong with the socket.
	Log *slog.Logger
}

// Stats are a server's counters since it was bound, and the connections open now.
type Stats struct {
	// Open counts connections after the handshake and during it; Idle those
	// without a request.
	Open, Idle int
	// Accepted connections, and those Refused because of a limit.
	Accepted, Refused uint64
}

const (
	defaultStreams = 100 // as in RFC 9114 6.1: it should be at least 100
	defaultIdle    = 75 * time.Second

	// The windows bound what a client can have in our memory unread: 1 MiB for
	// a stream and 1.5 MiB for a connection, which is 80 Mbit/s for an upload
	// over 100 ms. They begin small: most requests have no body.
	firstStreamWindow     = 64 << 10
	lastStreamWindow      = 1 << 20
	firstConnectionWindow = 128 << 10
	lastConnectionWindow  = 3 << 19

	// maxUniStreams is more than the three that HTTP/3 has: control, and the
	// encoder and decoder of QPACK.
	maxUniStreams = 8

	// silence is how long a connection may be without a packet: clients are
	// asked to show that they live at half of it, while there is a request.
	silence = 30 * time.Second

	// lingerTime is how long a connection without requests stays open when it
	// has been told to end: what was written last may still have to be repeated,
	// and a good client closes it itself.
	lingerTime = time.Second
	// closeTime is how long Close waits for handlers that it has interrupted.
	closeTime = 5 * time.Second
)

func (s *Settings) idleTimeout() time.Duration {
	if s.IdleTimeout <= 0 {
		return defaultIdle
	}
	return s.IdleTimeout
}

// maxFieldSection is what quic-go reads of a head, by its own measure: 32 bytes
// more for every field (RFC 9114 4.2.2). It leaves room for heads that are too
// long or have too many fields to come as far as our own refusal.
func (s *Settings) maxFieldSection() int {
	return 2*s.HeadBytes + 2*32*(s.HeadFields+8)
}

// quic is what a new connection gets.
func (s *Settings) quic() *quic.Config {
	streams := s.MaxStreams
	if streams <= 0 {
		streams = defaultStreams
	}
	return &quic.Config{
		HandshakeIdleTimeout:           s.TLS.HandshakeTimeout() / 2, // it may take twice that in all
		MaxIdleTimeout:                 silence,
		KeepAlivePeriod:                silence / 2,
		InitialStreamReceiveWindow:     firstStreamWindow,
		MaxStreamReceiveWindow:         lastStreamWindow,
		InitialConnectionReceiveWindow: firstConnectionWindow,
		MaxConnectionReceiveWindow:     lastConnectionWindow,
		MaxIncomingStreams:             int64(streams),
		MaxIncomingUniStreams:          maxUniStreams,
		Allow0RTT:                      true,
		Tracer:                         trace,
	}
}
