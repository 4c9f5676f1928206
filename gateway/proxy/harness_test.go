package proxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// finished is what is left of an exchange.
type finished struct {
	refusal  *reason.Refusal
	upstream exchange.UpstreamInfo
	tunnel   exchange.TunnelInfo
	stream   bool
	rpc      exchange.RPC
	message  string // rpc's, kept
}

// gateway is a real server with one route: plugins and the proxy under test.
type gateway struct {
	addr    string
	proxy   *proxy.Proxy
	trusted bool
	tls     *exchange.TLS
	edit    func(e *exchange.Exchange)
	quiet   bool // keep no record: it would allocate

	mu     sync.Mutex
	done   []finished
	tries  []proxy.Try
	denied atomic.Int32
	drops  [3]atomic.Int32 // by cause
	ended  chan struct{}
}

// Finish implements exchange.Owner.
func (g *gateway) Finish(e *exchange.Exchange) {
	if g.quiet {
		return
	}
	g.mu.Lock()
	g.done = append(g.done, finished{e.Refusal, e.Upstream, e.Tunnel, e.Stream, e.RPC, string(e.RPC.Message)})
	g.mu.Unlock()
	select {
	case g.ended <- struct{}{}:
	default:
	}
}

// Tried implements proxy.Observer.
func (g *gateway) Tried(t *proxy.Try) {
	if g.quiet {
		return
	}
	g.mu.Lock()
	g.tries = append(g.tries, *t)
	g.mu.Unlock()
}

// RetryDenied implements proxy.Observer.
func (g *gateway) RetryDenied(string) { g.denied.Add(1) }

// Dropped implements proxy.Observer.
func (g *gateway) Dropped(upstream string, why proxy.Drop) {
	if upstream == "up" {
		g.drops[why].Add(1)
	}
}

// await waits for the end of the n-th request and returns it.
func (g *gateway) await(t testing.TB, n int) finished {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		g.mu.Lock()
		if len(g.done) >= n {
			f := g.done[n-1]
			g.mu.Unlock()
			return f
		}
		g.mu.Unlock()
		select {
		case <-g.ended:
		case <-late:
			t.Fatalf("request %d has not ended", n)
		}
	}
}

func (g *gateway) tried() []proxy.Try {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]proxy.Try(nil), g.tries...)
}

// newUpstream is an upstream with these addresses.
func newUpstream(t testing.TB, s upstream.Settings, addresses ...string) *upstream.Upstream {
	t.Helper()
	m := http1.NewManager()
	if s.Name == "" {
		s.Name = "up"
	}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, upstream.EndpointSettings{Address: a})
	}
	s.NewPool = func(address string, b *upstream.Breaker) upstream.Pool {
		return http1.NewPool(http1.Settings{Address: address, Manager: m, Limiter: b, DialTimeout: time.Minute, Dial: dialer(t)})
	}
	u, err := upstream.New(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.Close(t.Context())
		m.Close()
	})
	return u
}

// newUpstreamOf is an upstream with these addresses and nothing special.
func newUpstreamOf(t testing.TB, addresses ...string) *upstream.Upstream {
	return newUpstream(t, upstream.Settings{}, addresses...)
}

// backends is one upstream with these addresses.
func backends(t testing.TB, addresses ...string) []proxy.Backend {
	return []proxy.Backend{{Upstream: newUpstreamOf(t, addresses...), Weight: 1}}
}

// start serves a proxy with these settings; backends default to addresses.
func start(t testing.TB, s proxy.Settings, addresses ...string) *gateway {
	t.Helper()
	if len(s.Backends) == 0 {
		s.Backends = backends(t, addresses...)
	}
	g := &gateway{ended: make(chan struct{}, 1)}
	s.Route, s.Observer = "test", g
	p, err := proxy.New(s)
	if err != nil {
		t.Fatal(err)
	}
	g.proxy = p
	g.serve(t, p.Handle)
	t.Cleanup(func() { p.Close(t.Context()) })
	return g
}

// peer is who all requests of the tests seem to come from.
var peer = netip.MustParseAddrPort("192.0.2.7:4711")

// serve runs chain behind a real HTTP/1 server until the test ends.
func (g *gateway) serve(t testing.TB, chain ...fiber.Handler) {
	t.Helper()
	run := pipeline.New(func(_ *exchange.Exchange, v any, stack []byte) { t.Errorf("panic: %v\n%s", v, stack) })
	route := &exchange.Route{Name: "test", Chain: chain, Steps: make([]string, len(chain))}
	handler := func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		e := exchange.Acquire(ctx, f, g)
		e.Start, e.Scheme, e.Route = time.Now(), "http", route
		e.Peer = peer
		e.Client, e.Trusted, e.TLS = e.Peer.Addr(), g.trusted, g.tls
		e.Path, e.Query, _ = strings.Cut(unsafe.String(unsafe.SliceData(ctx.RequestURI()), len(ctx.RequestURI())), "?")
		e.Host = "a.test"
		proxy.SetForwarded(ctx, e, e.Trusted)
		if g.edit != nil {
			g.edit(e)
		}
		run(ctx)
	}
	srv := h1.New(h1.Settings{
		Handler: handler, Limits: wire.Limits{Head: 64 << 10, Fields: 100, URI: 8 << 10},
		HeadTimeout: time.Minute, BodyTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = ln.Addr().String()
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			srv.ServeConn(nc)
		}
	})
	t.Cleanup(func() {
		ln.Close()
		accepting.Wait()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// stretched runs a test of timeouts, which are d, until it passes: a machine that
// is too slow for short ones gets longer ones.
func stretched(t *testing.T, d time.Duration, f func(t *testing.T, d time.Duration) error) {
	t.Helper()
	for {
		err := f(t, d)
		if err == nil {
			return
		}
		if d > 5*time.Second {
			t.Fatal(err)
		}
		d *= 4
	}
}

// client is an HTTP client that keeps nothing after the test.
func client(t testing.TB) *http.Client {
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// handle serves h as an upstream.
func handle(t testing.TB, h http.HandlerFunc) (addr string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if overTLS {
		s.Listener = tls.NewListener(s.Listener, identity(t))
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// raw serves connections by hand: f gets each one and its number, from 0.
func raw(t testing.TB, f func(n int, c net.Conn, r *bufio.Reader)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				if overTLS {
					c = tls.Server(c, identity(t))
				}
				defer c.Close()
				f(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// readHead reads one request head, or "" at the end.
func readHead(r *bufio.Reader) string {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return ""
		}
		b.WriteString(line)
		if line == "\r\n" {
			return b.String()
		}
	}
}

// answering is a raw upstream that gives every request of a connection the same bytes.
func answering(t testing.TB, reply string) (addr string) {
	return raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for readHead(r) != "" {
			if _, err := io.WriteString(c, reply); err != nil {
				return
			}
		}
	})
}

// dial sends request bytes and returns the connection.
func dial(t testing.TB, addr, format string, args ...any) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := fmt.Fprintf(c, format, args...); err != nil {
		t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

// get asks for a path on a connection of its own and returns everything received.
func get(t testing.TB, addr, path string) string {
	t.Helper()
	_, r := dial(t, addr, "GET %s HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n", path)
	b, _ := io.ReadAll(r) // a reset is part of what some tests look for
	return string(b)
}
