package http1_test

import (
	"bufio"
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

	"go.uber.org/goleak"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server accepts connections by hand until the test ends.
func server(t testing.TB, f func(n int, c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				f(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

func readHead(r *bufio.Reader) bool {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == "\r\n" {
			return true
		}
	}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// plain answers every request with ok.
func plain(t testing.TB) string {
	return server(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for readHead(r) {
			io.WriteString(c, ok)
		}
	})
}

// wrapped is a connection that is not a *net.TCPConn, so that the portable
// way is taken, as with TLS.
type wrapped struct{ net.Conn }

func dialWrapped(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return wrapped{c}, nil
}

// both runs f with direct use of sockets and without.
func both(t *testing.T, f func(t *testing.T, s http1.Settings)) {
	t.Run("raw", func(t *testing.T) { f(t, http1.Settings{}) })
	t.Run("portable", func(t *testing.T) { f(t, http1.Settings{Dial: dialWrapped}) })
}

func newPool(t testing.TB, s http1.Settings, address string) *http1.Pool {
	t.Helper()
	s.Address = address
	if s.Manager == nil {
		s.Manager = http1.NewManager()
	}
	p := http1.NewPool(s)
	t.Cleanup(func() {
		p.Close()
		s.Manager.Close()
		if n := p.Stats().Open; n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
	return p
}

func newCall() *http1.Call {
	return &http1.Call{Head: []byte("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")}
}

// do makes one request and reads its reply to the end.
func do(p *http1.Pool, call *http1.Call) (body string, reused bool, err error) {
	c, err := p.Get(call, false)
	if err != nil {
		return "", false, err
	}
	reused = c.Reused()
	if err := c.Do(call); err != nil {
		return "", reused, err
	}
	b, err := io.ReadAll(c)
	c.Release()
	return string(b), reused, err
}

func failure(t *testing.T, err error) *http1.Failure {
	t.Helper()
	var f *http1.Failure
	if !errors.As(err, &f) {
		t.Fatalf("not a failure: %v", err)
	}
	return f
}

func TestReusesTheLastConnection(t *testing.T) {
	both(t, func(t *testing.T, s http1.Settings) {
		p := newPool(t, s, plain(t))
		for i := range 5 {
			body, reused, err := do(p, newCall())
			if err != nil || body != "ok" || reused != (i > 0) {
				t.Fatalf("request %d: %q, reused %v, %v", i, body, reused, err)
			}
		}
		if s := p.Stats(); s.Open != 1 || s.Idle != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// The ways in which a connection must not be used again.
func TestConnectionsThatAreNotKept(t *testing.T) {
	for _, tc := range []struct{ name, reply string }{
		{"asked to close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"},
		{"bytes behind", ok + "x"},
		{"bytes behind chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			both(t, func(t *testing.T, s http1.Settings) {
				p := newPool(t, s, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
					for readHead(r) {
						io.WriteString(c, tc.reply)
					}
				}))
				if body, _, err := do(p, newCall()); err != nil || body != "ok" {
					t.Fatalf("%q, %v", body, err)
				}
				if s := p.Stats(); s.Open != 0 || s.Idle != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
	t.Run("unread rest", func(t *testing.T) {
		p := newPool(t, http1.Settings{}, plain(t))
		call := newCall()
		c, err := p.Get(call, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Do(call); err != nil {
			t.Fatal(err)
		}
		c.Read(make([]byte, 1))
		c.Release()
		if s := p.Stats(); s.Open != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// What arrives on an idle connection is found before a request is sent, so
// that any request can be repeated.
func TestSpoiledIdleConnection(t *testing.T) {
	for _, tc := range []struct{ name, more string }{{"closed", ""}, {"unasked bytes", "HTTP/1.1 408 Request Timeout\r\n\r\n"}} {
		t.Run(tc.name, func(t *testing.T) {
			spoiled := make(chan struct{})
			p := newPool(t, http1.Settings{}, server(t, func(n int, c net.Conn, r *bufio.Reader) {
				for readHead(r) {
					io.WriteString(c, ok)
					if n == 0 {
						time.Sleep(5 * time.Millisecond)
						io.WriteString(c, tc.more)
						if tc.more == "" {
							c.Close()
						}
						close(spoiled)
					}
				}
			}))
			if _, _, err := do(p, newCall()); err != nil {
				t.Fatal(err)
			}
			<-spoiled
			time.Sleep(5 * time.Millisecond)
			_, reused, err := do(p, newCall())
			if f := failure(t, err); !reused || !f.Unsent || !f.Stale {
				t.Errorf("reused %v, %+v", reused, f)
			}
			if body, _, err := do(p, newCall()); err != nil || body != "ok" {
				t.Errorf("%q, %v", body, err)
			}
		})
	}
}

func TestIdleConnectionsGrowOld(t *testing.T) {
	both(t, func(t *testing.T, s http1.Settings) {
		s.IdleTimeout = 100 * time.Millisecond
		p := newPool(t, s, plain(t))
		if _, _, err := do(p, newCall()); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the idle connection to go", func() bool { return p.Stats().Open == 0 })
	})
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	for late := time.Now().Add(5 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestLearnsTheEndpointsIdleTimeout(t *testing.T) {
	learnt := make(chan time.Duration, 1)
	s := http1.Settings{OnIdleClosed: func(d time.Duration) { learnt <- d }}
	p := newPool(t, s, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.WriteString(c, ok)
		time.Sleep(100 * time.Millisecond)
	}))
	if _, _, err := do(p, newCall()); err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-learnt:
		if d < 50*time.Millisecond || d > 3*time.Second {
			t.Errorf("learnt %v", d)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("nothing was learnt")
	}
}

// gone is a Watcher whose client goes away when told so.
type gone struct {
	mu sync.Mutex
	a  exchange.Aborter
}

func (g *gone) OnGone(a exchange.Aborter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.a = a
}

func (g *gone) leave() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.a == nil {
		return false
	}
	g.a.Abort()
	g.a = nil
	return true
}

func TestAbort(t *testing.T) {
	both(t, func(t *testing.T, s http1.Settings) {
		p := newPool(t, s, server(t, func(_ int, _ net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) }))
		best := time.Hour
		for range 5 {
			g := &gone{}
			call := newCall()
			call.Watch = g
			ended := make(chan error, 1)
			go func() {
				_, _, err := do(p, call)
				ended <- err
			}()
			time.Sleep(20 * time.Millisecond)
			began := time.Now()
			if !g.leave() {
				t.Fatal("nobody to tell")
			}
			err := <-ended
			best = min(best, time.Since(began))
			if f := failure(t, err); f.Reason != reason.ClientGone {
				t.Fatalf("%+v", f)
			}
		}
		t.Logf("seen after %v", best)
		if best > 5*time.Millisecond { // about 50 µs on a quiet machine
			t.Errorf("an abort took %v at best", best)
		}
	})
}

// blackhole is an address that takes connections only into its queue; the
// dialer below never comes back by itself.
func TestAbortWhileConnecting(t *testing.T) {
	s := http1.Settings{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	p := newPool(t, s, "192.0.2.1:1")
	g := &gone{}
	call := newCall()
	call.Watch = g
	ended := make(chan error, 1)
	go func() {
		_, err := p.Get(call, false)
		ended <- err
	}()
	waitFor(t, "the dial to begin", g.leave)
	if f := failure(t, <-ended); f.Reason != reason.ClientGone || !f.Unsent {
		t.Errorf("%+v", f)
	}
	call = newCall()
	call.Deadline = time.Now().Add(20 * time.Millisecond)
	_, err := p.Get(call, false)
	if f := failure(t, err); f.Reason != reason.UpstreamTimeout {
		t.Errorf("%+v", f)
	}
	s.DialTimeout = 20 * time.Millisecond
	_, err = newPool(t, s, "192.0.2.1:1").Get(newCall(), false)
	if f := failure(t, err); f.Reason != reason.UpstreamConnect || !f.Unsent {
		t.Errorf("%+v", f)
	}
}

func TestTimeouts(t *testing.T) {
	for _, tc := range []struct {
		name     string
		deadline time.Duration
		idle     time.Duration
		want     time.Duration
	}{
		{"short deadline", 50 * time.Millisecond, time.Minute, 50 * time.Millisecond},
		{"long deadline", 1200 * time.Millisecond, 0, 1200 * time.Millisecond},
		{"short idle", 0, 50 * time.Millisecond, 50 * time.Millisecond},
		{"long idle", time.Minute, 1200 * time.Millisecond, 1200 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, s http1.Settings) {
				p := newPool(t, s, server(t, func(_ int, _ net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) }))
				call := newCall()
				call.Idle = tc.idle
				began := time.Now()
				if tc.deadline > 0 {
					call.Deadline = began.Add(tc.deadline)
				}
				_, _, err := do(p, call)
				took := time.Since(began)
				if f := failure(t, err); f.Reason != reason.UpstreamTimeout {
					t.Fatalf("%+v", f)
				}
				if took < tc.want-5*time.Millisecond || took > tc.want+2*time.Second {
					t.Errorf("after %v", took)
				}
			})
		})
	}
}

// A reply that keeps coming is not idle, and a deadline of an earlier request
// never hits a later one on the same connection.
func TestDeadlinesOfOneRequestOnly(t *testing.T) {
	p := newPool(t, http1.Settings{}, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for readHead(r) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
			for range 5 {
				time.Sleep(20 * time.Millisecond)
				io.WriteString(c, "x")
			}
		}
	}))
	for i := range 5 {
		call := newCall()
		call.Idle = 90 * time.Millisecond
		if i%2 == 0 {
			call.Deadline = time.Now().Add(500 * time.Millisecond)
		}
		if body, _, err := do(p, call); err != nil || body != "xxxxx" {
			t.Fatalf("request %d: %q, %v", i, body, err)
		}
	}
	if s := p.Stats(); s.Open != 1 {
		t.Errorf("%+v", s)
	}
}

// limiter counts like an upstream's breaker.
type limiter struct {
	maxOpen, maxPending int64
	open, pending, peak atomic.Int64
}

func (l *limiter) TryConnection() bool {
	n := l.open.Add(1)
	if n > l.maxOpen {
		l.open.Add(-1)
		return false
	}
	for p := l.peak.Load(); n > p && !l.peak.CompareAndSwap(p, n); p = l.peak.Load() {
	}
	return true
}
func (l *limiter) ReleaseConnection() { l.open.Add(-1) }
func (l *limiter) TryPending() bool {
	if l.pending.Add(1) > l.maxPending {
		l.pending.Add(-1)
		return false
	}
	return true
}
func (l *limiter) ReleasePending() { l.pending.Add(-1) }

// Many requests over few connections to two endpoints: each gets its turn, the
// limit holds, nothing is left behind, whatever order things happen in.
func TestLimitIsSharedAndFair(t *testing.T) {
	l := &limiter{maxOpen: 3, maxPending: 1000}
	m := http1.NewManager()
	a := newPool(t, http1.Settings{Manager: m, Limiter: l}, plain(t))
	b := newPool(t, http1.Settings{Manager: m, Limiter: l}, plain(t))
	var wg sync.WaitGroup
	var failed atomic.Int32
	for i := range 200 {
		p := a
		if i%3 == 0 {
			p = b
		}
		wg.Go(func() {
			for range 5 {
				call := newCall()
				call.Deadline = time.Now().Add(20 * time.Second)
				_, _, err := do(p, call)
				var f *http1.Failure
				if errors.As(err, &f) && f.Stale {
					continue
				}
				if err != nil {
					failed.Add(1)
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if l.peak.Load() > 3 || l.pending.Load() != 0 {
		t.Errorf("%d connections at once, %d pending left", l.peak.Load(), l.pending.Load())
	}
	a.Close()
	b.Close()
	if n := l.open.Load(); n != 0 {
		t.Errorf("%d places are left", n)
	}
}

func TestOverflow(t *testing.T) {
	l := &limiter{maxOpen: 1, maxPending: 0}
	p := newPool(t, http1.Settings{Limiter: l}, server(t, func(_ int, _ net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) }))
	held, err := p.Get(newCall(), false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Get(newCall(), false)
	if f := failure(t, err); f.Reason != reason.UpstreamOverflow {
		t.Errorf("%+v", f)
	}
	l.maxPending = 1
	call := newCall()
	call.Deadline = time.Now().Add(30 * time.Millisecond)
	_, err = p.Get(call, false)
	if f := failure(t, err); f.Reason != reason.UpstreamTimeout {
		t.Errorf("%+v", f)
	}
	call = newCall()
	call.Deadline = time.Now().Add(10 * time.Millisecond)
	if err := held.Do(call); err == nil {
		t.Error("an answer from nobody")
	}
	if l.open.Load() != 0 || l.pending.Load() != 0 {
		t.Errorf("%d open, %d pending are left", l.open.Load(), l.pending.Load())
	}
}

func TestPoolIsBounded(t *testing.T) {
	release := make(chan struct{})
	p := newPool(t, http1.Settings{MaxIdle: 2}, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for readHead(r) {
			<-release
			io.WriteString(c, ok)
		}
	}))
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, _, err := do(p, newCall()); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, "six connections", func() bool { return p.Stats().Open == 6 })
	close(release)
	wg.Wait()
	if s := p.Stats(); s.Open != 2 || s.Idle != 2 {
		t.Errorf("%+v", s)
	}
}

// A body that does not fit into the kernel's buffers while the endpoint has
// answered and reads no more.
func TestEarlyReplyToALargeBody(t *testing.T) {
	both(t, func(t *testing.T, s http1.Settings) {
		p := newPool(t, s, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
			readHead(r)
			io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
			time.Sleep(50 * time.Millisecond)
		}))
		call := &http1.Call{
			Head: []byte("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 33554432\r\n\r\n"),
			Body: make([]byte, 32<<20), Idle: 5 * time.Second,
		}
		body, _, err := do(p, call)
		if err != nil || body != "big" {
			t.Fatalf("%q, %v", body, err)
		}
	})
}

func TestHeadsSplitAtEveryByte(t *testing.T) {
	const reply = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n"
	both(t, func(t *testing.T, s http1.Settings) {
		at := make(chan int, 1)
		p := newPool(t, s, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
			for readHead(r) {
				n := <-at
				io.WriteString(c, reply[:n])
				time.Sleep(time.Millisecond)
				io.WriteString(c, reply[n:])
			}
		}))
		for n := 1; n < len(reply); n++ {
			at <- n
			call := newCall()
			c, err := p.Get(call, false)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Do(call); err != nil {
				t.Fatalf("split at %d: %v", n, err)
			}
			b, err := io.ReadAll(c)
			if err != nil || string(b) != "abcde" || string(c.Trailers()) != "T: u\r\n" {
				t.Fatalf("split at %d: %q, %q, %v", n, b, c.Trailers(), err)
			}
			c.Release()
		}
		if s := p.Stats(); s.Open != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Whole takes what has come together with the head, and nothing else.
func TestWhole(t *testing.T) {
	for _, tc := range []struct {
		reply string
		want  string
		whole bool
	}{
		{ok, "ok", true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "", false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3\r\nay!\r\n0\r\n\r\n", "okay!", true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nT: x\r\n\r\n", "", false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "", false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + strings.Repeat("x", 30), "", false}, // above the limit
	} {
		p := newPool(t, http1.Settings{}, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
			readHead(r)
			io.WriteString(c, tc.reply)
			readHead(r)
		}))
		call := newCall()
		c, err := p.Get(call, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Do(call); err != nil {
			t.Fatal(err)
		}
		b, whole := c.Whole(25)
		if whole != tc.whole || string(b) != tc.want {
			t.Errorf("%q: %q, %v", tc.reply, b, whole)
		}
		c.Release()
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	reply := []byte("HTTP/1.1 200 OK\r\nContent-Length: 256\r\n\r\n" + strings.Repeat("x", 256))
	addr := server(b, func(_ int, c net.Conn, _ *bufio.Reader) {
		buf := make([]byte, 4<<10)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			c.Write(reply)
		}
	})
	p := newPool(b, http1.Settings{}, addr)
	call := newCall()
	call.Deadline, call.Idle = time.Now().Add(time.Hour), time.Minute
	b.ReportAllocs()
	for b.Loop() {
		c, err := p.Get(call, false)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Do(call); err != nil {
			b.Fatal(err)
		}
		if _, whole := c.Whole(1 << 10); !whole {
			b.Fatal(fmt.Errorf("the reply is not whole"))
		}
		c.Release()
	}
}
