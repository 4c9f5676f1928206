package dial

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
)

// TLSSettings say whom to trust. The zero value verifies endpoints by their
// own host against the system's authorities.
type TLSSettings struct {
	// Upstream in the log.
	Upstream string
	// ServerName is asked for (SNI) and verified. Empty: the endpoint's host. An
	// IP address is verified against the addresses in the certificate, and not
	// asked for, as RFC 6066 demands.
	ServerName string
	// CAFile is a PEM file of the authorities to trust instead of the system's.
	CAFile string
	// InsecureSkipVerify trusts anybody whom Pins do not exclude.
	InsecureSkipVerify bool
	// Pins are hashes of public keys, see ParsePin. With any, one of them must be
	// in the verified chain; with InsecureSkipVerify it must be the endpoint's own.
	Pins []Pin
	// Certificate is shown to endpoints that ask; nil: none is.
	Certificate CertSource
	// MinVersion is the oldest version spoken; 0 means tls.VersionTLS12.
	MinVersion uint16
	// Log hears of changes of the CA file; nil: silent.
	Log *slog.Logger
}

// CertSource has a certificate that may change; tlsterm.Certificate is one.
type CertSource interface {
	// Current is the certificate, nil while there is none that is usable.
	Current() *tls.Certificate
}

// Pin is the SHA-256 hash of a SubjectPublicKeyInfo (RFC 7469, 2.4).
type Pin [sha256.Size]byte

const pinPrefix = "sha256/"

// ParsePin reads "sha256/BASE64".
func ParsePin(s string) (p Pin, err error) {
	text, ok := strings.CutPrefix(s, pinPrefix)
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != len(p) || strings.ContainsAny(text, "\r\n") {
		return p, errors.New("must be sha256/ and the 44 characters of a SHA-256 hash in base64")
	}
	return Pin(b), nil
}

// PinOf is the pin of a certificate's key.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// String is what ParsePin reads.
func (p Pin) String() string { return pinPrefix + base64.StdEncoding.EncodeToString(p[:]) }

// maxFile bounds a PEM file. The authorities of all the world have 220 KiB.
const maxFile = 1 << 20

// maxSessions are remembered per upstream to be resumed; one to two KiB each.
const maxSessions = 1024

// trust makes the tls.Config of a connection.
type trust struct {
	s   TLSSettings
	cas *filewatch.File // nil: the system's authorities, or nobody is verified

	mu      sync.Mutex // guards changes of current
	current atomic.Pointer[basis]
}

// basis is what all connections have in common until a file changes. Sessions
// belong to it: one made as somebody else, or by another's word, is not resumed.
type basis struct {
	config   *tls.Config
	cert     *tls.Certificate
	sessions tls.ClientSessionCache
}

func newTrust(s TLSSettings) (*trust, error) {
	if s.MinVersion == 0 {
		s.MinVersion = tls.VersionTLS12
	}
	if s.MinVersion < tls.VersionTLS12 {
		return nil, errors.New("min_version: must be TLS 1.2 or later")
	}
	if s.CAFile != "" && s.InsecureSkipVerify {
		return nil, errors.New("ca_file: is not used with insecure_skip_verify")
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	t := &trust{s: s}
	if s.CAFile == "" {
		t.renew(nil)
		return t, nil
	}
	t.cas = filewatch.New(filewatch.Settings{
		Path: s.CAFile, Limit: maxFile, Load: t.takeAuthorities,
		Failed: func(err error) {
			s.Log.Error("the authorities of an upstream cannot be loaded; those loaded before stay in use",
				"upstream", s.Upstream, "usable", t.current.Load() != nil, "error", err)
		},
		Changed: func() {
			s.Log.Info("the authorities of an upstream have changed; new connections follow them", "upstream", s.Upstream)
		},
	})
	return t, nil
}

func (t *trust) takeAuthorities(content []byte) error {
	pool, n := x509.NewCertPool(), 0
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("has a malformed certificate: %w", err)
		}
		pool.AddCert(c)
		n++
	}
	if n == 0 {
		return errors.New("has no certificate in PEM form")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renew(pool)
	return nil
}

// renew begins anew with these authorities; nil: the system's. t.mu is held,
// unless nobody knows t yet.
func (t *trust) renew(authorities *x509.CertPool) *basis {
	b := &basis{sessions: tls.NewLRUClientSessionCache(maxSessions)}
	// The groups of the key exchange (X25519MLKEM768 first) and the suites of
	// TLS 1.2 (with forward secrecy) are left to Go, which keeps them up to date.
	b.config = &tls.Config{
		RootCAs: authorities, MinVersion: t.s.MinVersion,
		InsecureSkipVerify: t.s.InsecureSkipVerify, //nolint:gosec // asked for, and warned about
	}
	if t.s.Certificate != nil {
		b.cert = t.s.Certificate.Current()
		b.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if b.cert == nil {
				return nil, errNoCertificate
			}
			return b.cert, nil
		}
	}
	if len(t.s.Pins) > 0 {
		b.config.VerifyConnection = t.pinned
	}
	t.current.Store(b)
	return b
}

var errNoCertificate = errors.New("the endpoint asks for a certificate, and ours could not be loaded")

// config is for one connection.
func (t *trust) config(address string, protocols []string) (*tls.Config, error) {
	b := t.current.Load()
	if b == nil {
		return nil, errNoAuthorities
	}
	if t.s.Certificate != nil && b.cert != t.s.Certificate.Current() {
		t.mu.Lock()
		if b = t.current.Load(); b.cert != t.s.Certificate.Current() {
			b = t.renew(b.config.RootCAs)
		}
		t.mu.Unlock()
	}
	c := b.config.Clone()
	c.ServerName, c.NextProtos = t.serverName(address), protocols
	c.ClientSessionCache = sessions{b.sessions, address}
	return c, nil
}

func (t *trust) serverName(address string) string {
	if t.s.ServerName != "" {
		return t.s.ServerName
	}
	return hostOf(address)
}

// sessions are those of one endpoint: endpoints of one name need not share the
// keys of their tickets.
type sessions struct {
	all     tls.ClientSessionCache
	address string
}

func (s sessions) key(name string) string { return s.address + "\x00" + name }

// Get implements tls.ClientSessionCache.
func (s sessions) Get(name string) (*tls.ClientSessionState, bool) { return s.all.Get(s.key(name)) }

// Put implements tls.ClientSessionCache.
func (s sessions) Put(name string, c *tls.ClientSessionState) { s.all.Put(s.key(name), c) }

// pinError says which key an endpoint has instead of a pinned one.
type pinError struct{ has Pin }

// Error implements error.
func (e *pinError) Error() string {
	return "the certificate's key is not pinned; it is " + e.has.String()
}

// pinned is tls.Config.VerifyConnection; it also sees resumed sessions.
func (t *trust) pinned(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the endpoint showed no certificate")
	}
	leaf := s.PeerCertificates[0]
	chains := s.VerifiedChains
	if t.s.InsecureSkipVerify {
		chains = [][]*x509.Certificate{{leaf}} // nobody vouches for the rest
	}
	for _, chain := range chains {
		for _, c := range chain {
			has := PinOf(c)
			for _, p := range t.s.Pins {
				if has == p {
					return nil
				}
			}
		}
	}
	return &pinError{PinOf(leaf)}
}
