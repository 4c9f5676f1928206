package tlsterm

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// ClientMode says whether clients are asked for a certificate. One that does
// not verify is refused in either case.
type ClientMode uint8

// What clients are asked for.
const (
	NoClientCertificate ClientMode = iota
	RequestClientCertificate
	RequireClientCertificate
)

// Settings of a terminator.
type Settings struct {
	// Listener in the log.
	Listener string
	// Certificates, the default first; not empty.
	Certificates []CertSource
	// Challenge returns the certificate that answers an authority's challenge for
	// a name, in lower case (RFC 8737); nil if none is pending. May be nil.
	Challenge func(name string) *tls.Certificate
	// MinVersion is tls.VersionTLS12 or tls.VersionTLS13.
	MinVersion uint16
	// Protocols are offered by ALPN, the most wanted first. Empty: none is agreed
	// on. Who offers none of them is refused, who offers nothing is served HTTP/1.
	Protocols []string
	// Clients says what clients are asked for, ClientCAFile who issues it.
	Clients      ClientMode
	ClientCAFile string
	// StrictNames refuses clients that ask for a name no certificate is for, or
	// for none. Otherwise they are shown the first certificate.
	StrictNames bool
	// HandshakeTimeout is for the whole handshake.
	HandshakeTimeout time.Duration
	// HandshakesPerClient limits the handshakes of one IPv4 address or IPv6 /64;
	// a resumed one counts half. The zero value is no limit.
	HandshakesPerClient Rate
	// Tickets are for resuming sessions; nil: none are resumed.
	Tickets TicketKeys
	// Changes is the certificates' own.
	Changes *atomic.Uint64
	Log     *slog.Logger
}

// Terminator makes the handshakes of one listener. Its methods are safe for
// concurrent use.
type Terminator struct {
	s      Settings
	names  atomic.Pointer[table]
	config atomic.Pointer[tls.Config] // nil: the authorities are not known yet
	quic   atomic.Pointer[quicConfig] // made of config on first use
	cas    *filewatch.File            // nil: clients are not asked

	limiter ratelimit.Limiter // nil: no limit
}

// New returns a terminator. With client certificates it refuses every
// handshake until Load, or the following of the file, has read the authorities.
func New(s Settings) *Terminator {
	t := &Terminator{s: s, limiter: newLimiter(s.HandshakesPerClient)}
	if s.Clients == NoClientCertificate {
		t.config.Store(t.newConfig(nil, nil))
		return t
	}
	t.cas = filewatch.New(filewatch.Settings{
		Path: s.ClientCAFile, Limit: maxFile, Load: t.takeAuthorities,
		Failed: func(err error) {
			s.Log.Error("the authorities of client certificates cannot be loaded; those loaded before stay in use",
				"listener", s.Listener, "usable", t.config.Load() != nil, "error", err)
		},
		Changed: func() {
			s.Log.Info("the authorities of client certificates have changed; connections whose clients they do not cover get no more requests answered", "listener", s.Listener)
		},
	})
	return t
}

// Load reads the authorities for the first time, before Start. Its error names
// the file.
func (t *Terminator) Load() error {
	if t.cas == nil {
		return nil
	}
	return t.cas.Load()
}

// Fault is why the newest authorities are not in use; nil: they are, or nobody
// is asked for a certificate.
func (t *Terminator) Fault() *filewatch.Fault {
	if t.cas == nil {
		return nil
	}
	return t.cas.Fault()
}

// Start begins to follow the file of authorities; it never fails.
func (t *Terminator) Start(context.Context) error {
	if t.cas != nil {
		t.cas.Start()
	}
	return nil
}

// Close ends what Start began. Handshakes go on with what was loaded last.
func (t *Terminator) Close(context.Context) error {
	if t.cas != nil {
		t.cas.Close()
	}
	return nil
}

// takeAuthorities also makes session tickets worthless that were given to
// clients of the authorities before: their keys are made for the content.
func (t *Terminator) takeAuthorities(content []byte) error {
	list, err := certificates(content)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	for _, c := range list {
		pool.AddCert(c)
	}
	t.config.Store(t.newConfig(pool, content))
	return nil
}

// scope names all that a session began under and must not outlive.
func (t *Terminator) scope(authorities []byte) string {
	sum := sha256.Sum256(authorities)
	return fmt.Sprintf("%s\x00%d\x00%x\x00%x", t.s.Listener, t.s.Clients, t.s.MinVersion, sum)
}

// suites are the cipher suites of TLS 1.2 with forward secrecy and
// authenticated encryption. Go orders them; those of TLS 1.3 are all of that kind.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// errClientCertificate is why a client without a certificate is refused.
var errClientCertificate = errors.New("the client showed no certificate")

// newConfig leaves to Go what it keeps up to date with the times: the groups of
// the key exchange (X25519MLKEM768 first). content is the file of authorities.
func (t *Terminator) newConfig(authorities *x509.CertPool, content []byte) *tls.Config {
	c := &tls.Config{
		MinVersion:             t.s.MinVersion,
		CipherSuites:           suites,
		NextProtos:             t.s.Protocols,
		GetCertificate:         t.certify,
		GetConfigForClient:     t.hear,
		SessionTicketsDisabled: t.s.Tickets == nil,
	}
	if t.s.Tickets != nil {
		k := &tickets{keys: t.s.Tickets, scope: t.scope(content)}
		c.WrapSession, c.UnwrapSession = k.wrap, k.unwrap
	}
	if t.s.Clients == NoClientCertificate {
		return c
	}
	// VerifyClientCertIfGiven, also for RequireClientCertificate: crypto/tls has
	// no error value for a certificate that is missing, and we want to tell.
	c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, authorities
	if t.s.Clients == RequireClientCertificate {
		c.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.VerifiedChains) == 0 {
				return errClientCertificate
			}
			return nil
		}
	}
	return c
}
