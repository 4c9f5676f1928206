package alpn_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/alpn"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// serve is a server over TLS that may speak HTTP/2; it answers with the protocol.
func serve(t *testing.T, h2 bool) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	s.EnableHTTP2 = h2
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// offering dials and counts.
func offering(n *atomic.Int32, protocols ...string) alpn.Dial {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		n.Add(1)
		return d.DialContext(ctx, network, address)
	}
}

type counted struct {
	*alpn.Pool
	both, http1 atomic.Int32
}

func newPool(t *testing.T, address string, b *upstream.Breaker) *counted {
	m1, m2 := http1.NewManager(), http2.NewManager()
	c := &counted{}
	c.Pool = alpn.New(alpn.Settings{
		Both: offering(&c.both, "h2", "http/1.1"), HTTP1: offering(&c.http1, "http/1.1"),
		NewHTTP2: func(d alpn.Dial) upstream.CountingPool {
			return http2.NewPool(http2.Settings{Address: address, Scheme: "https", Manager: m2, Limiter: b, Dial: d})
		},
		NewHTTP1: func(d alpn.Dial) upstream.CountingPool {
			return http1.NewPool(http1.Settings{Address: address, Manager: m1, Limiter: b, Dial: d})
		},
	})
	t.Cleanup(func() {
		c.Close()
		m1.Close()
		m2.Close()
	})
	return c
}

func breaker() *upstream.Breaker {
	return upstream.NewBreaker(upstream.BreakerSettings{MaxConnections: 10, MaxRequests: 100, MaxPending: 100, MaxRetries: 1})
}

func ask(p transport.Pool, upgrade bool) (body string, err error) {
	call := &transport.Call{Head: []byte("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), Upgrade: upgrade}
	c, err := p.Get(call, false)
	if err == nil {
		err = c.Do(call)
	}
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), errors.Join(err, c.Release())
}

func TestEndpointChooses(t *testing.T) {
	for _, c := range []struct {
		h2          bool
		want        string
		both, http1 int32
	}{
		{true, "HTTP/2.0", 1, 0},
		{false, "HTTP/1.1", 1, 0}, // the connection that told is the one that is used
	} {
		s, b := serve(t, c.h2), breaker()
		p := newPool(t, s.Listener.Addr().String(), b)
		for range 5 {
			if got, err := ask(p, false); err != nil || got != c.want {
				t.Errorf("got %s, %v, want %s", got, err, c.want)
			}
		}
		if p.both.Load() != c.both || p.http1.Load() != c.http1 {
			t.Errorf("%s: %d and %d handshakes", c.want, p.both.Load(), p.http1.Load())
		}
		if open, connects, failures := p.Counts(); open != 1 || connects != 1 || failures != 0 || b.Connections() != 1 {
			t.Errorf("%s: %d open of %d, %d failures, %d counted", c.want, open, connects, failures, b.Connections())
		}
	}
}

func TestUpgradesGoOverHTTP1(t *testing.T) {
	p := newPool(t, serve(t, true).Listener.Addr().String(), breaker())
	for _, upgrade := range []bool{true, false, true} {
		want := "HTTP/2.0"
		if upgrade {
			want = "HTTP/1.1"
		}
		if got, err := ask(p, upgrade); err != nil || got != want {
			t.Errorf("upgrade %v: got %s, %v", upgrade, got, err)
		}
	}
	if p.both.Load() != 1 || p.http1.Load() != 1 {
		t.Errorf("%d and %d handshakes", p.both.Load(), p.http1.Load())
	}
}

// Many requests at once, of which only one makes the handshake that tells.
func TestAllLearnFromOneHandshake(t *testing.T) {
	p := newPool(t, serve(t, false).Listener.Addr().String(), breaker())
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := ask(p, false); err != nil || got != "HTTP/1.1" {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	wg.Wait()
	if _, _, failures := p.Counts(); failures != 0 {
		t.Errorf("%d failures", failures)
	}
}

func TestConnectionNobodyComesForIsClosed(t *testing.T) {
	s := serve(t, false)
	p := newPool(t, s.Listener.Addr().String(), breaker())
	call := &transport.Call{Watch: goner{}, Deadline: time.Now().Add(time.Minute)}
	if _, err := p.Get(call, false); err == nil {
		t.Error("a request whose client had gone got a connection")
	}
	p.Close() // must leave nothing, which goleak sees
	if open, _, _ := p.Counts(); open != 0 {
		t.Errorf("%d connections open", open)
	}
}

// goner is a client that has gone already.
type goner struct{}

// OnGone implements transport.Watcher.
func (goner) OnGone(a exchange.Aborter) {
	if a != nil {
		a.Abort()
	}
}
