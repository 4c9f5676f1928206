package http1_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// A body that does not fit into the kernel's buffers while the endpoint has
// answered and reads no more.
func TestEarlyReplyToALargeBody(t *testing.T) {
	each(t, func(t *testing.T, s http1.Settings) {
		seen := make(chan struct{})
		p := newPool(t, s, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
			readHead(r)
			io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
			<-seen
		}))
		call := &transport.Call{
			Head: []byte("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 33554432\r\n\r\n"),
			Body: make([]byte, 32<<20), Idle: time.Minute,
		}
		c, err := p.Get(call, false)
		if err == nil {
			err = c.Do(call)
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(c)
		close(seen) // before Release, which waits until the kernel has taken the body
		c.Release()
		if err != nil || string(body) != "big" {
			t.Fatalf("%q, %v", body, err)
		}
	})
}

func TestHeadsSplitAtEveryByte(t *testing.T) {
	const reply = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n"
	each(t, func(t *testing.T, s http1.Settings) {
		at := make(chan int, 1)
		p := newPool(t, s, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
			for readHead(r) {
				n := <-at
				io.WriteString(c, reply[:n])
				time.Sleep(time.Millisecond)
				io.WriteString(c, reply[n:])
			}
		}))
		for n := 1; n < len(reply); n++ {
			at <- n
			call := newCall()
			c, err := p.Get(call, false)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Do(call); err != nil {
				t.Fatalf("split at %d: %v", n, err)
			}
			b, err := io.ReadAll(c)
			if err != nil || string(b) != "abcde" || string(c.Trailers()) != "T: u\r\n" {
				t.Fatalf("split at %d: %q, %q, %v", n, b, c.Trailers(), err)
			}
			c.Release()
		}
		if s := p.Stats(); s.Open != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Whole takes what has come together with the head, and nothing else.
func TestWhole(t *testing.T) {
	for _, tc := range []struct {
		reply string
		want  string
		whole bool
	}{
		{ok, "ok", true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "", false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3\r\nay!\r\n0\r\n\r\n", "okay!", true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nT: x\r\n\r\n", "", false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "", false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + strings.Repeat("x", 30), "", false}, // above the limit
	} {
		p := newPool(t, http1.Settings{}, server(t, func(_ int, c net.Conn, r *bufio.Reader) {
			readHead(r)
			io.WriteString(c, tc.reply)
			readHead(r)
		}))
		call := newCall()
		c, err := p.Get(call, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Do(call); err != nil {
			t.Fatal(err)
		}
		b, whole := c.Whole(25)
		if whole != tc.whole || string(b) != tc.want {
			t.Errorf("%q: %q, %v", tc.reply, b, whole)
		}
		c.Release()
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	f := roundTrip(b, http1.Settings{})
	b.ReportAllocs()
	for b.Loop() {
		f()
	}
}
