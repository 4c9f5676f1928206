package proxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	secure "github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
)

// secured is an upstream that is spoken to over TLS, connected within patience.
func secured(t *testing.T, s upstream.Settings, patience time.Duration, edit func(*secure.Settings), addresses ...string) *upstream.Upstream {
	t.Helper()
	m := http1.NewManager()
	s.Name = "up"
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, upstream.EndpointSettings{Address: a})
	}
	dial := trusting(t, edit)
	s.NewPool = func(address string, b *upstream.Breaker) upstream.Pool {
		return http1.NewPool(http1.Settings{Address: address, Manager: m, Limiter: b, DialTimeout: patience, Dial: dial})
	}
	u, err := upstream.New(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.Close(t.Context())
		m.Close()
	})
	return u
}

// vault answers over TLS; config may be nil.
func vault(t *testing.T, config *tls.Config) string {
	t.Helper()
	if config == nil {
		config = identity(t)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		io.WriteString(w, "vault "+string(b))
	}), ErrorLog: quietLog}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ln)
	}()
	t.Cleanup(func() { s.Close(); <-done })
	return ln.Addr().String()
}

// bare accepts connections without TLS.
func bare(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); f(c) }()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

// A failed handshake is told from a refused connection, and why it failed.
func TestUpstreamTLSFailures(t *testing.T) {
	stranger := tlstest.SelfSigned(t, tlstest.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	asking := identity(t).Clone()
	asking.ClientAuth = tls.RequireAnyClientCert
	for _, tc := range []struct {
		name, address, want string
		patience            time.Duration
	}{
		{"stranger", vault(t, &tls.Config{Certificates: []tls.Certificate{stranger.TLS(t)}}), "certificate is self-signed", time.Minute},
		{"wants a certificate", vault(t, asking), "the endpoint requires a client certificate", time.Minute},
		{"plain HTTP", bare(t, func(c net.Conn) {
			c.Read(make([]byte, 1<<10))
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			io.Copy(io.Discard, c)
		}), "the endpoint speaks plain HTTP, not TLS", time.Minute},
		{"hangs", bare(t, func(c net.Conn) { io.Copy(io.Discard, c) }), "the endpoint did not complete the TLS handshake in time", 300 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// The patience is for connecting, too, which may take a slow machine all of it.
			stretched(t, tc.patience, func(t *testing.T, patience time.Duration) error {
				up := secured(t, upstream.Settings{Outlier: upstream.OutlierSettings{Enabled: true, ConsecutiveErrors: 2}}, patience, nil, tc.address)
				g := start(t, proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}})
				for i := range 2 {
					if got := get(t, g.addr, "/"); !strings.HasPrefix(got, "HTTP/1.1 502 ") {
						return fmt.Errorf("%.80q", got)
					}
					f := g.await(t, i+1)
					if f.refusal == nil || f.refusal.Reason != reason.UpstreamTLS || f.refusal.Detail != "endpoint "+tc.address+": "+tc.want {
						return fmt.Errorf("taken down: %w", f.refusal)
					}
				}
				for _, try := range g.tried() {
					if try.Failure != upstream.FailedTLS {
						return fmt.Errorf("a try failed by %v", try.Failure)
					}
				}
				if s := up.Status(); s.Endpoints[0].Usable {
					return fmt.Errorf("two failures do not eject: %+v", s.Endpoints[0])
				}
				return nil
			})
		})
	}
}

// Nothing has been done about a request whose connection was not trusted: any
// request is sent to the next endpoint, once.
func TestUpstreamTLSFailureIsRetried(t *testing.T) {
	asking := identity(t).Clone()
	asking.ClientAuth = tls.RequireAnyClientCert
	for name, config := range map[string]*tls.Config{
		"stranger":            {Certificates: []tls.Certificate{tlstest.SelfSigned(t, tlstest.Request{}).TLS(t)}},
		"wants a certificate": asking,
	} {
		t.Run(name, func(t *testing.T) {
			up := secured(t, upstream.Settings{Algorithm: upstream.RoundRobin}, time.Minute, nil, vault(t, config), vault(t, nil))
			g := start(t, proxy.Settings{
				Backends: []proxy.Backend{{Upstream: up, Weight: 1}},
				Retries:  proxy.RetrySettings{Attempts: 1, On: retryOn(t, "connect_failure"), BudgetPercent: 100, BufferBody: 1 << 10},
			})
			c := client(t)
			for range 6 {
				resp, err := c.Post("http://"+g.addr+"/", "text/plain", strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(b) != "vault body" {
					t.Errorf("%d %q", resp.StatusCode, b)
				}
			}
			if n := len(g.tried()); n < 8 {
				t.Errorf("%d tries: the first endpoint was never chosen", n)
			}
		})
	}
}

// A server of TLS without settings for it, and one of HTTP/2 whose upstream says
// HTTP/1, are told from one that talks garbage. That the client still sends its
// body then does not make it the client's fault.
func TestUpstreamOfAnotherProtocol(t *testing.T) {
	const garbage, alert, settings = "hello\r\n", "\x15\x03\x01\x00\x02\x02\x46", "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00"
	const post = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
	const whole = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
	for name, tc := range map[string]struct {
		reply, request, detail string
		reason                 *reason.Reason
		failure                upstream.Failure
	}{
		"TLS":                       {alert, whole, "the endpoint speaks TLS, and its upstream has no tls settings", reason.UpstreamProtocol, upstream.FailedProtocol},
		"HTTP/2":                    {settings, whole, "the endpoint speaks HTTP/2, and its upstream's protocol is http1", reason.UpstreamProtocol, upstream.FailedProtocol},
		"HTTP/2 under an upload":    {settings, post, "the endpoint speaks HTTP/2", reason.UpstreamProtocol, upstream.FailedProtocol},
		"garbage":                   {garbage, whole, "not an HTTP/1 status line", reason.UpstreamProtocol, upstream.FailedProtocol},
		"garbage under an upload":   {garbage, post, "not an HTTP/1 status line", reason.UpstreamProtocol, upstream.FailedProtocol},
		"goes away under an upload": {"", post, "", reason.UpstreamReset, upstream.FailedReset},
	} {
		t.Run(name, func(t *testing.T) {
			address := bare(t, func(c net.Conn) {
				c.Read(make([]byte, 1<<10))
				if io.WriteString(c, tc.reply); tc.reply != "" {
					io.Copy(io.Discard, c)
				}
			})
			m := http1.NewManager()
			up, err := upstream.New(upstream.Settings{
				Name: "up", Endpoints: []upstream.EndpointSettings{{Address: address}},
				NewPool: func(a string, b *upstream.Breaker) upstream.Pool {
					return http1.NewPool(http1.Settings{Address: a, Manager: m, Limiter: b})
				},
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { up.Close(t.Context()); m.Close() })
			g := start(t, proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}})
			dial(t, g.addr, "%s", tc.request)
			if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != tc.reason || !strings.Contains(f.refusal.Detail, tc.detail) {
				t.Errorf("%+v", f.refusal)
			}
			if tries := g.tried(); len(tries) != 1 || tries[0].Failure != tc.failure {
				t.Errorf("%+v", tries)
			}
		})
	}
}

// A reply that ends with the connection is complete only if the endpoint says
// that it is the end: anybody on the way could close a connection.
func TestUpstreamTLSCutReply(t *testing.T) {
	for name, goodbye := range map[string]bool{"with a goodbye": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			address := bare(t, func(nc net.Conn) {
				c := tls.Server(nc, identity(t))
				readHead(bufio.NewReader(c))
				io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nall of it")
				if goodbye {
					c.CloseWrite()
				}
				nc.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, nc)
			})
			g := start(t, proxy.Settings{Backends: []proxy.Backend{{Upstream: secured(t, upstream.Settings{}, time.Minute, nil, address), Weight: 1}}})
			resp, err := client(t).Get("http://" + g.addr + "/")
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(b) != "all of it" || (err == nil) != goodbye {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

// While authorities and certificates change, every request is answered.
func TestUpstreamTLSRotation(t *testing.T) {
	config := identity(t).Clone()
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, ours.authority.Pool()
	own := &rotating{}
	next := func() {
		c := ours.authority.Issue(t, tlstest.Request{Names: []string{"gateway"}}).TLS(t)
		own.current.Store(&c)
	}
	next()
	up := secured(t, upstream.Settings{}, time.Minute, func(s *secure.Settings) { s.TLS.Certificate = own }, vault(t, config), vault(t, config))
	g := start(t, proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}})
	g.quiet = true
	stop := make(chan struct{})
	failed := make(chan string, 4)
	for range 4 {
		c := client(t)
		go func() {
			for {
				select {
				case <-stop:
					failed <- ""
					return
				default:
				}
				resp, err := c.Get("http://" + g.addr + "/")
				if err != nil {
					failed <- err.Error()
					return
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(b) != "vault " {
					failed <- string(b)
					return
				}
			}
		}()
	}
	for range 10 {
		time.Sleep(20 * time.Millisecond)
		next()
	}
	close(stop)
	for range 4 {
		if f := <-failed; f != "" {
			t.Error(f)
		}
	}
}

// rotating is a certificate that is replaced now and then.
type rotating struct {
	current atomic.Pointer[tls.Certificate]
}

func (r *rotating) Current() *tls.Certificate { return r.current.Load() }
