package h1_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
)

// inHalves passes on what is written in two halves, when asked to.
type inHalves struct {
	net.Conn
	between func()
}

func (s *inHalves) Write(p []byte) (int, error) {
	if s.between == nil {
		return s.Conn.Write(p)
	}
	half := len(p) / 2
	if _, err := s.Conn.Write(p[:half]); err != nil {
		return 0, err
	}
	s.between()
	n, err := s.Conn.Write(p[half:])
	return half + n, err
}

// tlsClient is an encrypted connection to a server, past its handshake.
type tlsClient struct {
	t testing.TB
	*tls.Conn
	below *inHalves
	r     *bufio.Reader
}

// dialTLS gives srv a connection after its handshake, as the gateway does.
func dialTLS(t testing.TB, srv *h1.Server, cert tls.Certificate) *tlsClient {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error)
	go func() {
		nc, err := ln.Accept()
		if err == nil {
			c := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{cert}})
			if err = c.Handshake(); err == nil {
				srv.ServeConn(c)
			}
		}
		done <- err
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	c := &tlsClient{t: t, below: &inHalves{Conn: nc}}
	c.Conn = tls.Client(c.below, &tls.Config{InsecureSkipVerify: true})
	c.r = bufio.NewReader(c.Conn)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *tlsClient) ask(texts ...string) {
	c.t.Helper()
	for _, text := range texts {
		if _, err := io.WriteString(c, text); err != nil {
			c.t.Fatal(err)
		}
	}
	c.answered()
}

func (c *tlsClient) answered() {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "GET /1 " {
		c.t.Errorf("%q, %v", b, err)
	}
}

func (c *tlsClient) closed() {
	c.t.Helper()
	if b, err := io.ReadAll(c.r); err != nil || len(b) > 0 {
		c.t.Errorf("%d bytes, %v", len(b), err)
	}
}

const get1 = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"

func TestParkedTLSConnections(t *testing.T) {
	_, srv := parkedServer(t, settings(echo))
	https := httptest.NewUnstartedServer(nil)
	https.StartTLS()
	cert := https.TLS.Certificates[0]
	https.Close()
	var conns []*tlsClient
	for range 12 {
		conns = append(conns, dialTLS(t, srv, cert))
	}
	waitParked(t, srv, 12) // also those that never asked
	t.Run("serve again, more than once", func(t *testing.T) {
		for range 2 {
			for i, c := range conns {
				c.ask(get1[:1+i], get1[1+i:])
				c.ask(get1)
				c.ask(get1 + get1) // one record, two requests
				c.answered()
			}
			waitParked(t, srv, 12)
		}
	})
	t.Run("with half a record read", func(t *testing.T) {
		for _, c := range conns[:2] {
			c.below.between = func() {
				waitParked(t, srv, 12) // woken by the first half, parked again behind it
				time.Sleep(150 * time.Millisecond)
				waitParked(t, srv, 12)
			}
			c.ask(get1)
			c.below.between = nil
		}
	})
	t.Run("are closed with their client", func(t *testing.T) {
		waitParked(t, srv, 12)
		for i, c := range conns[:6] {
			if i%2 == 0 {
				c.Close() // close_notify first
			} else {
				c.below.Close()
			}
		}
		waitParked(t, srv, 6)
	})
	t.Run("end with Shutdown", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		for _, c := range conns[6:] {
			c.closed() // close_notify: the client knows that nothing was cut
		}
	})
}

func TestParkedTLSConnectionsTimeOut(t *testing.T) {
	https := httptest.NewUnstartedServer(nil)
	https.StartTLS()
	defer https.Close()
	come := func(_ string, srv *h1.Server) *tlsClient { return dialTLS(t, srv, https.TLS.Certificates[0]) }
	testParkedTimeOut(t, func(addr string, srv *h1.Server) ending {
		c := come(addr, srv)
		c.ask(get1)
		return c
	}, func(addr string, srv *h1.Server) ending { return come(addr, srv) })
}
