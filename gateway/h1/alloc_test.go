//go:build !race

package h1_test

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
)

const browserRequest = "GET /api/v1/users?id=42 HTTP/1.1\r\nHost: 127.0.0.1:8301\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: application/json\r\nAccept-Encoding: gzip, br\r\nCookie: a=b; c=d\r\n\r\n"

// roundTrips sends request and reads a reply of a known length.
type roundTrips struct {
	t       testing.TB
	nc      net.Conn
	request []byte
	buf     []byte
}

func newRoundTrips(t testing.TB, addr, request string) *roundTrips {
	c := dial(t, addr)
	rt := &roundTrips{t, c.TCPConn, []byte(request), make([]byte, 64<<10)}
	rt.send()
	n, err := c.Read(rt.buf)
	if err != nil || !bytes.HasPrefix(rt.buf, []byte("HTTP/1.1 200 ")) {
		t.Fatalf("%q, %v", rt.buf[:n], err)
	}
	rt.buf = rt.buf[:n]
	return rt
}

func (rt *roundTrips) send() {
	if _, err := rt.nc.Write(rt.request); err != nil {
		rt.t.Fatal(err)
	}
}

func (rt *roundTrips) do() {
	rt.send()
	if _, err := io.ReadFull(rt.nc, rt.buf); err != nil {
		rt.t.Fatal(err)
	}
}

// plain is about what a proxy does with the front, without a proxy.
func plain(body []byte) handler {
	gone, date := aborter{}, []byte("Mon, 01 Jan 2001 00:00:00 GMT")
	return func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		f.OnGone(gone)
		f.Whole()
		f.ReplyDate(date)
		f.OnGone(nil)
		ctx.Response.Header.Set("X-A", "b")
		ctx.Response.SetBodyRaw(body)
	}
}

type aborter struct{}

func (aborter) Abort() {}

func TestSteadyRequestsDoNotAllocate(t *testing.T) {
	for name, request := range map[string]string{
		"GET":        browserRequest,
		"small POST": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
		"chunked":    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"pipelined":  "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		handle, scratch := plain([]byte("hello")), make([]byte, 64)
		addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
			handle(ctx, f)
			if f.HasBody() {
				for s := ctx.RequestBodyStream(); ; {
					if _, err := s.Read(scratch); err != nil {
						break
					}
				}
			}
		}))
		rt := newRoundTrips(t, addr, request)
		if name == "pipelined" { // two replies, which may come in one segment or two
			n := len(rt.buf)
			rt.buf = rt.buf[:cap(rt.buf)]
			if bytes.Count(rt.buf[:n], []byte("HTTP/1.1 ")) == 1 {
				if _, err := io.ReadFull(rt.nc, rt.buf[n:2*n]); err != nil {
					t.Fatal(err)
				}
				n *= 2
			}
			rt.buf = rt.buf[:n]
		}
		for range 100 {
			rt.do()
		}
		if n := testing.AllocsPerRun(2000, rt.do); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkRequestOverLoopback(b *testing.B) {
	addr, _ := start(b, settings(plain(make([]byte, 256))))
	rt := newRoundTrips(b, addr, browserRequest)
	b.ReportAllocs()
	for b.Loop() {
		rt.do()
	}
}

// 16 requests in one segment: what the loop costs besides system calls.
func BenchmarkPipelinedRequest(b *testing.B) {
	addr, _ := start(b, settings(plain(make([]byte, 256))))
	one := newRoundTrips(b, addr, browserRequest)
	one.request = bytes.Repeat(one.request, 16)
	one.buf = make([]byte, 16*len(one.buf))
	b.ReportAllocs()
	for b.Loop() {
		one.do()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/16, "ns/request")
}

// What every tick (100 ms) costs a server with 10 000 connections.
func BenchmarkSweepTenThousand(b *testing.B) {
	srv := h1.New(settings(echo))
	conns := make([]net.Conn, 10_000)
	for i := range conns {
		ours, theirs := net.Pipe()
		srv.ServeConn(theirs)
		conns[i] = ours
	}
	b.ReportAllocs()
	for b.Loop() {
		srv.SweepOnce()
	}
	for _, nc := range conns {
		nc.Close()
	}
	if err := srv.Close(); err != nil {
		b.Error(err)
	}
}
