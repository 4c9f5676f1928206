package dial

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Error is why there is no TLS with an endpoint. It is reason.UpstreamTLS.
type Error struct {
	// Detail is for people: short, and it says what to look at.
	Detail string
	Cause  error
}

// Error implements error.
func (e *Error) Error() string { return e.Detail }

// Unwrap gives the reason and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{reason.UpstreamTLS}
	}
	return []error{reason.UpstreamTLS, e.Cause}
}

// explain says why a handshake has failed. What the caller did himself, by
// ending ctx, he knows better.
func (c *Conn) explain(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) || errors.Is(err, net.ErrClosed) {
		return err
	}
	return &Error{Detail: c.detail(ctx, err), Cause: err}
}

func (c *Conn) detail(ctx context.Context, err error) string {
	var record tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	var pin *pinError
	switch {
	case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded):
		return "the endpoint did not complete the TLS handshake in time"
	case errors.As(err, &pin):
		return pin.Error()
	case errors.As(err, &verify):
		return certificateDetail(verify, c.config.ServerName)
	case errors.As(err, &record):
		if string(record.RecordHeader[:]) == "HTTP/" {
			return "the endpoint speaks plain HTTP, not TLS"
		}
		return "the endpoint does not speak TLS"
	case errors.Is(err, errNoCertificate):
		return errNoCertificate.Error()
	case isAlert(err):
		return c.alertDetail(err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the endpoint closed the connection during the TLS handshake"
	case strings.Contains(err.Error(), "unsupported protocol version"):
		return c.versionDetail()
	}
	return "the TLS handshake failed: " + strings.TrimPrefix(err.Error(), "tls: ")
}

// certificateDetail is for certificates that do not verify.
func certificateDetail(err *tls.CertificateVerificationError, name string) string {
	var host x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &host):
		return fmt.Sprintf("certificate is for %s, not %s", names(host.Certificate), name)
	case errors.As(err, &unknown):
		if leaf := err.UnverifiedCertificates[0]; bytes.Equal(leaf.RawIssuer, leaf.RawSubject) {
			return "certificate is self-signed"
		}
		return "certificate is signed by an unknown authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if now := time.Now(); now.Before(invalid.Cert.NotBefore) {
			return "certificate is not valid before " + invalid.Cert.NotBefore.UTC().Format(time.RFC3339)
		}
		return "certificate expired on " + invalid.Cert.NotAfter.UTC().Format(time.RFC3339)
	}
	return "certificate is not valid: " + strings.TrimPrefix(err.Err.Error(), "x509: ")
}

// maxNames of a certificate are told.
const maxNames = 3

// names are what a certificate is for.
func names(c *x509.Certificate) string {
	all := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	switch n := len(all); {
	case n == 0:
		return "no name at all"
	case n > maxNames:
		return fmt.Sprintf("%s and %d more", strings.Join(all[:maxNames], ", "), n-maxNames)
	}
	return list(all)
}

// list is "a", "a or b", "a, b or c".
func list(all []string) string {
	n := len(all)
	if n < 2 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:n-1], ", ") + " or " + all[n-1]
}

// isAlert reports that the endpoint told of an error.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// alert is an alert of the endpoint as our error.
func (c *Conn) alert(err error) error {
	return &Error{Detail: c.alertDetail(err), Cause: err}
}

// alertDetail tells of the alerts that somebody can do something about. Their
// texts are all that crypto/tls shows of them.
func (c *Conn) alertDetail(err error) string {
	var op *net.OpError
	errors.As(err, &op)
	switch text := strings.TrimPrefix(op.Err.Error(), "tls: "); text {
	case "certificate required":
		return "the endpoint requires a client certificate"
	case "bad certificate", "unsupported certificate", "revoked certificate", "expired certificate",
		"unknown certificate", "unknown certificate authority", "access denied":
		if !c.shown {
			return "the endpoint refused the handshake, perhaps for want of a client certificate: " + text
		}
		return "the endpoint refused our certificate: " + text
	case "protocol version not supported":
		return c.versionDetail()
	case "no application protocol":
		return "the endpoint did not agree to speak " + list(c.config.NextProtos)
	case "unrecognized name":
		return "the endpoint does not know the name " + c.config.ServerName
	case "handshake failure", "insufficient security level":
		return "the endpoint refused the handshake: no cipher in common, or a client certificate is missing"
	default:
		return "the endpoint refused the handshake: " + text
	}
}

func (c *Conn) versionDetail() string {
	return "the endpoint does not speak " + tls.VersionName(c.config.MinVersion) + " or later"
}
