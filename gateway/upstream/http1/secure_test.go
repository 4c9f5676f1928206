package http1_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

const reply256 = "HTTP/1.1 200 OK\r\nContent-Length: 256\r\n\r\n"

// answers is a server that answers every read with the same 256 bytes, without
// allocating.
func answers(t testing.TB) string {
	reply := []byte(reply256 + strings.Repeat("x", 256))
	return server(t, func(_ int, c net.Conn, r *bufio.Reader) {
		buf := make([]byte, 4<<10)
		for {
			if _, err := r.Read(buf); err != nil {
				return
			}
			c.Write(reply)
		}
	})
}

// roundTrip returns a function that makes one request on a pool.
func roundTrip(t testing.TB, s http1.Settings) func() {
	p := newPool(t, s, answers(t))
	call := newCall()
	call.Deadline, call.Idle = time.Now().Add(time.Hour), time.Minute
	return func() {
		c, err := p.Get(call, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Do(call); err != nil {
			t.Fatal(err)
		}
		if _, whole := c.Whole(1 << 10); !whole {
			t.Fatal("the reply is not whole")
		}
		c.Release()
	}
}

// bare returns a function that does the same with nothing but crypto/tls, and
// looks once whether the connection is still good.
func bare(t testing.TB, s http1.Settings) func() {
	c, err := s.Dial(t.Context(), "tcp", answers(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	head, buf := newCall().Head, make([]byte, 8<<10)
	return func() {
		c.(interface{ Quiet() bool }).Quiet()
		c.Write(head)
		for n := 0; n < len(reply256)+256; {
			m, err := c.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
	}
}

// Over TLS a request allocates what crypto/tls does, and no more.
func TestTLSAllocatesOnlyWhatTLSDoes(t *testing.T) {
	s := secure(t)
	ours, theirs := roundTrip(t, s), bare(t, s)
	for range 100 {
		ours()
		theirs()
	}
	// The server's allocations are in both.
	got, want := testing.AllocsPerRun(500, ours), testing.AllocsPerRun(500, theirs)
	if got > want && !raceEnabled {
		t.Errorf("%v allocations, crypto/tls alone %v", got, want)
	}
}

func BenchmarkRoundTripTLS(b *testing.B) {
	s := secure(b)
	for name, f := range map[string]func(){"pool": roundTrip(b, s), "crypto": bare(b, s)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}

// An endpoint that sends tickets and new keys at any time is not taken for one
// that has gone.
func TestTicketsDoNotSpoilAConnection(t *testing.T) {
	p := newPool(t, secure(t), plain(t)) // whose tickets come behind the handshake, to be read at some time
	for i := range 20 {
		if _, reused, err := do(p, newCall()); err != nil || reused != (i > 0) {
			t.Fatalf("request %d: reused %v, %v", i, reused, err)
		}
	}
	if open, connects, _ := p.Counts(); open != 1 || connects != 1 {
		t.Errorf("%d open of %d", open, connects)
	}
}

// A server that says goodbye right behind its reply, as one does that shuts
// down: no request is sent to it any more, and none is lost.
func TestGoodbyeBehindAReply(t *testing.T) {
	said := make(chan struct{}, 10)
	p := newPool(t, secure(t), server(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if readHead(r) {
			io.WriteString(c, ok)
			c.(*tls.Conn).CloseWrite()
			said <- struct{}{}
			if readHead(r) {
				t.Error("a request came after the goodbye")
			}
		}
	}))
	for range 10 {
		_, _, err := do(p, newCall())
		var f *transport.Failure
		if errors.As(err, &f) && f.Stale && f.Unsent {
			_, _, err = do(p, newCall())
		}
		if err != nil {
			t.Fatal(err)
		}
		<-said
		time.Sleep(time.Millisecond) // what was written to loopback is there
	}
}

// What is refused for want of a certificate was not sent, as far as the
// endpoint is concerned.
func TestRefusedCertificateIsUnsent(t *testing.T) {
	s := secure(t)
	asking := identity.Clone()
	asking.ClientAuth = tls.RequireAnyClientCert
	ln, err := tls.Listen("tcp", "127.0.0.1:0", asking)
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
			c.(*tls.Conn).Handshake()
			c.(*tls.Conn).NetConn().(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c.(*tls.Conn).NetConn())
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	p := newPool(t, s, ln.Addr().String())
	for _, call := range []*transport.Call{newCall(), {
		Head: []byte("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\n"), Body: []byte("abc"),
	}} {
		_, _, err := do(p, call)
		if f := failure(t, err); f.Reason != reason.UpstreamTLS || !f.Unsent || f.Stale || f.Error() != "the endpoint requires a client certificate" {
			t.Errorf("%+v: %v", f, f)
		}
	}
}
