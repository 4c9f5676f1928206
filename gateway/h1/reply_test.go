package h1_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// framing is what a client sees of a reply's framing.
func framing(r *http.Response) string {
	s := strconv.Itoa(r.StatusCode) + " length " + r.Header.Get("Content-Length")
	if len(r.TransferEncoding) > 0 {
		s += " " + r.TransferEncoding[0]
	}
	if r.Close {
		s += " close"
	}
	return s
}

func TestReplyFraming(t *testing.T) {
	big := strings.Repeat("x", 300<<10)
	replies := map[string]func(*fasthttp.RequestCtx){
		"/empty":   func(*fasthttp.RequestCtx) {},
		"/bytes":   func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("hello") },
		"/big":     func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString(big) },
		"/length":  func(ctx *fasthttp.RequestCtx) { ctx.SetBodyStream(strings.NewReader("hello"), 5) },
		"/biglen":  func(ctx *fasthttp.RequestCtx) { ctx.SetBodyStream(strings.NewReader(big), len(big)) },
		"/chunked": func(ctx *fasthttp.RequestCtx) { ctx.SetBodyStream(strings.NewReader("hello"), -1) },
		"/bigchk":  func(ctx *fasthttp.RequestCtx) { ctx.SetBodyStream(strings.NewReader(big), -1) },
		"/more":    func(ctx *fasthttp.RequestCtx) { ctx.SetBodyStream(strings.NewReader("hello, more"), 5) },
		"/zero":    func(ctx *fasthttp.RequestCtx) { ctx.SetBodyStream(strings.NewReader(""), 0) },
		"/204":     func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(204); ctx.SetBodyString("no") },
		"/304":     func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(304) },
		"/304s":    func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(304); ctx.SetBodyStream(strings.NewReader("x"), -1) },
		"/close":   func(ctx *fasthttp.RequestCtx) { ctx.SetConnectionClose(); ctx.SetBodyString("bye") },
		"/headlen": func(ctx *fasthttp.RequestCtx) { ctx.Response.SkipBody = true; ctx.Response.Header.SetContentLength(77) },
		"/headunk": func(ctx *fasthttp.RequestCtx) { ctx.Response.SkipBody = true; ctx.Response.Header.SetContentLength(-1) },
		"/100":     func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(100) },
		"/101":     func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(101) },
		"/hijack":  func(ctx *fasthttp.RequestCtx) { ctx.Hijack(func(net.Conn) {}) },
		"/599":     func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(599) },
	}
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) { replies[string(ctx.Path())](ctx) }))
	for _, x := range []struct{ method, path, version, want, body string }{
		{"GET", "/empty", "1.1", "200 length 0", ""},
		{"GET", "/bytes", "1.1", "200 length 5", "hello"},
		{"GET", "/big", "1.1", "200 length 307200", big},
		{"GET", "/length", "1.1", "200 length 5", "hello"},
		{"GET", "/biglen", "1.1", "200 length 307200", big},
		{"GET", "/chunked", "1.1", "200 length  chunked", "hello"},
		{"GET", "/bigchk", "1.1", "200 length  chunked", big},
		{"GET", "/more", "1.1", "200 length 5", "hello"},
		{"GET", "/zero", "1.1", "200 length 0", ""},
		{"GET", "/204", "1.1", "204 length ", ""},
		{"GET", "/304", "1.1", "304 length ", ""},
		{"GET", "/304s", "1.1", "304 length ", ""},
		{"GET", "/close", "1.1", "200 length 3 close", "bye"},
		{"GET", "/100", "1.1", "500 length 86 close", "*"},
		{"GET", "/101", "1.1", "500 length 86 close", "*"},
		{"GET", "/hijack", "1.1", "500 length 86 close", "*"},
		{"GET", "/599", "1.1", "599 length 0", ""},
		{"HEAD", "/empty", "1.1", "200 length 0", ""},
		{"HEAD", "/bytes", "1.1", "200 length 5", ""},
		{"HEAD", "/length", "1.1", "200 length 5", ""},
		{"HEAD", "/chunked", "1.1", "200 length ", ""},
		{"HEAD", "/headlen", "1.1", "200 length 77", ""},
		{"HEAD", "/headunk", "1.1", "200 length ", ""},
		{"HEAD", "/204", "1.1", "204 length ", ""},
		{"GET", "/bytes", "1.0", "200 length 5 close", "hello"},
		{"GET", "/length", "1.0", "200 length 5 close", "hello"},
		{"GET", "/chunked", "1.0", "200 length  close", "hello"},
	} {
		t.Run(x.method+x.path+x.version, func(t *testing.T) {
			c := dial(t, addr)
			c.send("%s %s HTTP/%s\r\nHost: a\r\n\r\n", x.method, x.path, x.version)
			r, b := c.reply(x.method)
			if got := framing(r); got != x.want {
				t.Errorf("%s, want %s", got, x.want)
			}
			if b != x.body && x.body != "*" {
				t.Errorf("body of %d bytes, want %d", len(b), len(x.body))
			}
			if r.Close {
				c.closed()
				return
			}
			c.send("GET /bytes HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			if r, b := c.reply("GET"); r.StatusCode != 200 || b != "hello" {
				t.Errorf("the reply behind it: %v %q", r, b)
			}
			c.closed()
		})
	}
}

func TestHTTP10KeepAlive(t *testing.T) {
	addr, _ := start(t, settings(echo))
	c := dial(t, addr)
	for range 2 {
		c.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
		if r, _ := c.reply("GET"); r.Header.Get("Connection") != "keep-alive" {
			t.Fatalf("%v", r.Header)
		}
	}
	c.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
	c.reply("GET")
	c.closed()
}

func TestReplyHead(t *testing.T) {
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		h := &ctx.Response.Header
		h.Add("Set-Cookie", "a=1; Path=/")
		h.Add("Set-Cookie", "b=2; Path=/")
		h.Add("X-Split", "a\r\nX-Injected: b")
		h.Add("Connection", "X-Foo")
		h.Add("Keep-Alive", "timeout=5")
		h.Add("Transfer-Encoding", "gzip")
		h.Add("Upgrade", "h2c")
		h.Set("Content-Length", "99")
		f.ReplyDate([]byte("Mon, 01 Jan 2001 00:00:00 GMT"))
		ctx.SetBodyString("x")
	}))
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	r, b := c.reply("GET")
	if b != "x" || r.Header.Get("Date") != "Mon, 01 Jan 2001 00:00:00 GMT" || len(r.Header["Date"]) != 1 ||
		len(r.Header["Set-Cookie"]) != 2 || r.Header.Get("X-Injected") != "" || r.Header.Get("Content-Type") != "" ||
		r.Header.Get("Connection") != "" || r.Header.Get("Keep-Alive") != "" || r.Header.Get("Upgrade") != "" {
		t.Errorf("%q %v", b, r.Header)
	}
}

// slowly hands out its pieces one per receive from go.
type slowly struct {
	pieces []string
	next   chan struct{}
	err    error
	closed chan struct{}
}

func (s *slowly) Read(p []byte) (int, error) {
	if len(s.pieces) == 0 {
		return 0, s.err
	}
	<-s.next
	n := copy(p, s.pieces[0])
	s.pieces = s.pieces[1:]
	return n, nil
}

func (s *slowly) Close() error { close(s.closed); return nil }

func TestSlowRepliesAreNotHeldBack(t *testing.T) {
	for name, length := range map[string]int{"length": 6, "chunked": -1} {
		t.Run(name, func(t *testing.T) {
			body := &slowly{[]string{"abc", "def"}, make(chan struct{}), io.EOF, make(chan struct{})}
			addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyStream(body, length) }))
			c := dial(t, addr)
			c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			r, err := http.ReadResponse(c.br, nil) // the head comes before any of the body
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"abc", "def"} {
				body.next <- struct{}{}
				b := make([]byte, 3)
				if _, err := io.ReadFull(r.Body, b); err != nil || string(b) != want {
					t.Fatalf("%q, %v", b, err)
				}
			}
			if b, err := io.ReadAll(r.Body); err != nil || len(b) > 0 {
				t.Errorf("%q, %v", b, err)
			}
			<-body.closed
		})
	}
}

// whole is a stream that has all of its bytes at hand.
type whole struct{ *bytes.Reader }

func (w whole) BufferedNow() int { return w.Len() }

func TestStreamWithBytesAtHandGoesInOneWrite(t *testing.T) {
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		ctx.SetBodyStream(whole{bytes.NewReader([]byte("hello"))}, 5)
	}))
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil || !strings.HasSuffix(string(b[:n]), "\r\n\r\nhello") {
		t.Errorf("first segment %q, %v", b[:n], err)
	}
}

func TestCutRepliesDoNotLookWhole(t *testing.T) {
	broken := errors.New("upstream died")
	replies := map[string]func(*fasthttp.RequestCtx, exchange.Front){
		"/error-length":  func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyStream(cutAfter("part", broken), 100) },
		"/error-chunked": func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyStream(cutAfter("part", broken), -1) },
		"/short":         func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyStream(cutAfter("part", io.EOF), 100) },
		"/cut":           func(_ *fasthttp.RequestCtx, f exchange.Front) { f.Cut() },
		"/error-10":      func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyStream(cutAfter("part", broken), -1) },
	}
	addr, srv := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) { replies[string(ctx.Path())](ctx, f) }))
	for path := range replies {
		version := "1.1"
		if path == "/error-10" {
			version = "1.0" // its end is the connection's: only a reset tells
		}
		c := dial(t, addr)
		c.send("GET %s HTTP/%s\r\nHost: a\r\n\r\n", path, version)
		r, err := http.ReadResponse(c.br, nil)
		if err == nil {
			_, err = io.ReadAll(r.Body)
		}
		if err == nil {
			t.Errorf("%s: looks whole", path)
		}
	}
	eventually(t, "all connections gone", func() bool { return srv.Stats().Open == 0 })
}

func cutAfter(s string, err error) io.Reader {
	return io.MultiReader(strings.NewReader(s), errReader{err})
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestInterimReplies(t *testing.T) {
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		for _, status := range []int{103, 100, 101, 200, 99} {
			if err := f.Inform(status, []byte("Link: </a.css>; rel=preload\r\n")); err != nil {
				t.Error(err)
			}
		}
		ctx.SetBodyString("done")
	}))
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	out := c.rest()
	want := "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n"
	if !strings.HasPrefix(out, want) || strings.Count(out, "HTTP/1.1 ") != 2 {
		t.Errorf("got %q", out)
	}
	c = dial(t, addr)
	c.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
	if out := c.rest(); !strings.HasPrefix(out, "HTTP/1.1 200 ") {
		t.Errorf("HTTP/1.0 client got %q", out)
	}
}

func TestTrailersBothWays(t *testing.T) {
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if f.RequestTrailers() != nil {
			t.Error("trailers before the body")
		}
		b, err := io.ReadAll(ctx.RequestBodyStream())
		if err != nil || string(b) != "abc" {
			t.Errorf("body %q, %v", b, err)
		}
		if s := string(f.RequestTrailers()); s != "X-Sum: 1\r\nx-other:2\r\n" || ctx.Request.Header.Peek("X-Sum") != nil {
			t.Errorf("request trailers %q", s)
		}
		ctx.SetBodyStream(trailing{strings.NewReader("hello"), f}, -1)
	}))
	c := dial(t, addr)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nx-other:2\r\n\r\n")
	if out := c.rest(); !strings.HasSuffix(out, "000005\r\nhello\r\n0\r\nGrpc-Status: 0\r\nX-B: c\r\n\r\n") {
		t.Errorf("got %q", out)
	}
}

// trailing sets reply trailers at its end.
type trailing struct {
	io.Reader
	f exchange.Front
}

func (r trailing) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		r.f.ReplyTrailers([]byte("Grpc-Status: 0\r\n"))
		r.f.ReplyTrailers([]byte("X-B: c\r\n"))
	}
	return n, err
}

func TestByteCounts(t *testing.T) {
	counts := make(chan [2]int64, 1)
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		ctx.SetUserValue("end", closer(func() { counts <- [2]int64{f.RequestBytes(), f.ReplyBytes()} }))
		if string(ctx.Path()) == "/stream" {
			if _, err := io.Copy(io.Discard, ctx.RequestBodyStream()); err != nil {
				t.Error(err)
			}
			ctx.SetBodyStream(strings.NewReader("hello"), -1)
			return
		}
		if b := f.Whole(); string(b) != "abc" || !f.BodyDone() || f.Whole() != nil {
			t.Errorf("Whole: %q", b)
		}
		ctx.SetBody(make([]byte, 100<<10))
	}))
	c := dial(t, addr)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
	c.reply("POST")
	if got := <-counts; got != [2]int64{3, 100 << 10} {
		t.Errorf("got %v", got)
	}
	c.send("POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	time.Sleep(10 * time.Millisecond)
	c.send("2\r\nde\r\n0\r\n\r\n")
	c.reply("POST")
	if got := <-counts; got != [2]int64{5, 5} {
		t.Errorf("got %v", got)
	}
}

func TestStreamWriterOfStockHandlers(t *testing.T) {
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		ctx.SetBodyStreamWriter(func(w *bufio.Writer) {
			for range 3 {
				if _, err := w.WriteString("data\n\n"); err != nil || w.Flush() != nil {
					t.Error("stream writer:", err)
				}
			}
		})
	}))
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, b := c.reply("GET"); b != "data\n\ndata\n\ndata\n\n" {
		t.Errorf("got %q", b)
	}
}
