package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"golang.org/x/crypto/acme"
)

const (
	// requestTimeout is for one exchange with the authority.
	requestTimeout = 30 * time.Second
	// maxReply bounds what an authority may answer: a chain has a few KiB.
	maxReply = 1 << 20
)

// dial prepares a client for one order. Its file of authorities is read each
// time, so that a replaced one is noticed. done gives its connections up.
func (s *Source) dial(ctx context.Context, st *store, alone bool) (c *acme.Client, done func(), err error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: requestTimeout, MaxIdleConnsPerHost: 1,
	}
	if s.s.CAFile != "" {
		pool, err := readPool(s.s.CAFile)
		if err != nil {
			return nil, nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	var trip http.RoundTripper = transport
	if s.transport != nil {
		trip = s.transport
	}
	key, err := st.accountKey(ctx, s.s.account(), alone)
	if err != nil {
		return nil, nil, err
	}
	c = &acme.Client{
		Key: key, DirectoryURL: s.s.Directory, UserAgent: "gatehouse/" + s.node.s.Version,
		HTTPClient:   &http.Client{Transport: bounded{trip}, Timeout: requestTimeout},
		RetryBackoff: retry,
	}
	return c, transport.CloseIdleConnections, nil
}

// maxPool bounds a file of authorities: those of a whole system have 300 KiB.
const maxPool = 1 << 20

func readPool(path string) (*x509.CertPool, error) {
	content, err := filewatch.Read(path, maxPool)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%q: has no certificate in PEM form", path)
	}
	return pool, nil
}

// retry is acme.Client.RetryBackoff, within one step of an order. A nonce that
// is out of date is the protocol's way of life. A server that fails is asked a
// few times more, so that a finished challenge is not wasted; then, and
// whenever it wants to be left alone for longer, the worker's own pauses begin.
func retry(n int, _ *http.Request, r *http.Response) time.Duration {
	if r.StatusCode == http.StatusTooManyRequests {
		return 0
	}
	if r.StatusCode < 500 { // a nonce
		if n > 12 {
			return 0
		}
		return time.Duration(n) * 20 * time.Millisecond
	}
	if n > 2 || r.Header.Get("Retry-After") != "" {
		return 0
	}
	return time.Duration(n) * time.Second
}

// bounded keeps an authority from filling our memory.
type bounded struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = &limitedBody{Reader: io.LimitReader(resp.Body, maxReply), Closer: resp.Body}
	}
	return resp, err
}

type limitedBody struct {
	io.Reader
	io.Closer
}

// account finds the account that belongs to the client's key, or makes it.
func (s *Source) account(ctx context.Context, c *acme.Client) error {
	a, err := c.GetReg(ctx, "")
	if errors.Is(err, acme.ErrNoAccount) {
		a, err = s.register(ctx, c)
	}
	if err != nil {
		return err
	}
	c.KID = acme.KeyID(a.URI)
	return nil
}

var errTerms = errors.New("the authority's terms of service are not agreed to")

func (s *Source) register(ctx context.Context, c *acme.Client) (*acme.Account, error) {
	want := &acme.Account{}
	if s.s.Email != "" {
		want.Contact = []string{"mailto:" + s.s.Email}
	}
	if s.s.BindingID != "" {
		want.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: s.s.BindingID, Key: s.s.BindingKey}
	}
	if !s.s.TermsAgreed {
		return nil, errTerms
	}
	a, err := c.Register(ctx, want, acme.AcceptTOS)
	if errors.Is(err, acme.ErrAccountAlreadyExists) {
		return c.GetReg(ctx, "")
	}
	if err == nil {
		s.log.Info("an account was made at the authority", "account", a.URI)
	}
	return a, err
}
