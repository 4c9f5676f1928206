package http1_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

var (
	authority *tlstest.Authority
	identity  *tls.Config // of every server here
	prepare   sync.Once
)

// secure are settings with which connections speak TLS.
func secure(t testing.TB) http1.Settings {
	t.Helper()
	prepare.Do(func() {
		authority = tlstest.NewAuthority(t)
		pair := authority.Issue(t, tlstest.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
		identity = &tls.Config{Certificates: []tls.Certificate{pair.TLS(t)}}
	})
	file := filepath.Join(t.TempDir(), "ca.pem")
	tlstest.Write(t, file, authority.PEM())
	d, err := dial.New(dial.Settings{TLS: &dial.TLSSettings{CAFile: file}, Protocols: []string{"http/1.1"}})
	if err == nil {
		err = d.Load()
	}
	if err != nil {
		t.Fatal(err)
	}
	return http1.Settings{Dial: d.Dial}
}

// begun is a connection of which the beginning has been read.
type begun struct {
	net.Conn
	r io.Reader
}

func (c begun) Read(p []byte) (int, error) { return c.r.Read(p) }

// accept speaks TLS with who speaks it first.
func accept(c net.Conn) (net.Conn, *bufio.Reader) {
	r := bufio.NewReader(c)
	if first, err := r.Peek(1); err != nil || first[0] != 0x16 {
		return c, r
	}
	s := tls.Server(begun{c, r}, identity)
	return s, bufio.NewReader(s)
}

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
				s, r := accept(c)
				defer s.Close()
				f(n, s, r)
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
// way is taken.
type wrapped struct{ net.Conn }

func dialWrapped(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return wrapped{c}, nil
}

// each runs f with direct use of sockets, without, and with TLS.
func each(t *testing.T, f func(t *testing.T, s http1.Settings)) {
	t.Run("raw", func(t *testing.T) { f(t, http1.Settings{}) })
	t.Run("portable", func(t *testing.T) { f(t, http1.Settings{Dial: dialWrapped}) })
	t.Run("tls", func(t *testing.T) { f(t, secure(t)) })
}

// exact runs f where a dead connection can be told from a live one.
func exact(t *testing.T, f func(t *testing.T, s http1.Settings)) {
	t.Run("raw", func(t *testing.T) { f(t, http1.Settings{}) })
	t.Run("tls", func(t *testing.T) { f(t, secure(t)) })
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

func newCall() *transport.Call {
	return &transport.Call{Head: []byte("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")}
}

// do makes one request and reads its reply to the end.
func do(p *http1.Pool, call *transport.Call) (body string, reused bool, err error) {
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

func failure(t *testing.T, err error) *transport.Failure {
	t.Helper()
	var f *transport.Failure
	if !errors.As(err, &f) {
		t.Fatalf("not a failure: %v", err)
	}
	return f
}

func TestReusesTheLastConnection(t *testing.T) {
	each(t, func(t *testing.T, s http1.Settings) {
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
			each(t, func(t *testing.T, s http1.Settings) {
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
		each(t, func(t *testing.T, s http1.Settings) {
			p := newPool(t, s, plain(t))
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
	})
}

// What arrives on an idle connection is found before a request is sent, so
// that any request can be repeated.
func TestSpoiledIdleConnection(t *testing.T) {
	for _, tc := range []struct{ name, more string }{{"closed", ""}, {"unasked bytes", "HTTP/1.1 408 Request Timeout\r\n\r\n"}} {
		t.Run(tc.name, func(t *testing.T) {
			exact(t, func(t *testing.T, s http1.Settings) {
				for range 30 { // until the request comes to it before the manager does
					if spoil(t, s, tc.more) {
						return
					}
				}
				t.Error("the manager has always been there first")
			})
		})
	}
}

// spoil has a connection spoiled by more, or closed, while it is idle. It is false
// if the manager has found that out, and not the next request.
func spoil(t *testing.T, s http1.Settings, more string) bool {
	t.Helper()
	idle, spoiled := make(chan struct{}), make(chan struct{})
	p := newPool(t, s, server(t, func(n int, c net.Conn, r *bufio.Reader) {
		for readHead(r) {
			io.WriteString(c, ok)
			if n == 0 {
				<-idle
				io.WriteString(c, more)
				if more == "" {
					c.Close()
				}
				close(spoiled)
			}
		}
	}))
	if _, _, err := do(p, newCall()); err != nil {
		t.Fatal(err)
	}
	close(idle)
	<-spoiled
	time.Sleep(5 * time.Millisecond) // what was written to loopback is there
	body, reused, err := do(p, newCall())
	if !reused && err == nil && body == "ok" {
		return false
	}
	if f := failure(t, err); !reused || !f.Unsent || !f.Stale {
		t.Errorf("reused %v, %+v", reused, f)
	}
	if body, _, err := do(p, newCall()); err != nil || body != "ok" {
		t.Errorf("%q, %v", body, err)
	}
	return true
}

func TestIdleConnectionsGrowOld(t *testing.T) {
	each(t, func(t *testing.T, s http1.Settings) {
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
	for late := time.Now().Add(30 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestLearnsTheEndpointsIdleTimeout(t *testing.T) {
	exact(t, func(t *testing.T, s http1.Settings) {
		stretched(t, 100*time.Millisecond, func(pause time.Duration) error { return testLearning(t, s, pause) })
	})
}

// stretched runs a test of times, which come of d, until it passes: a machine
// that is too slow for short ones gets longer ones.
func stretched(t *testing.T, d time.Duration, f func(d time.Duration) error) {
	t.Helper()
	for {
		err := f(d)
		if err == nil {
			return
		}
		if d > 3*time.Second {
			t.Fatal(err)
		}
		d *= 4
	}
}

func testLearning(t *testing.T, s http1.Settings, pause time.Duration) error {
	learnt := make(chan time.Duration, 1)
	s.OnIdleClosed = func(d time.Duration) { learnt <- d }
	p := newPool(t, s, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.WriteString(c, ok)
		time.Sleep(pause)
	}))
	if _, _, err := do(p, newCall()); err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-learnt:
		if d < pause/2 || d > pause+20*time.Second {
			return fmt.Errorf("learnt %v", d)
		}
	case <-time.After(pause + 10*time.Second):
		return errors.New("nothing was learnt")
	}
	return nil
}
