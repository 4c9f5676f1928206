package dial_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

var loopback = []net.IP{net.IPv4(127, 0, 0, 1)}

// echo answers with what it reads.
func echo(c net.Conn) { io.Copy(c, c) }

// serve hands every connection to f until the test ends.
func serve(t testing.TB, f func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				f(c)
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

// serveTLS is serve with TLS; f gets connections after the handshake.
func serveTLS(t testing.TB, config *tls.Config, f func(*tls.Conn)) (addr string) {
	t.Helper()
	return serve(t, func(nc net.Conn) {
		c := tls.Server(nc, config)
		defer c.Close()
		if c.Handshake() == nil {
			f(c)
		} else {
			linger(nc) // so that the alert arrives
		}
	})
}

func linger(nc net.Conn) {
	nc.(*net.TCPConn).CloseWrite()
	nc.SetReadDeadline(time.Now().Add(30 * time.Second))
	io.Copy(io.Discard, nc)
}

// bench is an authority with its file.
type bench struct {
	t   testing.TB
	ca  *tlstest.Authority
	dir string
	log lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, ca: tlstest.NewAuthority(t), dir: t.TempDir()}
	tlstest.Write(t, b.path("ca.pem"), b.ca.PEM())
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// server is a config with a certificate for r, 127.0.0.1 if r is empty.
func (b *bench) server(r tlstest.Request) *tls.Config {
	b.t.Helper()
	if r.Names == nil && r.IPs == nil {
		r.IPs = loopback
	}
	return &tls.Config{Certificates: []tls.Certificate{b.ca.Issue(b.t, r).TLS(b.t)}}
}

// dialer is a loaded one that trusts the authority, unless edit says otherwise.
func (b *bench) dialer(edit func(*dial.Settings)) *dial.Dialer {
	b.t.Helper()
	s := dial.Settings{Timeout: time.Minute, TLS: &dial.TLSSettings{
		Upstream: "users", CAFile: b.path("ca.pem"), Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	}}
	if edit != nil {
		edit(&s)
	}
	d, err := dial.New(s)
	if err == nil {
		err = d.Load()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

// meet dials and has something echoed.
func meet(t testing.TB, d *dial.Dialer, address string) (tls.ConnectionState, error) {
	t.Helper()
	c, err := d.Dial(t.Context(), "tcp", address)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write([]byte("x")); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return tls.ConnectionState{}, err
	}
	return c.(*dial.Conn).ConnectionState(), nil
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

// refused wants a failure of TLS with this text.
func refused(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want || !errors.Is(err, reason.UpstreamTLS) {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// fixed is a certificate that can be replaced.
type fixed struct {
	mu sync.Mutex
	c  *tls.Certificate
}

func (f *fixed) Current() *tls.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.c
}

func (f *fixed) set(c *tls.Certificate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.c = c
}
