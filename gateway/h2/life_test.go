package h2_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// fetch gets the path with net/http's client.
func fetch(c *http.Client, addr, path string) (status int, body string, err error) {
	resp, err := c.Get("http://" + addr + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestConnectionsAreCounted(t *testing.T) {
	var r refusals
	release := make(chan struct{})
	addr, srv := start(t, settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) { <-release }, &r))
	c := dial(t, addr)
	eventually(t, "an idle connection", func() bool { return srv.Stats() == h2.Stats{Open: 1, Idle: 1} })
	c.open(1, true, get()...)
	eventually(t, "a busy connection", func() bool { return srv.Stats() == h2.Stats{Open: 1} })
	close(release)
	c.await(1)
	eventually(t, "an idle connection again", func() bool { return srv.Stats() == h2.Stats{Open: 1, Idle: 1} })
	c.nc.Close()
	eventually(t, "no connection", func() bool { return srv.Stats() == h2.Stats{} })
}

func TestShutdownLetsStreamsFinish(t *testing.T) {
	t.Parallel()
	var r refusals
	release := make(chan struct{})
	addr, srv := start(t, settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		<-release
		ctx.SetBodyString("finished")
	}, &r))
	busy, idle := dial(t, addr), dial(t, addr)
	busy.open(1, true, get()...)
	eventually(t, "both are there", func() bool { return srv.Stats() == h2.Stats{Open: 2, Idle: 1} })
	ended := make(chan error, 1)
	go func() { ended <- srv.Shutdown(background(t, 30*time.Second)) }()
	if a := idle.await(1); !a.goAway || a.code != http2.ErrCodeNo {
		t.Errorf("the idle one: %+v", a)
	}
	eventually(t, "the idle one is gone", func() bool { return srv.Stats().Open == 1 })
	close(release)
	if a := busy.await(1); a.status != "200" || a.body != "finished" || !a.goAway {
		t.Errorf("the busy one: %+v", a)
	}
	if err := <-ended; err != nil || srv.Stats().Open != 0 {
		t.Errorf("%v, %+v", err, srv.Stats())
	}
	late, err := net.Dial("tcp", addr) // the listener of the test still takes it
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, err := io.ReadAll(late); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
}

func TestShutdownEndsWithItsContextAndCloseCuts(t *testing.T) {
	t.Parallel()
	var r refusals
	gone := make(chan struct{})
	addr, srv := start(t, settings(func(_ *fasthttp.RequestCtx, f exchange.Front) {
		f.OnGone(abort(func() { close(gone) }))
		<-gone
	}, &r))
	c := dial(t, addr)
	c.open(1, true, get()...)
	eventually(t, "it is busy", func() bool { return srv.Stats() == h2.Stats{Open: 1} })
	if err := srv.Shutdown(background(t, 200*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if a := c.await(1); a.ended || a.status != "" {
		t.Errorf("got %+v", a)
	}
	if err := srv.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestAnIdleConnectionEnds(t *testing.T) {
	t.Parallel()
	stretched(t, 200*time.Millisecond, func(idle time.Duration) error {
		var r refusals
		s := settings(ok, &r)
		s.IdleTimeout = idle
		addr, srv := start(t, s)
		c := dial(t, addr)
		c.open(1, true, get()...)
		if a := c.await(1); a.body != "ok" {
			return fmt.Errorf("got %+v", a)
		}
		if a := c.await(3); !a.goAway || a.code != http2.ErrCodeNo {
			return fmt.Errorf("got %+v", a)
		}
		eventually(t, "it is gone", func() bool { return srv.Stats().Open == 0 })
		return nil
	})
}

func TestAHeadThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	var r refusals
	s := settings(ok, &r)
	s.IdleTimeout = time.Second
	addr, srv := start(t, s)
	c := dial(t, addr)
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(get()...)})
	if a := c.await(1); a.status != "" || !a.gone {
		t.Errorf("got %+v", a)
	}
	eventually(t, "it is gone", func() bool { return srv.Stats().Open == 0 })
}

func TestUpdate(t *testing.T) {
	var r refusals
	s := settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyString("before") }, &r)
	addr, srv := start(t, s)
	c := client(t)
	if _, body, err := fetch(c, addr, "/"); err != nil || body != "before" {
		t.Fatal(body, err)
	}
	s.Handler = func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyString("after") }
	s.MaxStreams = 7
	srv.Update(s)
	if _, body, err := fetch(c, addr, "/"); err != nil || body != "after" || srv.Stats().Open != 1 {
		t.Errorf("the same connection: %q, %v, %+v", body, err, srv.Stats())
	}
	fresh := dial(t, addr)
	f, err := fresh.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	got := map[http2.SettingID]uint32{}
	_ = f.(*http2.SettingsFrame).ForeachSetting(func(s http2.Setting) error {
		got[s.ID] = s.Val
		return nil
	})
	want := map[http2.SettingID]uint32{
		http2.SettingMaxConcurrentStreams: 7, http2.SettingInitialWindowSize: 256 << 10,
		http2.SettingMaxFrameSize: 16 << 10, http2.SettingMaxHeaderListSize: 64<<10 + 32*100 + 320,
	}
	for id, v := range want {
		if got[id] != v {
			t.Errorf("%v: %d, want %d", id, got[id], v)
		}
	}
	fresh.open(1, true, get()...)
	if a := fresh.await(1); a.body != "after" {
		t.Errorf("a new connection: %+v", a)
	}
}

func TestOverTLS(t *testing.T) {
	var r refusals
	about := &exchange.TLS{Version: "TLS 1.3", Protocol: "h2"}
	srv := h2.New(settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if got := f.(exchange.Secured).TLS(); got != about || !ctx.IsTLS() || ctx.TLSConnectionState().NegotiatedProtocol != "h2" {
			t.Errorf("got %+v, %v", got, ctx.IsTLS())
		}
		if ctx.RemoteAddr().(*net.TCPAddr).Port == 0 || ctx.LocalAddr().(*net.TCPAddr).Port == 0 {
			t.Error("no addresses")
		}
		ctx.SetBodyString(f.Protocol())
	}, &r))
	ca := tlstest.NewAuthority(t)
	leaf := ca.Issue(t, tlstest.Request{Names: []string{"api.test"}})
	dir := t.TempDir()
	leaf.Write(t, dir+"/crt", dir+"/key")
	pair, err := tls.LoadX509KeyPair(dir+"/crt", dir+"/key")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		c := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}})
		if err := c.Handshake(); err != nil {
			t.Error(err)
		}
		srv.ServeTLS(c, about)
	}()
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	rt := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: "api.test"}}
	resp, err := (&http.Client{Transport: rt, Timeout: time.Minute}).Get("https://" + ln.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(b) != "HTTP/2.0" {
		t.Errorf("got %q", b)
	}
	rt.CloseIdleConnections()
	ln.Close()
	<-accepted
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
}
