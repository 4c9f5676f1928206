package tlsterm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Conn is a connection after the handshake.
type Conn struct {
	*tls.Conn
	about exchange.TLS
}

var _ exchange.Secured = (*Conn)(nil)

// TLS implements exchange.Secured.
func (c *Conn) TLS() *exchange.TLS { return &c.about }

// ErrNothingSaid is the end of a connection whose client, a health check most
// likely, went away without a word, or which we closed ourselves: nothing was
// refused.
var ErrNothingSaid = errors.New("the connection ended before a handshake began")

var errNoAuthorities = errors.New("the authorities of client certificates could not be loaded")

// heardKey is where a handshake's context keeps a *bool: a ClientHello has come.
type heardKey struct{}

// heard is tls.Config.GetConfigForClient, and changes nothing.
func heard(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if said, ok := hello.Context().Value(heardKey{}).(*bool); ok {
		*said = true
	}
	return nil, nil
}

// Handshake makes the handshake on nc. Its error is a *reason.Refusal, of which
// the client has been told as well as the protocol allows, or ErrNothingSaid;
// nc is then to be closed. Closing nc interrupts it.
func (t *Terminator) Handshake(nc net.Conn) (*Conn, error) {
	config := t.config.Load()
	if config == nil {
		return nil, reason.TLSHandshakeFailed.Wrap(errNoAuthorities)
	}
	if err := nc.SetDeadline(time.Now().Add(t.s.HandshakeTimeout)); err != nil {
		return nil, ErrNothingSaid // closed already
	}
	said := false
	c := &Conn{Conn: tls.Server(nc, config)}
	err := c.HandshakeContext(context.WithValue(context.Background(), heardKey{}, &said))
	if err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, refuse(nc, err, said)
	}
	c.about = about(c.ConnectionState())
	return c, nil
}

// refuse says what is wrong, and lets the client hear it.
func refuse(nc net.Conn, err error, said bool) error {
	var record tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.Is(err, net.ErrClosed),
		!said && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return ErrNothingSaid
	case errors.Is(err, os.ErrDeadlineExceeded):
		return reason.TLSHandshakeTimeout.Wrap(err)
	case errors.As(err, &record) && record.Conn != nil && proxyproto.Look(record.RecordHeader[:]) != proxyproto.Other:
		return reason.ProxyHeaderUntrusted // another proxy: nothing we could say would be understood
	case errors.As(err, &record) && record.Conn != nil && isHTTP(record.RecordHeader):
		_, _ = nc.Write(plainReply()) // whether it arrives or not
		linger(nc)
		return reason.TLSRequired
	case errors.As(err, &verify), errors.Is(err, errClientCertificate):
		linger(nc)
		return reason.TLSClientCertificate.Wrap(err)
	}
	linger(nc)
	return reason.TLSHandshakeFailed.Wrap(err)
}

// isHTTP is true for the beginning of a request line: a method in capitals,
// and perhaps what follows it.
func isHTTP(b [5]byte) bool {
	n := 0
	for n < len(b) && 'A' <= b[n] && b[n] <= 'Z' {
		n++
	}
	return n == len(b) || n >= 3 && b[n] == ' '
}

// plainReply is for who speaks plain HTTP to us.
func plainReply() []byte {
	why := reason.TLSRequired
	body := pipeline.AppendProblem(nil, why.Status, why, "")
	b := []byte("HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\nConnection: close\r\nContent-Length: ")
	b = strconv.AppendInt(b, int64(len(body)), 10)
	return append(append(b, "\r\n\r\n"...), body...)
}

const (
	lingerTime = time.Second
	maxLinger  = 64 << 10
)

// linger swallows what the client is still sending. Closing with bytes unread
// would make the kernel throw away our last words.
func linger(nc net.Conn) {
	if h, ok := nc.(interface{ CloseWrite() error }); !ok || h.CloseWrite() != nil {
		return
	}
	if nc.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, nc, maxLinger) // however it ends, so does the connection
	}
}

// about takes down what is to be known of a connection.
func about(s tls.ConnectionState) exchange.TLS {
	a := exchange.TLS{
		Version: tls.VersionName(s.Version), Cipher: tls.CipherSuiteName(s.CipherSuite),
		ServerName: strings.ToLower(s.ServerName), Protocol: s.NegotiatedProtocol, Resumed: s.DidResume,
	}
	if len(s.VerifiedChains) > 0 && len(s.PeerCertificates) > 0 {
		p := s.PeerCertificates[0]
		a.Peer, a.Subject, a.SPIFFEID = p, p.Subject.String(), spiffeID(p)
		a.ClientCert = ":" + base64.StdEncoding.EncodeToString(p.Raw) + ":"
	}
	return a
}

// spiffeID is the SPIFFE ID in a certificate, which must be its only URI name
// (X.509-SVID, 2).
func spiffeID(c *x509.Certificate) string {
	if len(c.URIs) != 1 || c.URIs[0].Scheme != "spiffe" {
		return ""
	}
	return c.URIs[0].String()
}
