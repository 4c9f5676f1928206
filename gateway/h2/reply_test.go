package h2_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

func TestARequestIsWhatTheClientSent(t *testing.T) {
	type seen struct{ method, host, target, protocol, fields, cookie, raw string }
	got := make(chan seen, 1)
	c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		h := &ctx.Request.Header
		s := seen{method: string(h.Method()), host: string(h.Host()), target: string(h.RequestURI()), protocol: f.Protocol(), raw: string(f.RawTarget())}
		for k, v := range h.All() {
			s.fields += fmt.Sprintf("%s=%s;", k, v)
		}
		f.EachField(func(name, value []byte) bool {
			if string(name) == "cookie" {
				s.cookie = string(value)
			}
			return true
		})
		if f.HasBody() || ctx.Request.IsBodyStream() || !f.BodyDone() {
			t.Error("a request without a body has one")
		}
		got <- s
	}))
	r := c.request("GET", "/a%2Fb/../c?x=1&y=%zz", nil)
	r.Host = "Example.com:8080"
	r.Header = http.Header{
		"X-Twice": {"one", "two"}, "Cookie": {`b="q q"`, "=d"}, "User-Agent": {"me"}, "Te": {"trailers"}, "X-Empty": {""},
	}
	if resp, _, err := c.do(r); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	want := seen{
		method: "GET", host: "Example.com:8080", target: "/a%2Fb/../c?x=1&y=%zz", protocol: "HTTP/2.0",
		raw: "/a%2Fb/../c?x=1&y=%zz", cookie: `b="q q"; =d`,
	}
	s := <-got
	fields := s.fields
	s.fields = ""
	if s != want {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
	for _, f := range []string{"X-Twice=one;", "X-Twice=two;", "User-Agent=me;", "Te=trailers;", "X-Empty=;", "Host=Example.com:8080;"} {
		if !strings.Contains(fields, f) {
			t.Errorf("%s is missing in %s", f, fields)
		}
	}
}

func TestAReplyIsWhatTheHandlerLeft(t *testing.T) {
	c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		h := &ctx.Response.Header
		ctx.SetStatusCode(207)
		h.Add("X-Twice", "one")
		h.Add("X-Twice", "two")
		h.Add("Set-Cookie", "a=b")
		h.Add("Set-Cookie", "c=d")
		h.Set("Transfer-Encoding", "chunked")
		h.Set("Keep-Alive", "timeout=5")
		f.ReplyDate([]byte("Mon, 01 Jan 2001 00:00:00 GMT"))
		f.ReplyTrailers([]byte("X-Sum: 1\r\nX-Sum: 2\r\n"))
		ctx.SetBodyString("hello")
		if f.ReplyBytes() != 0 {
			t.Error("bytes have been written before the reply")
		}
	}))
	resp, body := c.get("/")
	if resp.StatusCode != 207 || body != "hello" || resp.ContentLength != 5 || resp.Header.Get("Date") != "Mon, 01 Jan 2001 00:00:00 GMT" {
		t.Errorf("got %d %q, length %d, %v", resp.StatusCode, body, resp.ContentLength, resp.Header)
	}
	if got := fmt.Sprint(resp.Header["X-Twice"], resp.Header["Set-Cookie"]); got != "[one two] [a=b c=d]" {
		t.Errorf("got %s", got)
	}
	for _, name := range []string{"Transfer-Encoding", "Keep-Alive", "Connection", "Content-Type"} {
		if v, ok := resp.Header[name]; ok {
			t.Errorf("%s: %q", name, v)
		}
	}
	if got := fmt.Sprint(resp.Trailer); got != "map[X-Sum:[1 2]]" {
		t.Errorf("trailers %s", got)
	}
}

func TestBodilessReplies(t *testing.T) {
	for _, k := range []struct {
		method string
		status int
		length int64
		set    func(ctx *fasthttp.RequestCtx)
	}{
		{"HEAD", 200, 5, func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("hello") }},
		{"HEAD", 200, 12, func(ctx *fasthttp.RequestCtx) {
			ctx.Response.SkipBody = true
			ctx.Response.Header.SetContentLength(12)
		}},
		{"HEAD", 200, 7, func(ctx *fasthttp.RequestCtx) { ctx.SetBodyStream(strings.NewReader("streams"), 7) }},
		{"HEAD", 200, -1, func(ctx *fasthttp.RequestCtx) { ctx.SetBodyStream(strings.NewReader("streams"), -1) }},
		{"GET", 204, 0, func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("not to be sent") }},
		{"GET", 304, 0, func(ctx *fasthttp.RequestCtx) { ctx.Response.Header.SetContentLength(99) }},
		{"GET", 200, 0, func(ctx *fasthttp.RequestCtx) {}},
	} {
		c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
			ctx.SetStatusCode(k.status)
			k.set(ctx)
		}))
		resp, body, err := c.do(c.request(k.method, "/", nil))
		if err != nil || resp.StatusCode != k.status || body != "" || resp.ContentLength != k.length {
			t.Errorf("%s %d: got %v, %q, %v, want length %d", k.method, k.status, resp, body, err, k.length)
		}
	}
}

func TestImpossibleRepliesAre500(t *testing.T) {
	for name, set := range map[string]func(ctx *fasthttp.RequestCtx){
		"interim":   func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(103) },
		"switching": func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(101) },
		"too high":  func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(1000) },
	} {
		c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
			ctx.Response.Header.Set("X-Secret", "1")
			set(ctx)
		}))
		resp, body := c.get("/")
		if resp.StatusCode != 500 || !strings.Contains(body, `"reason":"internal"`) || resp.Header.Get("X-Secret") != "" {
			t.Errorf("%s: got %d %q", name, resp.StatusCode, body)
		}
	}
}

func TestAnEchoStreamsBothWays(t *testing.T) {
	c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		ctx.Response.SetBodyStream(ctx.RequestBodyStream(), -1)
	}))
	pr, pw := io.Pipe()
	defer pw.Close()
	resp, err := c.rt.RoundTrip(c.request("POST", "/", pr))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 100)
	for i := range 20 { // each message comes back before the next is sent
		message := fmt.Sprintf("message %d", i)
		if _, err := io.WriteString(pw, message); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, buf[:len(message)]); err != nil || string(buf[:len(message)]) != message {
			t.Fatalf("%q, %v", buf[:len(message)], err)
		}
	}
	pw.Close()
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestLargeBodiesBothWays(t *testing.T) {
	t.Parallel()
	const size = 9<<20 + 17
	c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		ctx.Response.SetBodyStream(ctx.RequestBodyStream(), ctx.Request.Header.ContentLength())
	}))
	for _, known := range []bool{true, false} {
		r := c.request("PUT", "/", io.LimitReader(zeros{}, size))
		if known {
			r.ContentLength = size
		}
		resp, err := c.rt.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if n != size || err != nil || known != (resp.ContentLength == size) {
			t.Errorf("known %v: %d bytes, %v, length %d", known, n, err, resp.ContentLength)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
