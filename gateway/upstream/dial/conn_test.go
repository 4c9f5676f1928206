package dial_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/splice"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
)

// pair is a connection to a server that does step after having read and
// written a byte, and goes on when told so.
func connected(t *testing.T, version uint16, step func(*tls.Conn, *net.TCPConn)) (c *dial.Conn, stepped chan struct{}) {
	t.Helper()
	b := newBench(t)
	config := b.server(tlstest.Request{})
	config.MinVersion, config.MaxVersion = version, version
	stepped = make(chan struct{})
	release := make(chan struct{})
	addr := serve(t, func(nc net.Conn) {
		s := tls.Server(nc, config)
		if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		s.Write([]byte("y"))
		step(s, nc.(*net.TCPConn))
		close(stepped)
		<-release
	})
	t.Cleanup(func() { close(release) })
	nc, err := b.dialer(nil).Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc.(*dial.Conn), stepped
}

func exchangeByte(t *testing.T, c net.Conn) {
	t.Helper()
	c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

var versions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}

// What an idle connection hears tells whether it can be used.
func TestQuiet(t *testing.T) {
	for name, version := range versions {
		for _, tc := range []struct {
			name  string
			step  func(*tls.Conn, *net.TCPConn)
			quiet bool
		}{
			{"nothing", func(*tls.Conn, *net.TCPConn) {}, true},
			{"unasked bytes", func(s *tls.Conn, _ *net.TCPConn) { s.Write([]byte("z")) }, false},
			{"goodbye", func(s *tls.Conn, _ *net.TCPConn) { s.CloseWrite() }, false},
			{"closed", func(s *tls.Conn, _ *net.TCPConn) { s.Close() }, false},
			{"closed without a goodbye", func(_ *tls.Conn, c *net.TCPConn) { c.Close() }, false},
			{"reset", func(_ *tls.Conn, c *net.TCPConn) { c.SetLinger(0); c.Close() }, false},
			{"garbage", func(_ *tls.Conn, c *net.TCPConn) { c.Write(bytes.Repeat([]byte{23, 3, 3, 0, 1}, 20)) }, false},
			{"half a record", func(_ *tls.Conn, c *net.TCPConn) { c.Write([]byte{23, 3, 3}) }, true},
		} {
			t.Run(name+" "+tc.name, func(t *testing.T) {
				c, stepped := connected(t, version, tc.step)
				exchangeByte(t, c) // TLS 1.3: tickets may be left unread
				<-stepped
				time.Sleep(2 * time.Millisecond)
				for end := time.Now().Add(30 * time.Second); !tc.quiet && c.Quiet() && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				for range 2 {
					if got := c.Quiet(); got != tc.quiet {
						t.Errorf("quiet %v", got)
					}
				}
				if tc.name == "nothing" {
					c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
					if _, err := c.Read(make([]byte, 1)); err == nil || !err.(net.Error).Timeout() {
						t.Errorf("reading does not wait any more: %v", err)
					}
				}
			})
		}
	}
}

// tail is a server's connection that keeps back what is written from a certain
// point on, so that all of it goes out at once.
type tail struct {
	net.Conn
	keep bool
	kept []byte
}

func (c *tail) Write(p []byte) (int, error) {
	if c.keep {
		c.kept = append(c.kept, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// A goodbye that comes in one piece with the last bytes is seen, although
// nothing is left to be read from the socket.
func TestGoodbyeBehindTheReply(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			config := b.server(tlstest.Request{})
			config.MinVersion, config.MaxVersion = version, version
			addr := serve(t, func(nc net.Conn) {
				held := &tail{Conn: nc}
				s := tls.Server(held, config)
				io.ReadFull(s, make([]byte, 1))
				held.keep = true
				s.Write([]byte("reply"))
				s.CloseWrite()
				nc.SetWriteDeadline(time.Time{}) // CloseWrite lets nothing follow
				nc.Write(held.kept)
				io.Copy(io.Discard, nc) // the connection itself stays open
			})
			nc, err := b.dialer(nil).Dial(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			nc.Write([]byte("x"))
			got := make([]byte, 16)
			n, err := nc.Read(got)
			if err != nil || string(got[:n]) != "reply" {
				t.Fatalf("%q, %v", got[:n], err)
			}
			if nc.(*dial.Conn).Quiet() {
				t.Error("the goodbye is not noticed")
			}
			if _, err := nc.Read(got); err != io.EOF {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEnds(t *testing.T) {
	for name, version := range versions {
		for _, tc := range []struct {
			name string
			step func(*tls.Conn, *net.TCPConn)
			want error
		}{
			{"goodbye", func(s *tls.Conn, _ *net.TCPConn) { s.CloseWrite() }, io.EOF},
			{"closed", func(s *tls.Conn, _ *net.TCPConn) { s.Close() }, io.EOF},
			{"without a goodbye", func(_ *tls.Conn, c *net.TCPConn) { c.CloseWrite() }, io.ErrUnexpectedEOF},
		} {
			t.Run(name+" "+tc.name, func(t *testing.T) {
				c, _ := connected(t, version, tc.step)
				exchangeByte(t, c)
				for range 2 {
					if n, err := c.Read(make([]byte, 1)); n != 0 || err != tc.want {
						t.Errorf("%d, %v", n, err)
					}
				}
			})
		}
	}
}

// Half-closing says that nothing more comes, and what the server still says arrives.
func TestHalfClose(t *testing.T) {
	b := newBench(t)
	addr := serveTLS(t, b.server(tlstest.Request{}), func(c *tls.Conn) {
		got, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		c.Write(append(got, '!'))
	})
	nc, err := b.dialer(nil).Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.Write([]byte("hello"))
	if err := nc.(*dial.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(nc); err != nil || string(got) != "hello!" {
		t.Errorf("%q, %v", got, err)
	}
}

// The other side hears a goodbye, but nobody who is deaf can make us wait.
func TestCloseDoesNotWait(t *testing.T) {
	b := newBench(t)
	heard := make(chan error, 1)
	addr := serveTLS(t, b.server(tlstest.Request{}), func(c *tls.Conn) {
		_, err := io.ReadAll(c)
		heard <- err
	})
	nc, err := b.dialer(nil).Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Close(); err != nil {
		t.Error(err)
	}
	if err := <-heard; err != nil {
		t.Errorf("no goodbye: %v", err)
	}
	release := make(chan struct{})
	defer close(release)
	deaf := serveTLS(t, b.server(tlstest.Request{}), func(*tls.Conn) { <-release })
	best := time.Hour
	for range 5 {
		if nc, err = b.dialer(nil).Dial(t.Context(), "tcp", deaf); err != nil {
			t.Fatal(err)
		}
		nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		for err == nil {
			_, err = nc.Write(make([]byte, 1<<20))
		}
		began := time.Now()
		nc.Close()
		if best = min(best, time.Since(began)); best < time.Second { // a tls.Conn waits for 5 s
			return
		}
	}
	t.Errorf("closing took %v at best", best)
}

// A tunnel that is cut is reset, so that it does not look complete.
func TestSocketCanBeReset(t *testing.T) {
	b := newBench(t)
	ended := make(chan error, 1)
	addr := serveTLS(t, b.server(tlstest.Request{}), func(c *tls.Conn) {
		_, err := io.ReadAll(c)
		ended <- err
	})
	nc, err := b.dialer(nil).Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	splice.Reset(nc)
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other side sees %v", err)
	}
}

// The refusal of a certificate is the handshake's, however late it comes.
func TestLateRefusalIsTheHandshakes(t *testing.T) {
	b := newBench(t)
	config := b.server(tlstest.Request{})
	config.ClientAuth = tls.RequireAnyClientCert
	nc, err := b.dialer(nil).Dial(t.Context(), "tcp", serveTLS(t, config, echoTLS))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, err = nc.Read(make([]byte, 1))
	refused(t, err, "the endpoint requires a client certificate")
	// But what goes wrong after a reply has begun is not.
	c, _ := connected(t, tls.VersionTLS13, func(_ *tls.Conn, c *net.TCPConn) { c.Write(bytes.Repeat([]byte{23, 3, 3, 0, 1}, 20)) })
	exchangeByte(t, c)
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, reason.UpstreamTLS) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkQuiet(b *testing.B) {
	w := newBench(b)
	nc, err := w.dialer(nil).Dial(b.Context(), "tcp", serveTLS(b, w.server(tlstest.Request{}), echoTLS))
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	c := nc.(*dial.Conn)
	b.ReportAllocs()
	for b.Loop() {
		if !c.Quiet() {
			b.Fatal("not quiet")
		}
	}
}

func BenchmarkHandshake(b *testing.B) {
	w := newBench(b)
	addr := serveTLS(b, w.server(tlstest.Request{}), echoTLS)
	d := w.dialer(nil)
	b.ReportAllocs()
	for b.Loop() {
		c, err := d.Dial(b.Context(), "tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		c.Write([]byte("x"))
		io.ReadFull(c, make([]byte, 1)) // for the ticket
		c.Close()
	}
}
