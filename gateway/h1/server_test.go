package h1_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

type handler = func(ctx *fasthttp.RequestCtx, f exchange.Front)

// refusals are the protocol refusals of a test server.
type refusals struct {
	mu   sync.Mutex
	list []string
}

func (r *refusals) add(why *reason.Reason, _ netip.AddrPort, _ []byte) {
	r.mu.Lock()
	r.list = append(r.list, why.Name)
	r.mu.Unlock()
}

func (r *refusals) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.list, " ")
}

// settings are generous, so that nothing but what a test is about times out.
func settings(h handler) h1.Settings {
	return h1.Settings{
		Handler: h, Limits: wire.Limits{Head: 64 << 10, Fields: 100, URI: 8 << 10},
		HeadTimeout: time.Minute, BodyTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
	}
}

// start serves on loopback until the test ends.
func start(t testing.TB, s h1.Settings) (addr string, srv *h1.Server) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv = h1.New(s)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			srv.ServeConn(nc)
		}
	})
	t.Cleanup(func() {
		ln.Close()
		accepting.Wait()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String(), srv
}

// client is a raw connection whose reads fail rather than hang.
type client struct {
	t testing.TB
	*net.TCPConn
	br *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &client{t, nc.(*net.TCPConn), bufio.NewReader(nc)}
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	s := format
	if len(args) > 0 {
		s = fmt.Sprintf(format, args...)
	}
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// reply reads one reply to a request of the given method.
func (c *client) reply(method string) (*http.Response, string) {
	c.t.Helper()
	r, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("reading the reply: %v", err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatalf("reading the reply's body after %q: %v", b, err)
	}
	return r, string(b)
}

// rest reads to the end of the connection.
func (c *client) rest() string {
	c.t.Helper()
	b, err := io.ReadAll(c.br)
	if err != nil {
		c.t.Fatalf("reading on after %q: %v", b, err)
	}
	return string(b)
}

// closed expects the connection to end without another byte; a reset will do.
func (c *client) closed() {
	c.t.Helper()
	b, err := io.ReadAll(c.br)
	if os.IsTimeout(err) {
		c.t.Fatal("the connection is still open")
	}
	if len(b) > 0 {
		c.t.Fatalf("unexpected bytes %q", b)
	}
}

// echo says what it was asked, body included.
func echo(ctx *fasthttp.RequestCtx, f exchange.Front) {
	var body []byte
	if f.HasBody() {
		b, err := io.ReadAll(ctx.RequestBodyStream())
		if err != nil {
			ctx.SetStatusCode(reason.From(err).Code())
			ctx.SetBodyString(reason.From(err).Reason.Name)
			return
		}
		body = b
	}
	fmt.Fprintf(ctx, "%s %s %s", ctx.Method(), f.RawTarget(), body)
}

func TestKeepAliveAndPipelining(t *testing.T) {
	addr, srv := start(t, settings(echo))
	c := dial(t, addr)
	c.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
	if r, b := c.reply("GET"); r.StatusCode != 200 || b != "GET /1 " || r.Close || r.Header.Get("Date") == "" {
		t.Fatalf("%v %q", r, b)
	}
	c.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\nPOST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" +
		"POST /4 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\nGET /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	for _, want := range []string{"GET /2 ", "POST /3 abc", "POST /4 xyz", "GET /5 "} {
		if _, b := c.reply("GET"); b != want {
			t.Fatalf("got %q, want %q", b, want)
		}
	}
	c.closed()
	eventually(t, "all connections gone", func() bool { return srv.Stats().Open == 0 })
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestProxyHeadersAreNotOurs: those that are to be believed never come here.
func TestProxyHeadersAreNotOurs(t *testing.T) {
	for text, want := range map[string]string{
		"PROXY TCP4 192.0.2.1 10.0.0.1 1234 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n":                                              "proxy_header_untrusted",
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\x0a\x00\x00\x01\x04\xd2\x00\x50GET / HTTP/1.1\r\nHost: a\r\n\r\n": "proxy_header_untrusted",
		"PROXY / HTTP/1.1\r\nHost: a\r\n\r\nPROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n\r\n":                                               "bad_request_line",
		"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n":                                                                               "bad_method",
	} {
		var told refusals
		s := settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyString("ok") })
		s.Refused = told.add
		addr, _ := start(t, s)
		c := dial(t, addr)
		c.send("%s", text)
		c.CloseWrite()
		all, err := io.ReadAll(c.br)
		if err != nil || told.String() != want || !strings.Contains(string(all), `"reason":"`+want+`"`) {
			t.Errorf("%q: refused for %q, answered %q, %v", text, told.String(), all, err)
		}
	}
}
