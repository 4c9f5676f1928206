// Package tlstest makes certificates for tests: an authority, what it issues,
// and the files they are kept in.
package tlstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Authority issues certificates.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Request says what to issue; the zero value is a client's certificate without a name.
type Request struct {
	// Names are DNS names, the first also the common name.
	Names []string
	// IPs are addresses it is for.
	IPs []net.IP
	// URI, if given, is a name of the form scheme://….
	URI string
	// From and To are when it is valid; default: from an hour ago to tomorrow.
	From, To time.Time
	// RSA makes it an RSA certificate instead of an ECDSA one.
	RSA bool
	// Chain puts the authority's certificate behind it.
	Chain bool
	// OCSP makes it one for signing OCSP responses.
	OCSP bool
}

// Pair is a certificate with its key, as PEM.
type Pair struct{ Cert, Key []byte }

// NewAuthority makes an authority that nobody knows yet.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	key := newKey(t, false)
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return &Authority{cert: sign(t, template, template, key.Public(), key), key: key}
}

// Issue makes a certificate for servers and clients.
func (a *Authority) Issue(t testing.TB, r Request) Pair {
	t.Helper()
	return issue(t, r, a)
}

// SelfSigned makes a certificate that nobody else vouches for.
func SelfSigned(t testing.TB, r Request) Pair {
	t.Helper()
	return issue(t, r, nil)
}

// issue has the certificate signed by a, or by its own key.
func issue(t testing.TB, r Request, a *Authority) Pair {
	t.Helper()
	key := newKey(t, r.RSA)
	template := &x509.Certificate{
		SerialNumber: serial(t), DNSNames: r.Names, IPAddresses: r.IPs, NotBefore: r.From, NotAfter: r.To,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if len(r.Names) > 0 {
		template.Subject.CommonName = r.Names[0]
	}
	if r.OCSP {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	}
	if r.URI != "" {
		u, err := url.Parse(r.URI)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(24 * time.Hour)
	}
	if a == nil {
		a = &Authority{cert: template, key: key}
	}
	cert := sign(t, template, a.cert, key.Public(), a.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain := encode("CERTIFICATE", cert.Raw)
	if r.Chain {
		chain = append(chain, a.PEM()...)
	}
	return Pair{Cert: chain, Key: encode("PRIVATE KEY", der)}
}

// Answer says what an OCSP response of an authority has in it.
type Answer struct {
	// Status is ocsp.Good, Revoked or Unknown.
	Status int
	// From and To are thisUpdate and nextUpdate; a zero To is left out.
	From, To time.Time
	// By signs in the authority's place; nil: the authority itself.
	By *Pair
}

// OCSP makes a response about a certificate, in DER.
func (a *Authority) OCSP(t testing.TB, about Pair, in Answer) []byte {
	t.Helper()
	subject, responder, key := about.TLS(t).Leaf, a.cert, a.key
	template := ocsp.Response{
		Status: in.Status, SerialNumber: subject.SerialNumber, ThisUpdate: in.From, NextUpdate: in.To,
		RevokedAt: in.From, IssuerHash: crypto.SHA1,
	}
	if in.By != nil {
		by := in.By.TLS(t)
		responder, key = by.Leaf, by.PrivateKey.(crypto.Signer)
		template.Certificate = by.Leaf
	}
	der, err := ocsp.CreateResponse(a.cert, responder, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// PEM is the authority's own certificate.
func (a *Authority) PEM() []byte { return encode("CERTIFICATE", a.cert.Raw) }

// Pool is a pool with the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// Write replaces the two files, one after the other.
func (p Pair) Write(t testing.TB, certFile, keyFile string) {
	t.Helper()
	Write(t, certFile, p.Cert)
	Write(t, keyFile, p.Key)
}

// Write replaces a file in one step.
func Write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TLS is the pair for a tls.Config.
func (p Pair) TLS(t testing.TB) tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newKey(t testing.TB, isRSA bool) crypto.Signer {
	t.Helper()
	if isRSA {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func sign(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
