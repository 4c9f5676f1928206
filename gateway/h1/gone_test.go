package h1_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
)

// aborted is an Aborter that can be waited for.
type aborted chan struct{}

func (a aborted) Abort() { close(a) }

// waitGone answers once its client has gone, or says that it has not.
func waitGone(t *testing.T, waiting chan struct{}, seen chan time.Time) handler {
	return func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if f.HasBody() {
			if _, err := io.Copy(io.Discard, ctx.RequestBodyStream()); err != nil {
				t.Error(err)
			}
		}
		a := make(aborted)
		f.OnGone(a)
		waiting <- struct{}{}
		select {
		case <-a:
			seen <- time.Now()
		case <-time.After(30 * time.Second):
			t.Error("the hang-up was not noticed")
			seen <- time.Time{}
		}
	}
}

func TestHangUpInterruptsTheHandler(t *testing.T) {
	waiting, seen := make(chan struct{}), make(chan time.Time, 1)
	addr, srv := start(t, settings(waitGone(t, waiting, seen)))
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	tlsAddr := startTLS(t, srv, cert.TLS.Certificates[0])
	dialTLS := func() net.Conn {
		nc, err := tls.Dial("tcp", tlsAddr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	dialPlain := func() net.Conn { return dial(t, addr) }
	shut := func(nc net.Conn) { nc.Close() }
	for _, x := range []struct {
		name, request string
		dial          func() net.Conn
		end           func(net.Conn)
		pause         time.Duration
	}{
		{"GET", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", dialPlain, shut, 300 * time.Millisecond},
		{"GET, at once", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", dialPlain, shut, 0},
		{"POST", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", dialPlain, shut, 300 * time.Millisecond},
		{"chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", dialPlain, shut, 0},
		{"half-close", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", dialPlain, func(nc net.Conn) { nc.(*client).CloseWrite() }, 0},
		{"reset", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", dialPlain, func(nc net.Conn) { nc.(*client).SetLinger(0); nc.Close() }, 0},
		{"TLS", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", dialTLS, shut, 300 * time.Millisecond},
	} {
		nc := x.dial()
		if _, err := io.WriteString(nc, x.request); err != nil {
			t.Fatal(err)
		}
		<-waiting
		time.Sleep(x.pause)
		from := time.Now()
		x.end(nc)
		t.Logf("%s: noticed after %v", x.name, (<-seen).Sub(from).Round(10*time.Microsecond))
	}
	eventually(t, "all connections gone", func() bool { return srv.Stats().Open == 0 })
}

func startTLS(t *testing.T, srv *h1.Server, cert tls.Certificate) string {
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			if nc.(*tls.Conn).Handshake() != nil { // before, as the gateway does it
				nc.Close()
				continue
			}
			srv.ServeConn(nc)
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func TestTLSConnections(t *testing.T) {
	s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if !ctx.IsTLS() || ctx.TLSConnectionState() == nil || ctx.TLSConnectionState().Version != tls.VersionTLS13 {
			t.Error("the context does not know that it is TLS")
		}
		echo(ctx, f)
	})
	srv := h1.New(s)
	defer srv.Close()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	addr := startTLS(t, srv, cert.TLS.Certificates[0])
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	body := strings.Repeat("x", 100_000)
	for range 3 {
		r, err := (&http.Client{Transport: tr}).Post("https://"+addr+"/up", "x/y", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r.Body); err != nil || string(b) != "POST /up "+body {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		r.Body.Close()
	}
}

// A FIN that arrives together with the last request's bytes gives the loop no
// event of its own.
func TestHalfClosedClientsDoNotStay(t *testing.T) {
	addr, srv := start(t, settings(echo))
	for range 50 {
		c := dial(t, addr)
		c.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
		c.reply("GET")
		c.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if r, _ := c.reply("GET"); r.StatusCode != 200 {
			t.Errorf("%v", r)
		}
	}
	eventually(t, "half-closed connections gone", func() bool { return srv.Stats().Open == 0 })
}

func TestOnGoneIsTakenBack(t *testing.T) {
	var late atomic.Int32
	back, waiting := make(chan struct{}), make(chan struct{})
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		f.OnGone(count{&late})
		f.OnGone(nil)
		waiting <- struct{}{}
		<-back
		a := make(aborted)
		f.OnGone(a) // the client has gone
		select {
		case <-a:
		case <-time.After(30 * time.Second):
			t.Error("registered behind the hang-up, and not told")
		}
		back <- struct{}{}
	}))
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-waiting
	c.Close()
	time.Sleep(500 * time.Millisecond) // two ticks to watch, and some to notice
	back <- struct{}{}
	<-back
	if late.Load() != 0 {
		t.Error("an aborter that was taken back ran")
	}
}

type count struct{ n *atomic.Int32 }

func (c count) Abort() { c.n.Add(1) }
