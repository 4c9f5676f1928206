package proxy_test

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
)

// fixed is an upstream that answers each request, whose head and body are of
// known size, with the same bytes and allocates nothing for it.
func fixed(t testing.TB, body int, reply string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serveFixed(c, body, []byte(reply))
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func serveFixed(c net.Conn, body int, reply []byte) {
	defer c.Close()
	buf := make([]byte, 64<<10)
	n := 0
	for {
		m, err := c.Read(buf[n:])
		if err != nil {
			return
		}
		n += m
		if i := bytes.Index(buf[:n], []byte("\r\n\r\n")); i >= 0 && n >= i+4+body {
			n = 0
			if _, err := c.Write(reply); err != nil {
				return
			}
		}
	}
}

// roundTrips returns a function that sends request and reads a reply of want bytes.
func roundTrips(t testing.TB, addr, request string) func() {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	out, in := []byte(request), make([]byte, 64<<10)
	once := func() (n int, err error) {
		if _, err := c.Write(out); err != nil {
			return 0, err
		}
		return c.Read(in)
	}
	if n, err := once(); err != nil || !bytes.HasPrefix(in[:n], []byte("HTTP/1.1 200")) {
		t.Fatalf("%q, %v", in[:n], err)
	}
	return func() {
		if _, err := once(); err != nil && err != io.EOF {
			t.Error(err)
		}
	}
}

const (
	plainReply = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nServer: x\r\nContent-Length: 256\r\n\r\n"
	plainGet   = "GET /v1/users?id=7 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: test/1.0\r\nAccept: */*\r\nCookie: a=b; c=d\r\nAccept-Encoding: gzip\r\n\r\n"
)

var paths = []struct {
	name, request, reply string
	body                 int
}{
	{"get", plainGet, plainReply + strings.Repeat("x", 256), 0},
	{"get chunked", plainGet, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 0},
	{
		"post", "POST /v1/users HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/json\r\nContent-Length: 512\r\n\r\n" + strings.Repeat("y", 512),
		plainReply + strings.Repeat("x", 256), 512,
	},
}

func TestProxyingDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates; only that it works is checked")
	}
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) {
			g := start(t, proxy.Settings{Timeouts: proxy.Timeouts{Request: time.Minute, Idle: time.Minute}}, fixed(t, p.body, p.reply))
			g.quiet = true
			do := roundTrips(t, g.addr, p.request)
			for range 100 {
				do()
			}
			if n := testing.AllocsPerRun(2000, do); n >= 1 && !raceEnabled {
				t.Errorf("%v allocations per request, want 0", n)
			}
		})
	}
}

func BenchmarkProxy(b *testing.B) {
	for _, p := range paths {
		b.Run(strings.ReplaceAll(p.name, " ", "_"), func(b *testing.B) {
			g := start(b, proxy.Settings{Timeouts: proxy.Timeouts{Request: time.Minute, Idle: time.Minute}}, fixed(b, p.body, p.reply))
			g.quiet = true
			do := roundTrips(b, g.addr, p.request)
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}
