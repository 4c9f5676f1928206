package h3_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/gatehouse-proxy/gatehouse/gateway/h3"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

// wire is a client's socket that keeps what is sent before anything comes back,
// which it does not before listen is called: the library may not be given another
// stream while the handshake ends.
type wire struct {
	net.PacketConn
	listen func()
	opened chan struct{}
	mu     sync.Mutex
	sent   [][]byte
	heard  bool
}

func (w *wire) WriteTo(b []byte, to net.Addr) (int, error) {
	w.mu.Lock()
	if !w.heard {
		w.sent = append(w.sent, bytes.Clone(b))
	}
	w.mu.Unlock()
	return w.PacketConn.WriteTo(b, to)
}

func (w *wire) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := w.PacketConn.ReadFrom(b)
	<-w.opened
	w.mu.Lock()
	w.heard = true
	w.mu.Unlock()
	return n, from, err
}

func (w *wire) firstFlight() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent
}

func newWire(t *testing.T) *wire {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan struct{})
	w := &wire{PacketConn: p, opened: opened, listen: sync.OnceFunc(func() { close(opened) })}
	t.Cleanup(func() {
		w.listen()
		_ = p.Close()
	})
	return w
}

// early connects with a ticket of an earlier connection and asks before the
// handshake is over.
func (b *bench) early(w *wire, c *tls.Config, method string) (*quic.Conn, *quic.Stream, error) {
	b.t.Helper()
	defer w.listen()
	q, err := quic.DialEarly(context.Background(), w, b.server.Addr(), c, patient())
	if err != nil {
		return nil, nil, err
	}
	b.t.Cleanup(func() { _ = q.CloseWithError(0x100, "") })
	s, err := q.OpenStream()
	if err != nil {
		return nil, nil, err
	}
	control, err := q.OpenUniStream()
	if err != nil {
		return nil, nil, err
	}
	_, _ = control.Write([]byte{0, 4, 0})
	_, _ = s.Write(headers(":method: "+method, ":scheme: https", ":authority: a.test", ":path: /"))
	_ = s.Close()
	return q, s, s.SetReadDeadline(time.Now().Add(30 * time.Second))
}

// ticket gets a session ticket into c.
func (b *bench) ticket(c *tls.Config) error {
	got := make(chan struct{}, 8)
	c.ClientSessionCache = &notified{ClientSessionCache: tls.NewLRUClientSessionCache(8), put: got}
	q, err := quic.DialAddr(context.Background(), b.server.Addr().String(), c, patient())
	if err != nil {
		return err
	}
	select {
	case <-got:
	case <-q.Context().Done():
		return context.Cause(q.Context())
	}
	return q.CloseWithError(0x100, "")
}

type notified struct {
	tls.ClientSessionCache
	put chan struct{}
}

func (n *notified) Put(key string, s *tls.ClientSessionState) {
	n.ClientSessionCache.Put(key, s)
	if s != nil {
		n.put <- struct{}{}
	}
}

func TestEarlyData(t *testing.T) {
	b := start(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s resumed=%t", r.Method, h3.Of(r.Context()).TLS().Resumed)
	})
	c := b.tls()
	if err := b.ticket(c); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "POST"} {
		q, s, err := b.early(newWire(t), c, method)
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(s)
		if want := method + " resumed=true"; err != nil || len(all) < len(want) || string(all[len(all)-len(want):]) != want {
			t.Errorf("%s: %q, %v", method, all, err)
		}
		if !q.ConnectionState().Used0RTT {
			t.Errorf("%s: not sent as early data", method)
		}
		_ = q.CloseWithError(0x100, "")
	}
}

// Whoever has recorded the packets of early data can send them again, but
// cannot complete the handshake: nothing comes of them, whatever the method.
func TestReplayReachesNobody(t *testing.T) {
	stretched(t, 400*time.Millisecond, func(timeout time.Duration) error { return replay(t, timeout) })
}

// replay wants handshakes to be given up after the timeout; errors are of those
// that a machine was too slow for.
func replay(t *testing.T, timeout time.Duration) error {
	var served atomic.Int32
	b := start(t, func(http.ResponseWriter, *http.Request) { served.Add(1) }, func(_ *bench, s *tlsterm.Settings) {
		s.HandshakeTimeout = timeout
	})
	for _, method := range []string{"GET", "POST"} {
		c := b.tls()
		if err := b.ticket(c); err != nil {
			return err
		}
		served.Store(0)
		w := newWire(t)
		q, s, err := b.early(w, c, method)
		if err == nil {
			_, err = io.ReadAll(s)
		}
		if err != nil {
			return err
		}
		if !q.ConnectionState().Used0RTT || served.Load() != 1 {
			return fmt.Errorf("%s: early data %t, served %d times", method, q.ConnectionState().Used0RTT, served.Load())
		}
		_ = q.CloseWithError(0x100, "")
		eventually(t, "the connection is gone", func() bool { return b.server.Stats().Open == 0 })
		replay, before := newWire(t), b.server.Stats().Accepted
		eventually(t, "the replay is taken for a new connection", func() bool {
			for _, p := range w.firstFlight() {
				if _, err := replay.WriteTo(p, b.server.Addr()); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(20 * time.Millisecond)
			return b.server.Stats().Accepted > before
		})
		eventually(t, "the replay is given up", func() bool { return b.server.Stats().Open == 0 })
		if n := served.Load(); n != 1 {
			t.Errorf("%s: served %d times", method, n)
		}
	}
	if got := b.noted(&b.refused); !strings.Contains(got, "tls_handshake_timeout tls_handshake_timeout") {
		return fmt.Errorf("the replays were counted as %q", got)
	}
	return nil
}
