package http2_test

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// echo answers every request with the same reply, and allocates nothing itself.
func echo(t testing.TB) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { answer(nc) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func answer(nc net.Conn) {
	defer nc.Close()
	if _, err := io.CopyN(io.Discard, nc, int64(len(frames.Preface))); err != nil {
		return
	}
	r, e := frames.NewReader(nc, nil), frames.NewEncoder()
	block := make([]byte, 0, 4096)
	out := frames.AppendSettings(nil)
	for {
		if !r.Buffered() && len(out) > 0 {
			if _, err := nc.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
		f, err := r.Next()
		if err != nil {
			return
		}
		if (f.Type == frames.Headers || f.Type == frames.Data) && f.Ended() {
			block = e.Append(e.Append(e.Begin(block[:0]), ":status", "200"), "content-type", "application/grpc")
			out = frames.AppendBlock(out, f.Stream, false, block, frames.MinFrame)
			out = frames.AppendData(out, f.Stream, false, f.Payload)
			block = e.Append(e.Append(e.Begin(block[:0]), "grpc-status", "0"), "grpc-message", "")
			out = frames.AppendBlock(out, f.Stream, true, block, frames.MinFrame)
			out = frames.AppendWindowUpdate(out, 0, int32(max(1, len(f.Payload))))
		}
	}
}

// unary is a small call, as gRPC makes them.
func unary() *transport.Call {
	h := head("POST /bench.Echo/Call", "Content-Type: application/grpc", "TE: trailers", "Content-Length: 105",
		"Forwarded: for=127.0.0.1;proto=http", "X-Forwarded-For: 127.0.0.1", "Via: 2.0 gatehouse")
	return &transport.Call{
		Head: append(h, make([]byte, 105)...), Trailers: true,
		Deadline: time.Now().Add(time.Hour), Idle: time.Minute,
	}
}

// roundTrip makes one small request.
func roundTrip(t testing.TB, p *http2.Pool, call *transport.Call, buf []byte) {
	c, err := p.Get(call, false)
	if err == nil {
		err = c.Do(call)
	}
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for err == nil {
		var m int
		m, err = c.Read(buf)
		n += m
	}
	if err != io.EOF || n != 105 || len(c.Trailers()) == 0 {
		t.Errorf("%d bytes, %v", n, err)
	}
	c.Release()
}

func TestSmallCallsDoNotAllocate(t *testing.T) {
	p := newPool(t, http2.Settings{}, echo(t))
	call, buf := unary(), make([]byte, 4096)
	for range 100 {
		roundTrip(t, p, call, buf)
	}
	if n := testing.AllocsPerRun(1000, func() { roundTrip(t, p, call, buf) }); n >= 1 && !raceEnabled {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	p := newPool(b, http2.Settings{}, echo(b))
	call, buf := unary(), make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		roundTrip(b, p, call, buf)
	}
}

func BenchmarkParallel(b *testing.B) {
	p := newPool(b, http2.Settings{}, echo(b))
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		call, buf := unary(), make([]byte, 4096)
		for pb.Next() {
			roundTrip(b, p, call, buf)
		}
	})
}
