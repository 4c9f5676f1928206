package exchange

import (
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
)

// TLS tells of the encrypted connection that a request came by. It is made once
// for the connection and, but for Rules, never changes, so that it may be kept. What it says of
// the client is a fact of the connection; whom that makes the caller is for
// plugins to decide, which is why Identity is left alone.
type TLS struct {
	// Version and Cipher are what was agreed: "TLS 1.3", "TLS_AES_128_GCM_SHA256".
	Version, Cipher string
	// ServerName is the name that the client asked for (SNI); empty without one.
	ServerName string
	// Protocol is what was agreed on by ALPN ("h2", "http/1.1"); empty without.
	Protocol string
	// Resumed says that a session ticket spared the full handshake.
	Resumed bool
	// Peer is the client's certificate, which was verified; nil without one.
	Peer *x509.Certificate
	// Chain is what the client sent to have Peer verified, Peer first.
	Chain []*x509.Certificate
	// Rules are those by which the client was found good last. They are for who
	// ends TLS, and the only thing here that changes.
	Rules *atomic.Pointer[tls.Config]
	// Subject is Peer's distinguished name in the form of RFC 2253.
	Subject string
	// Fingerprint is the SHA-256 of Peer's encoding: 64 hexadecimal digits.
	Fingerprint string
	// SPIFFEID is Peer's only URI name, if that is a SPIFFE ID.
	SPIFFEID string
	// ClientCert is Peer as a value of the Client-Cert field (RFC 9440).
	ClientCert string
}

// Secured is a front whose connections may be encrypted.
type Secured interface {
	// TLS is nil for a connection in plain text.
	TLS() *TLS
}
