package h2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// closer tells when the server is done with a reply's stream.
type closer struct {
	io.Reader
	closed chan struct{}
}

func (c *closer) Close() error { close(c.closed); return nil }

// finisher is a user value, as the exchange is one.
type finisher struct{ closed chan int64 }

func (f finisher) Close() error { f.closed <- 1; return nil }

func TestTheExchangeIsClosedOnceWhateverHappens(t *testing.T) {
	for name, h := range map[string]handler{
		"a reply":        func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyString("x") },
		"a stream":       func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyStream(strings.NewReader("x"), -1) },
		"a cut":          func(_ *fasthttp.RequestCtx, f exchange.Front) { f.Cut() },
		"a panic":        func(*fasthttp.RequestCtx, exchange.Front) { panic("no") },
		"a broken one":   func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyStream(broken("some"), -1) },
		"a hijacked one": func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetStatusCode(101) },
	} {
		t.Run(name, func(t *testing.T) {
			fin := finisher{make(chan int64, 10)}
			c, b := serve(t, quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
				ctx.SetUserValue("exchange", fin)
				h(ctx, f)
			}))
			for range 3 {
				_, _, _ = c.do(c.request("GET", "/", nil)) // what comes of it other tests tell
			}
			for range 3 {
				<-fin.closed
			}
			eventually(t, "it is idle", func() bool { s := b.Stats(); return s.Idle == s.Open })
			if n := len(fin.closed); n > 0 {
				t.Errorf("closed %d times more", n)
			}
		})
	}
}

// broken is a stream that ends badly.
func broken(s string) io.Reader {
	return io.MultiReader(strings.NewReader(s), failing{errors.New("the upstream broke off")})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestAReplyThatBreaksOffNeverLooksComplete(t *testing.T) {
	for name, h := range map[string]handler{
		"of unknown length": func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyStream(broken("some"), -1) },
		"of known length":   func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyStream(broken("some"), 10) },
		"ended early":       func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyStream(strings.NewReader("some"), 10) },
		"cut at its end": func(ctx *fasthttp.RequestCtx, f exchange.Front) {
			ctx.SetBodyStream(cutting{strings.NewReader("some"), f}, -1)
		},
		"cut": func(_ *fasthttp.RequestCtx, f exchange.Front) { f.Cut() },
	} {
		c, _ := serve(t, quick(h))
		if resp, body, err := c.do(c.request("GET", "/", nil)); err == nil {
			t.Errorf("%s: %v %q", name, resp, body)
		}
	}
}

// cutting is a stream that a plugin has wrapped, and so hides the error of.
type cutting struct {
	io.Reader
	f exchange.Front
}

func (c cutting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err != nil {
		c.f.Cut()
	}
	return n, err
}

func TestAPanicIsAnswered(t *testing.T) {
	s := quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		if string(ctx.Path()) == "/panic" {
			panic("no")
		}
	})
	told := make(chan any, 1)
	s.Panicked = func(v any, _ []byte) { told <- v }
	c, _ := serve(t, s)
	if resp, body := c.get("/panic"); resp.StatusCode != 500 || !strings.Contains(body, `"reason":"internal"`) {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	if v := <-told; v != "no" {
		t.Errorf("told %v", v)
	}
	if resp, _ := c.get("/"); resp.StatusCode != 200 {
		t.Errorf("afterwards %d", resp.StatusCode)
	}
}

func TestTheClientsGoingEndsTheWork(t *testing.T) {
	asked, gone := make(chan struct{}), make(chan struct{})
	c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		f.OnGone(abort(func() { close(gone) }))
		close(asked)
		<-gone
		f.OnGone(nil)
	}))
	ctx, cancel := context.WithCancel(context.Background())
	r := c.request("GET", "/", nil).WithContext(ctx)
	done := make(chan error, 1)
	go func() {
		_, _, err := c.do(r)
		done <- err
	}()
	<-asked
	cancel()
	select {
	case <-gone:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody was told")
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestAReaderOfTheBodyIsInterrupted(t *testing.T) {
	read := make(chan error, 1)
	c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		s := ctx.RequestBodyStream()
		started := make(chan struct{})
		go func() {
			p := make([]byte, 10)
			_, _ = io.ReadFull(s, p[:4])
			close(started)
			_, err := s.Read(p)
			read <- err
		}()
		<-started
		f.InterruptBody()
		if err := <-read; err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the reader got %v", err)
		}
		ctx.SetBodyString("done")
	}))
	pr, pw := io.Pipe()
	defer pw.Close()
	go func() { _, _ = io.WriteString(pw, "some") }()
	if _, body, err := c.do(c.request("POST", "/", pr)); err != nil || body != "done" {
		t.Errorf("%q, %v", body, err)
	}
}

func TestAReaderLeftBehindIsInterruptedAtTheEnd(t *testing.T) {
	read := make(chan error, 1)
	c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		s := ctx.RequestBodyStream()
		go func() {
			_, err := io.Copy(io.Discard, s)
			read <- err
		}()
		ctx.SetStatusCode(413)
	}))
	pr, pw := io.Pipe()
	defer pw.Close()
	resp, _, err := c.do(c.request("POST", "/", pr))
	if err != nil || resp.StatusCode != 413 {
		t.Errorf("%v, %v", resp, err) // an early reply arrives
	}
	select {
	case err := <-read:
		if err == nil {
			t.Error("half a body looked whole")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the reader still waits")
	}
}

func TestLimitsOfBodies(t *testing.T) {
	t.Parallel()
	for _, k := range []struct {
		size, max, lower int64
		known            bool
		want             error
	}{
		{1000, 1000, -1, true, nil},
		{1000, 1000, -1, false, nil},
		{1001, 1000, -1, true, reason.BodyTooLarge},
		{1001, 1000, -1, false, reason.BodyTooLarge},
		{1001, 2000, 1000, true, reason.BodyTooLarge},
		{1001, 2000, 1000, false, reason.BodyTooLarge},
		{1001, 1000, 2000, false, reason.BodyTooLarge}, // a limit can only be lowered
		{100000, 0, -1, false, nil},
	} {
		got := make(chan error, 1)
		s := quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
			if k.lower >= 0 {
				f.LimitBody(k.lower)
			}
			n, err := io.Copy(io.Discard, ctx.RequestBodyStream())
			if err == nil && (n != k.size || !f.BodyDone() || f.RequestBytes() != n) {
				err = fmt.Errorf("%d bytes, done %v", n, f.BodyDone())
			}
			got <- err
		})
		s.MaxBody = k.max
		c, _ := serve(t, s)
		r := c.request("POST", "/", io.LimitReader(zeros{}, k.size))
		if k.known {
			r.ContentLength = k.size
		}
		_, _, _ = c.do(r) // may have been reset
		if err := <-got; !errors.Is(err, k.want) {
			t.Errorf("%+v: %v", k, err)
		}
	}
}

func TestRequestTrailers(t *testing.T) {
	for name, want := range map[string]string{"X-Sum": "x-sum: 1\r\n", "X-Forwarded-For": "bad_trailer"} {
		got := make(chan string, 1)
		c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
			announced := ""
			f.EachField(func(n, v []byte) bool {
				if string(n) == "trailer" {
					announced = string(v)
				}
				return true
			})
			if announced != name || f.RequestTrailers() != nil {
				t.Errorf("announced %q, too early %q", announced, f.RequestTrailers())
			}
			if _, err := io.Copy(io.Discard, ctx.RequestBodyStream()); err != nil {
				got <- strings.Split(err.Error(), ":")[0]
				return
			}
			got <- string(f.RequestTrailers())
		}))
		r := c.request("POST", "/", io.MultiReader(strings.NewReader("body")))
		r.Trailer = http.Header{name: {"1"}}
		_, _, _ = c.do(r)
		if g := <-got; g != want {
			t.Errorf("got %q, want %q", g, want)
		}
	}
}

func TestInterimReplies(t *testing.T) {
	c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		for _, status := range []int{100, 101, 103, 200} { // only one of them is to be sent
			if err := f.Inform(status, []byte("Link: </a.css>\r\nX-A: b\r\n")); err != nil {
				t.Error(err)
			}
		}
		ctx.SetBodyString("x")
	}))
	var got []string
	r := c.request("GET", "/", nil)
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			got = append(got, fmt.Sprint(code, h["Link"], h["X-A"]))
			return nil
		},
	}))
	resp, _, err := c.do(r)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Link") != "" {
		t.Errorf("%v, %v", resp, err)
	}
	if fmt.Sprint(got) != "[103 [</a.css>] [b]]" {
		t.Errorf("got %q", got)
	}
}

func TestContinueIsSentWhenTheBodyIsWanted(t *testing.T) {
	for _, wanted := range []bool{true, false} {
		c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
			if wanted {
				_, _ = io.Copy(io.Discard, ctx.RequestBodyStream())
			}
		}))
		c.rt.ExpectContinueTimeout = time.Minute
		asked := false
		r := c.request("POST", "/", strings.NewReader("body"))
		r.Header.Set("Expect", "100-continue")
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got100Continue: func() { asked = true }}))
		if resp, _, err := c.do(r); err != nil || resp.StatusCode != 200 || asked != wanted {
			t.Errorf("wanted %v: %v, %v, asked %v", wanted, resp, err, asked)
		}
	}
}

// peeked is a stream that knows what it has.
type peeked struct {
	pieces chan string
	rest   string
}

func (p *peeked) BufferedNow() int { return len(p.rest) }
func (p *peeked) Read(b []byte) (int, error) {
	if p.rest == "" {
		var ok bool
		if p.rest, ok = <-p.pieces; !ok {
			return 0, io.EOF
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func TestAReplyGoesOutAsItComes(t *testing.T) {
	p := &peeked{pieces: make(chan string, 1)}
	c, _ := serve(t, quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyStream(p, -1) }))
	resp, err := c.rt.RoundTrip(c.request("GET", "/", nil)) // its head comes before any of the body
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 64<<10)
	for _, size := range []int{1, 100, 5000, 40000} {
		p.pieces <- strings.Repeat("x", size)
		if _, err := io.ReadFull(resp.Body, buf[:size]); err != nil {
			t.Fatal(err)
		}
	}
	close(p.pieces)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestTimeLimits(t *testing.T) {
	t.Parallel()
	t.Run("of a body", func(t *testing.T) {
		got := make(chan error, 1)
		s := quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
			_, err := io.Copy(io.Discard, ctx.RequestBodyStream())
			got <- err
		})
		s.BodyTimeout = 200 * time.Millisecond
		c, _ := serve(t, s)
		pr, pw := io.Pipe()
		defer pw.Close()
		if resp, _, err := c.do(c.request("POST", "/", pr)); err != nil || resp.StatusCode != 200 {
			t.Errorf("%v, %v", resp, err)
		}
		if err := <-got; !errors.Is(err, reason.BodyTimeout) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("of a reply", func(t *testing.T) {
		closed := make(chan struct{})
		s := quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
			ctx.SetBodyStream(&closer{zeros{}, closed}, -1)
		})
		s.WriteTimeout = time.Second
		c, _ := serve(t, s)
		resp, err := c.rt.RoundTrip(c.request("GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		select {
		case <-closed: // though nobody reads
		case <-time.After(30 * time.Second):
			t.Fatal("the stream is still open")
		}
		if _, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Error("it looks complete")
		}
	})
	t.Run("not of a slow handler or a quiet stream", func(t *testing.T) {
		s := quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
			time.Sleep(1500 * time.Millisecond)
			pr, pw := io.Pipe()
			go func() {
				_, _ = io.WriteString(pw, "one")
				time.Sleep(1500 * time.Millisecond)
				_, _ = io.WriteString(pw, "two")
				pw.Close()
			}()
			ctx.SetBodyStream(pr, -1)
		})
		s.WriteTimeout = time.Second
		c, _ := serve(t, s)
		if _, body := c.get("/"); body != "onetwo" {
			t.Errorf("got %q", body)
		}
	})
}

func TestCloseEndsHandlers(t *testing.T) {
	asked, gone := make(chan struct{}), make(chan struct{})
	c, b := serve(t, quick(func(_ *fasthttp.RequestCtx, f exchange.Front) {
		f.OnGone(abort(func() { close(gone) }))
		close(asked)
		<-gone
	}))
	done := make(chan struct{})
	go func() {
		_, _, _ = c.do(c.request("GET", "/", nil))
		close(done)
	}()
	<-asked
	if err := b.Close(); err != nil || b.Stats().Open != 0 {
		t.Errorf("%v, %+v", err, b.Stats())
	}
	<-done
	if _, _, err := c.do(c.request("GET", "/", nil)); err == nil {
		t.Error("a request after Close was answered")
	}
}

func TestRefusals(t *testing.T) {
	var r refusals
	s := settings(func(*fasthttp.RequestCtx, exchange.Front) { t.Error("it reached the handler") }, &r)
	var heads []string
	s.Refused = func(why *reason.Reason, peer netip.AddrPort, head []byte) {
		line, _, _ := strings.Cut(string(head), "\r\n")
		heads = append(heads, line)
		if !peer.Addr().IsLoopback() {
			t.Errorf("told of %v", peer)
		}
		r.add(why)
	}
	c, _ := serve(t, s)
	for _, method := range []string{"GET", "HEAD"} {
		req := c.request(method, "/a", nil)
		req.Header["Content-Type"] = []string{"a/b", "c/d"}
		resp, body, err := c.do(req)
		if err != nil || resp.StatusCode != 400 || resp.Header.Get("Cache-Control") != "no-store" ||
			resp.Header.Get("Content-Type") != "application/problem+json" ||
			method == "GET" && !strings.Contains(body, `"reason":"repeated_header"`) {
			t.Errorf("%s: %v, %q, %v", method, resp, body, err)
		}
	}
	if got := fmt.Sprint(r.String(), heads); got != "repeated_header repeated_header[GET /a HTTP/2.0 HEAD /a HTTP/2.0]" {
		t.Errorf("told %s", got)
	}
}
