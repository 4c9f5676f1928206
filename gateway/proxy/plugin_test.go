package proxy_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// A plugin that reads a chunked body does not cost its trailers.
func TestTrailersOfABufferedBody(t *testing.T) {
	seen := make(chan string, 1)
	up := handle(t, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen <- string(b) + " " + r.Trailer.Get("X-Up")
	})
	p, err := proxy.New(proxy.Settings{Route: "test", Backends: backends(t, up)})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{ended: make(chan struct{}, 1)}
	g.serve(t, func(c *fiber.Ctx) error {
		if _, whole, err := exchange.BufferRequest(c.Context(), 1<<10); err != nil || !whole {
			t.Errorf("whole %v, %v", whole, err)
		}
		return c.Next()
	}, p.Handle)
	_, r := dial(t, g.addr, "POST / HTTP/1.1\r\nHost: a.test\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Up: 41\r\n\r\n")
	readHead(r)
	if got := <-seen; got != "abc 41" {
		t.Errorf("upstream saw %q", got)
	}
}

// A reply that a plugin holds and that breaks off becomes a refusal; one that
// nobody holds is cut. What is over cannot be read by who kept it.
func TestBufferedReplyThatBreaksOff(t *testing.T) {
	up := raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
	})
	p, err := proxy.New(proxy.Settings{Route: "test", Backends: backends(t, up)})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{ended: make(chan struct{}, 1)}
	g.serve(t, func(c *fiber.Ctx) error {
		if err := c.Next(); err != nil {
			return err
		}
		_, _, err := exchange.BufferReply(c.Context(), 1<<10)
		return err
	}, p.Handle)
	if got := get(t, g.addr, "/"); !strings.HasPrefix(got, "HTTP/1.1 502") {
		t.Errorf("got %q", got)
	}
	if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != reason.UpstreamReset {
		t.Errorf("refusal %v", f.refusal)
	}
}

func TestReplyReadBehindTheRequestsBack(t *testing.T) {
	up := handle(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write(bytes.Repeat([]byte("x"), 1<<20))
	})
	p, err := proxy.New(proxy.Settings{Route: "test", Backends: backends(t, up)})
	if err != nil {
		t.Fatal(err)
	}
	kept := make(chan io.Reader, 1)
	g := &gateway{ended: make(chan struct{}, 1)}
	g.serve(t, func(c *fiber.Ctx) error {
		err := c.Next()
		kept <- c.Response().BodyStream()
		return err
	}, p.Handle)
	if got := get(t, g.addr, "/"); len(got) < 1<<20 {
		t.Fatalf("%d bytes", len(got))
	}
	g.await(t, 1)
	if n, err := (<-kept).Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("read %d bytes of a reply that is over, %v", n, err)
	}
}

func TestPluginDropsTheReply(t *testing.T) {
	up := handle(t, func(w http.ResponseWriter, r *http.Request) { w.Write(bytes.Repeat([]byte("x"), 1<<20)) })
	p, err := proxy.New(proxy.Settings{Route: "test", Backends: backends(t, up)})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{ended: make(chan struct{}, 1)}
	g.serve(t, func(c *fiber.Ctx) error {
		if err := c.Next(); err != nil {
			return err
		}
		c.Response().SetBodyString("mine")
		return nil
	}, p.Handle)
	for range 3 {
		if got := get(t, g.addr, "/"); !strings.HasSuffix(got, "\r\n\r\nmine") {
			t.Fatalf("got %q", got)
		}
	}
}
