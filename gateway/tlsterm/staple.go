package tlsterm

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
)

const (
	// ocspMargin is how long before its end a response is no longer shown: a
	// client's clock may be fast.
	ocspMargin = 2 * time.Minute
	// ocspSkew is how far in the future a response may begin.
	ocspSkew = 5 * time.Minute
	// ocspCheck is how often a response that is shown is looked at again.
	ocspCheck = time.Minute
)

// staple is an OCSP response that is good for a certificate.
type staple struct {
	raw   []byte
	until time.Time // nextUpdate
}

// newStaple reads a file with an OCSP response, DER or PEM, and checks all that
// a client would: that it is for this certificate, signed on behalf of its
// issuer, says good, and is neither too old nor from the future (RFC 6960, 3.2).
func newStaple(content []byte, c *tls.Certificate, now time.Time) (*staple, error) {
	der := content
	if block, _ := pem.Decode(content); block != nil {
		der = block.Bytes
	}
	issuer, err := issuerOf(c)
	if err != nil {
		return nil, err
	}
	r, err := ocsp.ParseResponseForCert(der, c.Leaf, issuer)
	if err != nil {
		return nil, fmt.Errorf("is no good: %w", err)
	}
	switch {
	case r.Certificate != nil && !mayAnswerFor(r.Certificate, issuer, now):
		return nil, errors.New("is signed by a certificate that is not for signing OCSP responses")
	case r.Status == ocsp.Revoked:
		return nil, fmt.Errorf("%w at %s", errRevoked, r.RevokedAt.Format(time.RFC3339))
	case r.Status != ocsp.Good:
		return nil, errors.New("says that the issuer does not know the certificate")
	case r.ThisUpdate.After(now.Add(ocspSkew)):
		return nil, fmt.Errorf("is not valid before %s", r.ThisUpdate.Format(time.RFC3339))
	case r.NextUpdate.IsZero():
		return nil, errors.New("does not say how long it is valid")
	case stale(r.NextUpdate, now):
		return nil, fmt.Errorf("was valid until %s", r.NextUpdate.Format(time.RFC3339))
	}
	return &staple{raw: der, until: r.NextUpdate}, nil
}

var errRevoked = errors.New("says that the certificate was revoked")

func stale(until, now time.Time) bool { return !now.Before(until.Add(-ocspMargin)) }

// issuerOf finds who signed a certificate: a response can only be checked with
// the issuer's key.
func issuerOf(c *tls.Certificate) (*x509.Certificate, error) {
	for _, der := range c.Certificate[1:] {
		issuer, err := x509.ParseCertificate(der)
		if err == nil && bytes.Equal(issuer.RawSubject, c.Leaf.RawIssuer) && c.Leaf.CheckSignatureFrom(issuer) == nil {
			return issuer, nil
		}
	}
	return nil, errors.New("cannot be checked: the certificate's file lacks the issuer's certificate")
}

// mayAnswerFor says that the issuer lets the holder of a certificate, which it
// has signed, answer in its place (RFC 6960, 4.2.2.2).
func mayAnswerFor(c, issuer *x509.Certificate, now time.Time) bool {
	return c.Equal(issuer) ||
		slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) && !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

// takeResponse is what following the file of the OCSP response comes to.
func (c *Certificate) takeResponse(content []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.response = content
	return c.attach(time.Now())
}

// attach shows the response if it is good for the certificate, else the last
// that was as long as it holds, else none. c.mu is held.
func (c *Certificate) attach(now time.Time) (err error) {
	cert := c.current.Load()
	if cert == nil || c.response == nil {
		return nil
	}
	s, err := newStaple(c.response, cert, now)
	switch {
	case err == nil:
		c.shown = c.response
	case errors.Is(err, errRevoked):
		c.shown = nil
	case c.shown != nil:
		s, _ = newStaple(c.shown, cert, now) // err tells of the newest
	}
	var raw []byte
	if s != nil {
		raw = s.raw
	}
	c.stapled.Store(s)
	if bytes.Equal(raw, cert.OCSPStaple) {
		return err
	}
	with := *cert
	with.OCSPStaple = raw
	c.current.Store(&with)
	c.s.Changes.Add(1)
	return err
}

// detach stops showing a response that has become too old.
func (c *Certificate) detach(now time.Time) {
	if s := c.stapled.Load(); s == nil || !stale(s.until, now) {
		return
	}
	c.mu.Lock()
	err := c.attach(now)
	c.mu.Unlock()
	if err != nil {
		c.failedOCSP(fmt.Errorf("%q: %w", c.s.OCSPFile, err))
	}
}

func (c *Certificate) failedOCSP(err error) {
	c.failed.Add(1)
	c.s.Log.Warn("an OCSP response cannot be used; none is shown with the certificate unless an earlier one still holds",
		"certificate", c.s.Name, "shown", c.stapled.Load() != nil, "error", err)
}

// watchOCSP runs until Close.
func (c *Certificate) watchOCSP() {
	t := time.NewTicker(ocspCheck)
	defer t.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-t.C:
			c.detach(time.Now())
		}
	}
}
