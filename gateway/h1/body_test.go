package h1_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// unread answers 403 without looking at the body.
func unread(t *testing.T) handler {
	return func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if strings.Contains(string(f.RawTarget()), "smuggled") {
			t.Error("an unread body became a request")
		}
		ctx.SetStatusCode(403)
		ctx.SetBodyString("no")
	}
}

const inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

func TestUnreadBodyNeverBecomesARequest(t *testing.T) {
	addr, srv := start(t, settings(unread(t)))
	for name, x := range map[string]struct {
		head, body string
		kept       bool
	}{
		"small, buffered":    {fmt.Sprintf("Content-Length: %d", len(inner)), inner, true},
		"64 KiB":             {"Content-Length: 65536", strings.Repeat(inner, 65536/len(inner)+1)[:65536], true},
		"more than 64 KiB":   {"Content-Length: 70000", strings.Repeat(inner, 3000)[:70000], false},
		"chunked":            {"Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner), false},
		"expected elsewhere": {"Expect: 100-continue\r\nContent-Length: 35", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, addr)
			c.send("POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", x.head)
			if name != "small, buffered" {
				time.Sleep(5 * time.Millisecond) // the head is read apart from the body
			}
			c.send("%s", x.body)
			r, b := c.reply("POST")
			if r.StatusCode != 403 || b != "no" || r.Close == x.kept {
				t.Errorf("%v %q", r, b)
			}
			if !x.kept {
				c.closed()
				return
			}
			c.send("GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			if r, _ := c.reply("GET"); r.StatusCode != 403 {
				t.Errorf("next: %v", r)
			}
			c.closed()
		})
	}
	eventually(t, "all connections gone", func() bool { return srv.Stats().Open == 0 })
}

func TestEarlyReplyArrivesWhileTheClientSends(t *testing.T) {
	addr, _ := start(t, settings(unread(t)))
	for range 20 {
		r, err := http.Post("http://"+addr, "x/y", io.LimitReader(zeros{}, 10<<20))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		if r.StatusCode != 403 || string(b) != "no" || err != nil {
			t.Errorf("%v %q %v", r, b, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestExpectContinue(t *testing.T) {
	addr, _ := start(t, settings(echo))
	head := "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
	c := dial(t, addr)
	c.send("%s", head)
	line, err := c.br.ReadString('\n')
	if rest, err2 := c.br.ReadString('\n'); err != nil || err2 != nil || line != "HTTP/1.1 100 Continue\r\n" || rest != "\r\n" {
		t.Fatalf("%q %q", line, rest)
	}
	c.send("abc")
	if r, b := c.reply("POST"); b != "POST / abc" || r.Close {
		t.Errorf("%v %q", r, b)
	}
	c.send("%sabc", head) // did not wait: needs no 100
	if line, err := c.br.Peek(12); err != nil || string(line) != "HTTP/1.1 200" {
		t.Errorf("%q, %v", line, err)
	}
	c.reply("POST")
}

func TestRelayedContinueIsSentOnce(t *testing.T) {
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		for range 2 {
			if err := f.Inform(100, nil); err != nil {
				t.Error(err)
			}
		}
		echo(ctx, f)
	}))
	c := dial(t, addr)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n")
	if line, err := c.br.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c.send("abc")
	if out := c.rest(); strings.Count(out, "HTTP/1.1 ") != 1 || !strings.HasSuffix(out, "abc") {
		t.Errorf("%q", out)
	}
}

func TestBodyLimits(t *testing.T) {
	s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if string(ctx.Path()) == "/lowered" {
			f.LimitBody(4)
			f.LimitBody(1000)
		}
		echo(ctx, f)
	})
	s.MaxBody = 10
	addr, _ := start(t, s)
	chunked := "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n%s0\r\n\r\n"
	for name, x := range map[string]struct {
		path, rest string
		status     int
	}{
		"within":          {"/", "Content-Length: 10\r\n\r\n0123456789", 200},
		"over":            {"/", "Content-Length: 11\r\n\r\n0123456789a", 413},
		"chunked within":  {"/", fmt.Sprintf(chunked, "3\r\nhij\r\n"), 200},
		"chunked over":    {"/", fmt.Sprintf(chunked, "4\r\nhijk\r\n"), 413},
		"lowered within":  {"/lowered", "Content-Length: 4\r\n\r\n0123", 200},
		"lowered over":    {"/lowered", "Content-Length: 5\r\n\r\n01234", 413},
		"lowered chunked": {"/lowered", fmt.Sprintf(chunked, ""), 413},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, addr)
			c.send("POST %s HTTP/1.1\r\nHost: a\r\n%s", x.path, x.rest)
			if r, b := c.reply("POST"); r.StatusCode != x.status {
				t.Errorf("%v %q", r, b)
			}
		})
	}
}

func TestLargeBodiesPassUnchanged(t *testing.T) {
	const size = 32 << 20
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		// Straight back while it comes: needs both directions at once.
		ctx.SetBodyStream(ctx.RequestBodyStream(), ctx.Request.Header.ContentLength())
	}))
	for _, length := range []int64{size, -1} {
		want := pattern(size)
		req, err := http.NewRequest("POST", "http://"+addr, io.NopCloser(pattern(size)))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := compare(r.Body, want); err != nil || n != size {
			t.Errorf("length %d: %d bytes came back right, %v", length, n, err)
		}
		r.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
}

// pattern is size bytes that repeat with no power of two.
func pattern(size int64) io.Reader { return io.LimitReader(&counter{}, size) }

type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c.n % 251)
		c.n++
	}
	return len(p), nil
}

func compare(a, b io.Reader) (n int64, err error) {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		m, err := a.Read(x)
		if _, err := io.ReadFull(b, y[:m]); err != nil {
			return n, err
		}
		if !bytes.Equal(x[:m], y[:m]) {
			return n, fmt.Errorf("differ behind %d bytes", n)
		}
		n += int64(m)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func TestLateReaderNeverSeesTheNextRequest(t *testing.T) {
	read := make(chan struct{})
	got := make(chan string, 1)
	first := true
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if !first {
			close(read)
			b, err := io.ReadAll(ctx.RequestBodyStream())
			fmt.Fprintf(ctx, "%s %v", b, err)
			return
		}
		first = false
		stream := ctx.RequestBodyStream()
		go func() {
			<-read
			b := make([]byte, 100)
			n, err := stream.Read(b)
			got <- fmt.Sprintf("%q %v", b[:n], err)
		}()
	}))
	c := dial(t, addr)
	c.send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
	c.reply("POST")
	c.send("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nsecret")
	if _, b := c.reply("POST"); b != "secret <nil>" {
		t.Errorf("second request's body: %s", b)
	}
	if s := <-got; !strings.HasPrefix(s, `"" `) || strings.HasSuffix(s, "<nil>") {
		t.Errorf("the late reader got %s", s)
	}
}

func TestInterruptBody(t *testing.T) {
	ended := make(chan error, 1)
	addr, srv := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		stream := ctx.RequestBodyStream()
		go func() {
			_, err := io.Copy(io.Discard, stream)
			ended <- err
		}()
		time.Sleep(20 * time.Millisecond)
		f.InterruptBody()
		if err := <-ended; err == nil {
			t.Error("the interrupted reader saw a complete body")
		}
		ctx.SetStatusCode(413)
	}))
	c := dial(t, addr)
	c.send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
	if r, _ := c.reply("POST"); r.StatusCode != 413 || !r.Close {
		t.Errorf("%v", r)
	}
	c.closed()
	eventually(t, "all connections gone", func() bool { return srv.Stats().Open == 0 })
}

func TestReaderLeftBehindIsEnded(t *testing.T) {
	ended := make(chan error, 1)
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		stream := ctx.RequestBodyStream()
		reading := make(chan struct{})
		go func() {
			b := make([]byte, 100)
			_, err := stream.Read(b)
			close(reading)
			for err == nil {
				_, err = stream.Read(b)
			}
			ended <- err
		}()
		<-reading
		ctx.SetStatusCode(500) // and forgets about its reader
	}))
	c := dial(t, addr)
	c.send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
	if r, _ := c.reply("POST"); !r.Close {
		t.Errorf("%v", r)
	}
	select {
	case err := <-ended:
		if err == io.EOF {
			t.Error("saw a complete body")
		}
	case <-time.After(30 * time.Second):
		t.Error("still reading")
	}
}

func TestClientThatBreaksOffItsUpload(t *testing.T) {
	begun, got := make(chan struct{}, 1), make(chan error, 1)
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		begun <- struct{}{}
		_, err := io.Copy(io.Discard, ctx.RequestBodyStream())
		got <- err
	}))
	for name, end := range map[string]func(c *client){
		"close":      func(c *client) { c.Close() },
		"half-close": func(c *client) { c.CloseWrite() },
		"reset":      func(c *client) { c.SetLinger(0); c.Close() },
	} {
		c := dial(t, addr)
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
		<-begun
		time.Sleep(10 * time.Millisecond) // so that it waits for more, most likely
		end(c)
		if err := <-got; err == nil || reason.From(err).Reason != reason.BodyCut {
			t.Errorf("%s: %v", name, err)
		}
	}
}
