package l4_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/l4"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket/sockettest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// serve runs a TCP server until the test ends; its connections are closed then.
func serve(t testing.TB, handle func(*net.TCPConn)) (addr string, stop func()) {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", handle)
}

func serveAt(t testing.TB, address string, handle func(*net.TCPConn)) (addr string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, nc)
			mu.Unlock()
			all.Go(func() {
				defer nc.Close()
				handle(nc.(*net.TCPConn))
			})
		}
	})
	stop = sync.OnceFunc(func() {
		ln.Close()
		mu.Lock()
		for _, nc := range open {
			nc.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

func echo(nc *net.TCPConn) {
	io.Copy(nc, struct{ io.Reader }{nc})
	nc.CloseWrite()
}

// named answers with its name, then echoes.
func named(name string) func(*net.TCPConn) {
	return func(nc *net.TCPConn) {
		io.WriteString(nc, name)
		echo(nc)
	}
}

// silent accepts and never answers.
func silent(nc *net.TCPConn) { io.Copy(io.Discard, nc) }

func newUpstream(t testing.TB, s upstream.Settings, addresses ...string) *upstream.Upstream {
	t.Helper()
	s.Name = "up"
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, upstream.EndpointSettings{Address: a})
	}
	u, err := upstream.New(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close(context.Background()) })
	return u
}

// proxy is a server of the package under test behind a listener.
type proxy struct {
	*l4.Server
	t    testing.TB
	addr string

	mu      sync.Mutex
	records []l4.Record
	tries   []l4.Try
}

func route(t testing.TB, p *proxy, backends ...l4.Backend) *l4.Route {
	t.Helper()
	r, err := l4.NewRoute(backends, func(x *l4.Try) {
		p.mu.Lock()
		p.tries = append(p.tries, *x)
		p.mu.Unlock()
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// start passes connections on to up.
func start(t testing.TB, edit func(*l4.Job), backends ...l4.Backend) *proxy {
	t.Helper()
	p := &proxy{t: t}
	p.Server = l4.New(l4.Settings{Ended: func(r *l4.Record) {
		p.mu.Lock()
		p.records = append(p.records, *r)
		p.mu.Unlock()
	}})
	job := l4.Job{Idle: time.Minute, Protocol: "TCP"}
	if len(backends) > 0 {
		job.Route = route(t, p, backends...)
	}
	if edit != nil {
		edit(&job)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			p.Serve(nc, job)
		}
	})
	t.Cleanup(func() {
		ln.Close()
		accepting.Wait()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *proxy) dial() *net.TCPConn {
	p.t.Helper()
	nc, err := p.connect()
	if err != nil {
		p.t.Fatal(err)
	}
	return nc
}

// connect may fail where the proxy resets the connection at once.
func (p *proxy) connect() (*net.TCPConn, error) {
	nc, err := net.Dial("tcp", p.addr)
	if err != nil {
		return nil, err
	}
	p.t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	return nc.(*net.TCPConn), nil
}

// say sends text, ends, and returns all that comes back.
func (p *proxy) say(text string) (string, error) {
	p.t.Helper()
	nc, err := p.connect()
	if err != nil {
		return "", err
	}
	defer nc.Close()
	_, failed := io.WriteString(nc, text)
	nc.CloseWrite()
	b, err := io.ReadAll(nc)
	return string(b), cmp.Or(err, failed) // the system tells of a reset once, whoever asks first
}

// record waits for the record of the nth connection.
func (p *proxy) record(n int) l4.Record {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		p.mu.Lock()
		if len(p.records) > n {
			defer p.mu.Unlock()
			return p.records[n]
		}
		p.mu.Unlock()
	}
	p.t.Fatalf("no record of connection %d", n)
	return l4.Record{}
}

// quiet waits until no connection is counted any more: each is a moment longer
// than it takes to be on record.
func (p *proxy) quiet() l4.Stats {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if s := p.Stats(); s.Open == 0 {
			return s
		}
	}
	p.t.Fatalf("connections are left: %+v", p.Stats())
	return l4.Stats{}
}

func wants(t testing.TB, r l4.Record, why *reason.Reason) {
	t.Helper()
	if why == nil && r.Refusal != nil || why != nil && (r.Refusal == nil || r.Refusal.Reason != why) {
		t.Errorf("ended for %v, want %v", r.Refusal, why)
	}
}

func TestPassesOn(t *testing.T) {
	addr, _ := serve(t, named("hello "))
	up := newUpstream(t, upstream.Settings{}, addr)
	released := make(chan struct{}, 1)
	p := start(t, func(j *l4.Job) {
		j.First, j.Name, j.Release = []byte("first "), "db.example", func() { released <- struct{}{} }
	}, l4.Backend{Upstream: up, Weight: 1})
	if got, err := p.say("then"); got != "hello first then" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	<-released
	r := p.record(0)
	wants(t, r, nil)
	if r.Received != 10 || r.Sent != 16 || r.Endpoint != addr || r.Upstream != "up" || r.Attempts != 1 ||
		r.Client.Addr().String() != "127.0.0.1" || r.Name != "db.example" || r.Duration < r.Connected {
		t.Errorf("%+v", r)
	}
	if s := p.quiet(); s.Received != 10 || s.Sent != 16 {
		t.Errorf("%+v", s)
	}
	if b := up.Breaker(); b.Connections() != 0 || b.Requests() != 0 {
		t.Errorf("%d connections, %d requests left", b.Connections(), b.Requests())
	}
}

func TestNoRoute(t *testing.T) {
	p := start(t, nil)
	if _, err := p.say("x"); err == nil {
		t.Error("an orderly end")
	}
	wants(t, p.record(0), reason.L4NoRoute)
}

func TestWeights(t *testing.T) {
	a, _ := serve(t, named("a"))
	b, _ := serve(t, named("b"))
	p := start(t, nil,
		l4.Backend{Upstream: newUpstream(t, upstream.Settings{}, a), Weight: 3},
		l4.Backend{Upstream: newUpstream(t, upstream.Settings{}, b), Weight: 1},
		l4.Backend{Upstream: newUpstream(t, upstream.Settings{}, "127.0.0.1:1"), Weight: 0})
	n := map[string]int{}
	for range 200 {
		got, err := p.say("")
		if err != nil {
			t.Fatal(err)
		}
		n[got]++
	}
	if n["a"] < 110 || n["a"] > 190 || n["a"]+n["b"] != 200 {
		t.Errorf("%v", n)
	}
}

func TestHashOnTheClient(t *testing.T) {
	var addrs []string
	for _, name := range []string{"a", "b", "c", "d"} {
		addr, _ := serve(t, named(name))
		addrs = append(addrs, addr)
	}
	p := start(t, nil, l4.Backend{
		Upstream: newUpstream(t, upstream.Settings{Algorithm: upstream.Maglev}, addrs...), Weight: 1, HashClient: true,
	})
	first, err := p.say("")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if got, err := p.say(""); got != first || err != nil {
			t.Fatalf("%q, %v; before it was %q", got, err, first)
		}
	}
}

// TestOneOfThreeIsKilled: no client notices.
func TestOneOfThreeIsKilled(t *testing.T) {
	var addrs []string
	var stops []func()
	for range 3 {
		addr, stop := serveAt(t, sockettest.Reserve(t), echo) // nobody takes its place
		addrs, stops = append(addrs, addr), append(stops, stop)
	}
	up := newUpstream(t, upstream.Settings{Algorithm: upstream.RoundRobin}, addrs...)
	p := start(t, nil, l4.Backend{Upstream: up, Weight: 1})
	for i := range 60 {
		if i == 20 {
			stops[1]()
		}
		if got, err := p.say("hello"); got != "hello" || err != nil {
			t.Fatalf("connection %d: %q, %v", i, got, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	failed, again := 0, 0
	for _, x := range p.tries {
		if x.Failure == upstream.FailedConnect && x.Endpoint == addrs[1] {
			failed++
		}
		if x.Number > 1 {
			again++
		}
	}
	if failed == 0 || failed != again {
		t.Errorf("%d tries failed, %d were made again", failed, again)
	}
}

// nobody is an address where nobody listens, nor can while the test lasts: it is the
// near end of a connection.
func nobody(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

func TestNobodyThere(t *testing.T) {
	gone := nobody(t)
	p := start(t, nil, l4.Backend{Upstream: newUpstream(t, upstream.Settings{}, gone), Weight: 1})
	if _, err := p.say("x"); err == nil {
		t.Error("an orderly end")
	}
	r := p.record(0)
	wants(t, r, reason.UpstreamConnect)
	if r.Endpoint != gone || r.Attempts != 1 {
		t.Errorf("%+v", r)
	}
}

func TestConnectingTakesTooLong(t *testing.T) {
	hang := func(ctx context.Context, _, _ string, _ func(net.Conn) error) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	up := newUpstream(t, upstream.Settings{}, "192.0.2.1:1", "192.0.2.2:1")
	p := start(t, nil, l4.Backend{Upstream: up, Weight: 1, Dial: hang, Timeout: 20 * time.Millisecond})
	p.say("x")
	r := p.record(0)
	wants(t, r, reason.UpstreamTimeout)
	if r.Attempts != 2 || len(p.tries) != 2 || p.tries[0].Failure != upstream.FailedTimeout || p.tries[0].Endpoint == p.tries[1].Endpoint {
		t.Errorf("%+v, %+v", r, p.tries)
	}
	// Close interrupts the next one.
	slow := start(t, nil, l4.Backend{Upstream: up, Weight: 1, Dial: hang, Timeout: time.Hour})
	slow.dial()
	for slow.Stats().Open == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := slow.Close(); err != nil {
		t.Error(err)
	}
	wants(t, slow.record(0), reason.Draining)
}

func TestLimitsOfTheUpstream(t *testing.T) {
	addr, _ := serve(t, echo)
	up := newUpstream(t, upstream.Settings{Breaker: upstream.BreakerSettings{MaxConnections: 1, MaxRequests: 10, MaxPending: 1, MaxRetries: 1}}, addr)
	p := start(t, nil, l4.Backend{Upstream: up, Weight: 1})
	first := p.dial()
	first.Write([]byte("x"))
	first.Read(make([]byte, 1))
	if _, err := p.say("x"); err == nil {
		t.Error("a second connection")
	}
	wants(t, p.record(0), reason.UpstreamOverflow)
	first.Close()
	wants(t, p.record(1), nil)
	if got, err := p.say("y"); got != "y" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestBadServers: what they do ends the connection for a reason, and counts
// against them where it is their fault.
func TestBadServers(t *testing.T) {
	for name, tc := range map[string]struct {
		handle func(*net.TCPConn)
		why    *reason.Reason
		blamed bool
		end    bool // the client sees an orderly end
	}{
		"accepts and closes": {func(*net.TCPConn) {}, reason.UpstreamReset, true, true},
		"accepts and resets": {func(nc *net.TCPConn) { nc.SetLinger(0) }, reason.UpstreamReset, true, false},
		"resets half-way": {func(nc *net.TCPConn) {
			nc.Write([]byte("half"))
			nc.Read(make([]byte, 1))
			nc.SetLinger(0)
		}, reason.UpstreamReset, true, false},
		"answers and closes": {func(nc *net.TCPConn) { nc.Write([]byte("bye")) }, nil, false, true},
		"never answers":      {silent, reason.L4IdleTimeout, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			addr, _ := serve(t, tc.handle)
			up := newUpstream(t, upstream.Settings{Outlier: upstream.OutlierSettings{Enabled: true, ConsecutiveErrors: 1}}, addr)
			p := start(t, func(j *l4.Job) {
				if name == "never answers" {
					j.Idle = 300 * time.Millisecond
				}
			}, l4.Backend{Upstream: up, Weight: 1})
			nc, err := p.connect()
			if name == "resets half-way" {
				io.ReadFull(nc, make([]byte, 4))
				nc.Write([]byte("x"))
			}
			if err == nil {
				_, err = io.ReadAll(nc)
				nc.Close()
			}
			if (err == nil) != tc.end {
				t.Errorf("the client sees %v", err)
			}
			r := p.record(0)
			if r.Refusal == nil || r.Refusal.Reason != reason.UpstreamConnect || name != "accepts and resets" { // the reset may come before we are connected
				wants(t, r, tc.why)
			}
			if s := up.Status().Endpoints[0]; s.EjectedUntil.IsZero() == tc.blamed {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestAClientThatResets(t *testing.T) {
	seen := make(chan error, 1)
	addr, _ := serve(t, func(nc *net.TCPConn) {
		_, err := io.Copy(io.Discard, nc)
		seen <- err
	})
	up := newUpstream(t, upstream.Settings{Outlier: upstream.OutlierSettings{Enabled: true, ConsecutiveErrors: 1}}, addr)
	p := start(t, nil, l4.Backend{Upstream: up, Weight: 1})
	nc := p.dial()
	nc.Write(bytes.Repeat([]byte("x"), 1<<20))
	nc.SetLinger(0)
	nc.Close()
	if err := <-seen; err == nil {
		t.Error("to the server it looked whole")
	}
	wants(t, p.record(0), reason.ClientGone)
	if s := up.Status().Endpoints[0]; !s.EjectedUntil.IsZero() {
		t.Errorf("%+v", s)
	}
}

func TestSendsProxyHeaders(t *testing.T) {
	for v, want := range map[proxyproto.Version]string{
		proxyproto.V1: "PROXY TCP4 127.0.0.1 127.0.0.1 ", proxyproto.V2: "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01",
	} {
		addr, _ := serve(t, echo)
		p := start(t, nil, l4.Backend{Upstream: newUpstream(t, upstream.Settings{}, addr), Weight: 1, Header: v})
		got, err := p.say("payload")
		if err != nil || !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "payload") {
			t.Errorf("%q, %v", got, err)
		}
		if r := p.record(0); r.Received != 7 {
			t.Errorf("%+v", r)
		}
	}
}

// TestProxyHeadersOfStrangers are refused, but servers that speak first are heard.
func TestProxyHeadersOfStrangers(t *testing.T) {
	addr, _ := serve(t, named("hello "))
	p := start(t, func(j *l4.Job) { j.Screen = true }, l4.Backend{Upstream: newUpstream(t, upstream.Settings{}, addr), Weight: 1})
	if got, err := p.say("PRO"); got != "hello PRO" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	wants(t, p.record(0), nil)
	nc := p.dial()
	if _, err := io.ReadFull(nc, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	io.WriteString(nc, "PROXY TCP4 192.0.2.1 10.0.0.1 1234 80\r\n")
	if b, err := io.ReadAll(nc); err == nil {
		t.Errorf("%q", b)
	}
	wants(t, p.record(1), reason.ProxyHeaderUntrusted)
}

func TestShutdownWaitsThenCuts(t *testing.T) {
	addr, _ := serve(t, echo)
	p := start(t, nil, l4.Backend{Upstream: newUpstream(t, upstream.Settings{}, addr), Weight: 1})
	nc := p.dial()
	ask := func() error {
		nc.Write([]byte("x"))
		_, err := io.ReadFull(nc, make([]byte, 1))
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := ask(); err != nil {
		t.Errorf("a connection was cut before its time: %v", err)
	}
	if _, err := p.say("new"); err == nil {
		// closed without a word: no answer either way
		if p.Stats().Open != 1 {
			t.Error("a new connection was served")
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := ask(); err == nil {
		t.Error("the connection is still there")
	}
	wants(t, p.record(0), reason.Draining)
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAPanicEndsOneConnection(t *testing.T) {
	var told atomic.Int32
	s := l4.New(l4.Settings{Panicked: func(any, []byte) { told.Add(1) }})
	up := newUpstream(t, upstream.Settings{}, "127.0.0.1:1")
	r, err := l4.NewRoute([]l4.Backend{{Upstream: up, Weight: 1, Dial: func(context.Context, string, string, func(net.Conn) error) (net.Conn, error) {
		panic("oh")
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, nc := net.Pipe()
	s.Serve(nc, l4.Job{Route: r})
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open")
	}
	c.Close()
	if err := s.Close(); err != nil || told.Load() != 1 {
		t.Errorf("%v, told %d times", err, told.Load())
	}
}

func TestRoutesThatCannotBe(t *testing.T) {
	up := newUpstream(t, upstream.Settings{}, "127.0.0.1:1")
	for _, b := range [][]l4.Backend{nil, {{Weight: 1}}, {{Upstream: up}}, {{Upstream: up, Weight: -1}}} {
		if _, err := l4.NewRoute(b, nil); err == nil {
			t.Errorf("%+v", b)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	addr, _ := serve(t, echo)
	up := newUpstream(t, upstream.Settings{}, addr)
	p := start(t, nil, l4.Backend{Upstream: up, Weight: 1})
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			text := strings.Repeat(fmt.Sprint(i), 50_000)
			if got, err := p.say(text); got != text || err != nil {
				t.Errorf("%d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	all.Wait()
	p.record(99)
	p.quiet()
	if b := up.Breaker(); b.Connections() != 0 || b.Requests() != 0 {
		t.Errorf("%d connections, %d requests left", b.Connections(), b.Requests())
	}
}
