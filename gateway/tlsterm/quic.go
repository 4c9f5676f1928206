package tlsterm

import (
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// quicConfig is a listener's configuration as QUIC needs it.
type quicConfig struct {
	from, config *tls.Config
}

// QUIC is tls.Config.GetConfigForClient for handshakes that QUIC makes: the
// certificates, clients' certificates, session tickets and limits are those of
// the listener's TCP port, and what is spoken is HTTP/3 over TLS 1.3. Its errors
// are told by Refusal.
func (t *Terminator) QUIC(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if _, err := t.hear(hello); err != nil {
		return nil, err
	}
	from := t.config.Load()
	if from == nil {
		return nil, errNoAuthorities
	}
	if q := t.quic.Load(); q != nil && q.from == from {
		return q.config, nil
	}
	c := from.Clone()
	c.MinVersion = tls.VersionTLS13
	c.NextProtos = []string{"h3"}
	c.GetConfigForClient = nil
	t.quic.Store(&quicConfig{from, c})
	return c, nil
}

// Pressed says that a client has used up half of the handshakes it may make. In
// UDP its address may have been forged, so it is to be proven before the rest
// is taken from whom it belongs to.
func (t *Terminator) Pressed(client net.Addr) bool {
	if t.limiter == nil {
		return false
	}
	var d ratelimit.Decision
	t.take(stranger{addr: client}, 0, &d)
	return d.Remaining < fullCost*t.s.HandshakesPerClient.Limit/2
}

// stranger is an address without a connection.
type stranger struct {
	net.Conn
	addr net.Addr
}

// RemoteAddr implements net.Conn.
func (s stranger) RemoteAddr() net.Addr { return s.addr }

// HandshakeTimeout is how long a handshake may take.
func (t *Terminator) HandshakeTimeout() time.Duration { return t.s.HandshakeTimeout }

// About takes down what is to be known of a connection after its handshake.
func About(s tls.ConnectionState) exchange.TLS { return about(s) }

// The alerts that say what crypto/tls has no error for (RFC 8446, 6.2).
const (
	unrecognizedName      = tls.AlertError(112)
	noApplicationProtocol = tls.AlertError(120)
)

// Refusal says why a handshake that QUIC made has failed.
func Refusal(err error) *reason.Refusal {
	var verify *tls.CertificateVerificationError
	var alert tls.AlertError
	switch {
	case errors.Is(err, errTooMany):
		return reason.TLSHandshakesLimited.Wrap(err)
	case errors.As(err, &verify), errors.Is(err, errClientCertificate):
		return reason.TLSClientCertificate.Wrap(err)
	case errors.As(err, &alert) && alert == unrecognizedName:
		return reason.TLSUnknownName.Wrap(err)
	case errors.As(err, &alert) && alert == noApplicationProtocol:
		return reason.TLSNoProtocol.Wrap(err)
	}
	return reason.TLSHandshakeFailed.Wrap(err)
}
