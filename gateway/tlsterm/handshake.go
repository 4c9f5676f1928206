package tlsterm

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
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
	about       exchange.TLS
	unknownName bool
}

var _ exchange.Secured = (*Conn)(nil)

// TLS implements exchange.Secured.
func (c *Conn) TLS() *exchange.TLS { return &c.about }

// UnknownName reports that the client asked for a name that no certificate is
// for, or for none, and was shown the first. Of a resumed session it is false.
func (c *Conn) UnknownName() bool { return c.unknownName }

// ErrNothingSaid is the end of a connection whose client, a health check most
// likely, went away without a word, or which we closed ourselves: nothing was
// refused.
var ErrNothingSaid = errors.New("the connection ended before a handshake began")

var errNoAuthorities = errors.New("the authorities of client certificates could not be loaded")

// ErrChallenge is the end of a connection by which an authority made sure that
// a name is ours: it has seen what it wanted, and there is nothing else to say.
var ErrChallenge = errors.New("a challenge of a certificate authority was answered")

// attempt is what is noted of a handshake while it is made.
type attempt struct {
	said        bool     // a ClientHello has come
	protocols   []string // that the client offers
	unknownName bool     // no certificate is for the name it asked for
	challenge   bool     // it is an authority's, and is answered
}

// attemptKey is where a handshake's context keeps its *attempt.
type attemptKey struct{}

// attemptOf is nil in QUIC, whose handshakes are not made here.
func attemptOf(hello *tls.ClientHelloInfo) *attempt {
	a, _ := hello.Context().Value(attemptKey{}).(*attempt)
	return a
}

// hear is tls.Config.GetConfigForClient: the first to see what a client says.
func (t *Terminator) hear(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if a := attemptOf(hello); a != nil {
		a.said, a.protocols = true, hello.SupportedProtos
	}
	cost := uint32(fullCost)
	if offersSession(hello) {
		cost = resumedCost
	}
	if !t.charge(hello.Conn, cost) {
		return nil, errTooMany
	}
	return t.challenged(hello), nil
}

// challengeProtocol is all that an authority offers by ALPN (RFC 8737, 3).
const challengeProtocol = "acme-tls/1"

// challenged is what answers an authority, while a challenge for this very name
// is pending; nil otherwise: then nobody speaks the authority's protocol here,
// and the handshake fails by that.
func (t *Terminator) challenged(hello *tls.ClientHelloInfo) *tls.Config {
	a := attemptOf(hello)
	if a == nil || t.s.Challenge == nil || len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != challengeProtocol {
		return nil
	}
	cert := t.s.Challenge(strings.ToLower(hello.ServerName))
	if cert == nil {
		return nil
	}
	a.challenge = true
	return &tls.Config{
		Certificates: []tls.Certificate{*cert}, NextProtos: []string{challengeProtocol},
		MinVersion: tls.VersionTLS12, CipherSuites: suites, SessionTicketsDisabled: true,
	}
}

// Handshake makes the handshake on nc. Its error is a *reason.Refusal, of which
// the client has been told as well as the protocol allows, or ErrNothingSaid or
// ErrChallenge; nc is then to be closed. Closing nc interrupts it.
func (t *Terminator) Handshake(nc net.Conn) (*Conn, error) {
	if t.exhausted(nc) {
		reset(nc)
		return nil, reason.TLSHandshakesLimited
	}
	config := t.config.Load()
	if config == nil {
		return nil, reason.TLSHandshakeFailed.Wrap(errNoAuthorities)
	}
	if err := nc.SetDeadline(time.Now().Add(t.s.HandshakeTimeout)); err != nil {
		return nil, ErrNothingSaid // closed already
	}
	a := &attempt{}
	c := &Conn{Conn: tls.Server(nc, config)}
	err := c.HandshakeContext(context.WithValue(context.Background(), attemptKey{}, a))
	if err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, t.refuse(nc, err, a)
	}
	if a.challenge {
		_ = c.CloseWrite() // whether it arrives or not
		return nil, ErrChallenge
	}
	s := c.ConnectionState()
	if s.NegotiatedProtocol == "" && t.needsProtocol() {
		_ = c.Close() // it has been said all there is to say
		return nil, reason.TLSNoProtocol.Wrap(errSilentClient)
	}
	c.about, c.unknownName = about(s), a.unknownName
	c.about.Rules.Store(config)
	return c, nil
}

// errSilentClient is for a client that leaves open what it speaks.
var errSilentClient = errors.New("the client agreed on no protocol, and HTTP/1.1 is not offered")

// needsProtocol says that a client must agree on a protocol: who does not is
// taken to speak HTTP/1.1, which here is not spoken.
func (t *Terminator) needsProtocol() bool {
	return len(t.s.Protocols) > 0 && !slices.Contains(t.s.Protocols, "http/1.1")
}

// reset makes closing nc forget what was not read, without waiting for anybody.
func reset(nc net.Conn) {
	if c, ok := nc.(interface{ SetLinger(int) error }); ok {
		_ = c.SetLinger(0) // closed already: as good
	}
}

// refuse says what is wrong, and lets the client hear it.
func (t *Terminator) refuse(nc net.Conn, err error, a *attempt) error {
	var record tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.Is(err, net.ErrClosed),
		!a.said && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return ErrNothingSaid
	case errors.Is(err, os.ErrDeadlineExceeded):
		return reason.TLSHandshakeTimeout.Wrap(err)
	case errors.As(err, &record) && record.Conn != nil && proxyproto.Look(record.RecordHeader[:]) != proxyproto.Other:
		return reason.ProxyHeaderUntrusted // another proxy: nothing we could say would be understood
	case errors.Is(err, errTooMany):
		return reason.TLSHandshakesLimited // the alert may be lost: no waiting for floods
	case errors.As(err, &record) && record.Conn != nil && isHTTP(record.RecordHeader):
		_, _ = nc.Write(plainReply()) // whether it arrives or not
		linger(nc)
		return reason.TLSRequired
	case errors.Is(err, errNoCertificate):
		linger(nc)
		return reason.TLSNoCertificate.Wrap(err)
	case errors.As(err, &verify), errors.Is(err, errClientCertificate):
		linger(nc)
		return reason.TLSClientCertificate.Wrap(err)
	}
	linger(nc)
	switch {
	case a.unknownName && t.s.StrictNames:
		return reason.TLSUnknownName.Wrap(err)
	case t.nothingInCommon(a.protocols):
		return reason.TLSNoProtocol.Wrap(err)
	}
	if untrusting(err) {
		err = fmt.Errorf("%w: perhaps an alert in plain text, as by a client that does not trust the certificate", err)
	}
	return reason.TLSHandshakeFailed.Wrap(err)
}

// untrusting says that err may be a client's refusal of our certificate: in TLS
// 1.3 OpenSSL sends its alert before it has begun to encrypt, which crypto/tls
// cannot read.
func untrusting(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "local error" && op.Err.Error() == "tls: bad record MAC"
}

// nothingInCommon says that a client offers protocols, but none of ours.
func (t *Terminator) nothingInCommon(offered []string) bool {
	return len(offered) > 0 && len(t.s.Protocols) > 0 &&
		!slices.ContainsFunc(offered, func(p string) bool { return slices.Contains(t.s.Protocols, p) })
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
		Rules: new(atomic.Pointer[tls.Config]),
	}
	if len(s.VerifiedChains) > 0 && len(s.PeerCertificates) > 0 {
		p := s.PeerCertificates[0]
		a.Peer, a.Chain, a.Subject, a.SPIFFEID = p, s.PeerCertificates, p.Subject.String(), spiffeID(p)
		sum := sha256.Sum256(p.Raw)
		a.Fingerprint = hex.EncodeToString(sum[:])
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
