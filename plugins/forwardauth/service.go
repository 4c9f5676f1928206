package forwardauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/filewatch"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// maxAuthorities bounds ca_file, in bytes; those of a whole system have 300 KiB.
const maxAuthorities = 1 << 20

// service is the one who is asked.
type service struct {
	url      *url.URL
	client   *http.Client
	timeout  time.Duration
	headers  []string // empty: all
	take     []string // headers of a 2xx answer to keep
	tell     []string // headers of a denial to keep
	bodyMost int64
}

// verdict is what the service said. It does not change.
type verdict struct {
	status  int
	headers []field
	// body is nil if it was longer than the limit.
	body []byte
}

type field struct{ name, value string }

// ok is true if the request may pass.
func (v *verdict) ok() bool { return v.status >= 200 && v.status < 300 }

func newService(c *Config, caFile string) (*service, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	t := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: c.Timeout.D()}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		MaxIdleConns:           c.MaxConnections,
		MaxIdleConnsPerHost:    c.MaxConnections,
		MaxConnsPerHost:        c.MaxConnections,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
	if caFile != "" {
		pem, err := filewatch.Read(caFile, maxAuthorities)
		if err != nil {
			return nil, fmt.Errorf("ca_file %q: %w", caFile, err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %q has no PEM certificate", caFile)
		}
	}
	s := &service{
		url: u, timeout: c.Timeout.D(), headers: c.RequestHeaders, tell: c.ClientHeaders, bodyMost: int64(c.BodyLimit),
		take: c.UpstreamHeaders,
		client: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a redirect is for the client: to the login
		}},
	}
	if c.ConsumerHeader != "" {
		s.take = append(s.take[:len(s.take):len(s.take)], c.ConsumerHeader)
	}
	return s, nil
}

// ask asks about a request. An error means that there is no verdict.
func (s *service) ask(e *exchange.Exchange) (*verdict, error) {
	ctx, cancel := context.WithTimeout(e.Context(), s.timeout)
	defer cancel()
	req := (&http.Request{
		Method: http.MethodGet, URL: s.url, Host: s.url.Host, Header: s.describe(e),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	resp, err := s.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the address may have credentials
		}
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	v := &verdict{status: resp.StatusCode}
	if v.ok() {
		v.keep(resp.Header, s.take)
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
		return v, nil
	}
	v.keep(resp.Header, s.tell)
	body, err := io.ReadAll(io.LimitReader(resp.Body, s.bodyMost+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) <= s.bodyMost {
		v.body = body
	}
	return v, nil
}

func (v *verdict) keep(from http.Header, names []string) {
	for _, n := range names {
		for _, value := range from.Values(n) {
			v.headers = append(v.headers, field{n, value})
		}
	}
}

// describe tells the service of the request. What it says about address and
// method replaces anything of those names that the client sent.
func (s *service) describe(e *exchange.Exchange) http.Header {
	h := make(http.Header, 16)
	from := &e.Ctx.Request.Header
	if len(s.headers) > 0 {
		for _, n := range s.headers {
			for _, v := range from.PeekAll(n) {
				h.Add(n, string(v))
			}
		}
	} else {
		listed := connectionOptions(e)
		for k, v := range from.All() {
			if n := string(k); !isHop(n) && !isFraming(n) && !listed[strings.ToLower(n)] {
				h.Add(n, string(v))
			}
		}
	}
	for k := range h {
		// However it is spelt: to many applications X_Forwarded_Uri is the same.
		if n := len("X-Forwarded-"); len(k) > n && wire.SameName(k[:n], "X-Forwarded-") || k == "Forwarded" {
			delete(h, k)
		}
	}
	uri := e.Path
	if e.Query != "" {
		uri += "?" + e.Query
	}
	h.Set("X-Forwarded-Method", string(from.Method()))
	h.Set("X-Forwarded-Proto", e.Scheme)
	h.Set("X-Forwarded-Host", string(from.Host()))
	h.Set("X-Forwarded-Uri", uri)
	if e.Client.IsValid() {
		h.Set("X-Forwarded-For", e.Client.Unmap().String())
	}
	if e.RequestID != "" {
		h.Set("X-Request-Id", e.RequestID)
	}
	if e.Span != nil {
		h.Set("Traceparent", string(e.Span.AppendTraceparent(nil)))
	}
	if h.Get("User-Agent") == "" {
		h["User-Agent"] = nil // not net/http's own
	}
	return h
}

// connectionOptions are the headers that the client's Connection header says
// are for the next hop only.
func connectionOptions(e *exchange.Exchange) map[string]bool {
	var listed map[string]bool
	e.Front.EachField(func(name, value []byte) bool {
		if !strings.EqualFold(string(name), "Connection") {
			return true
		}
		for o := range strings.SplitSeq(string(value), ",") {
			if listed == nil {
				listed = make(map[string]bool)
			}
			listed[strings.ToLower(strings.TrimSpace(o))] = true
		}
		return true
	})
	return listed
}
