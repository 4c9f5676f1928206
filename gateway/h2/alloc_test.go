//go:build !race

package h2_test

import (
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// steady makes calls of a kind that gRPC makes: a small message each way, and
// trailers. Each of run makes one and reads the reply.
func steady(t testing.TB) (run func()) {
	gone, date, trailers := abort(func() {}), []byte("Mon, 01 Jan 2001 00:00:00 GMT"), []byte("Grpc-Status: 0\r\n")
	p := make([]byte, 200) // there is one call at a time
	addr, _ := start(t, quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		f.OnGone(gone)
		n, err := ctx.RequestBodyStream().Read(p)
		if n != 105 || err != io.EOF {
			t.Errorf("%d bytes, %v", n, err)
		}
		f.ReplyDate(date)
		ctx.Response.Header.SetContentType("application/grpc")
		ctx.Response.SetBodyRaw(p[:n:n])
		f.ReplyTrailers(trailers)
		f.OnGone(nil)
	}))
	c := dial(t, addr)
	_ = c.WriteWindowUpdate(0, 1<<30) // for all there will be
	head := []string{
		":method", "POST", ":scheme", "http", ":path", "/bench.Echo/Call", ":authority", "127.0.0.1:8080",
		"content-type", "application/grpc", "user-agent", "grpc-go/1.70", "te", "trailers",
	}
	id, message := uint32(1), make([]byte, 105)
	for range 5 { // until all fields are in the tables, and the first SETTINGS have gone
		c.open(id, false, head...)
		_ = c.WriteData(id, true, message)
		if a := c.await(id); len(a.body) != len(message) || !a.ended {
			t.Fatalf("got %+v", a)
		}
		id += 2
	}
	block := c.fields(head...)
	call := append([]byte{0, 0, byte(len(block)), byte(http2.FrameHeaders), 4, 0, 0, 0, 0}, block...)
	call = append(call, 0, 0, byte(len(message)), 0, 1, 0, 0, 0, 0)
	at := len(call) - 4
	call = append(call, message...)
	in := &frameReader{nc: c.nc}
	return func() {
		binary.BigEndian.PutUint32(call[5:], id)
		binary.BigEndian.PutUint32(call[at:], id)
		if _, err := c.nc.Write(call); err != nil {
			t.Fatal(err)
		}
		if err := in.until(id); err != nil {
			t.Fatal(err)
		}
		id += 2
	}
}

// frameReader reads without allocating.
type frameReader struct {
	nc  net.Conn
	buf [32 << 10]byte
	n   int
}

// until reads until the stream has ended.
func (r *frameReader) until(id uint32) error {
	for {
		for r.n >= 9 {
			size := 9 + (int(r.buf[0])<<16 | int(r.buf[1])<<8 | int(r.buf[2]))
			if r.n < size {
				break
			}
			kind, flags, stream := http2.FrameType(r.buf[3]), r.buf[4], binary.BigEndian.Uint32(r.buf[5:])
			r.n = copy(r.buf[:], r.buf[size:r.n])
			if (kind == http2.FrameData || kind == http2.FrameHeaders) && flags&1 != 0 && stream == id {
				return nil
			}
		}
		n, err := r.nc.Read(r.buf[r.n:])
		if err != nil {
			return err
		}
		r.n += n
	}
}

func TestAllocationsOfACall(t *testing.T) {
	run := steady(t)
	run()
	if n := testing.AllocsPerRun(1000, run); n > 0 {
		t.Errorf("%v allocations for a call, want none", n)
	}
}

func BenchmarkCall(b *testing.B) {
	run := steady(b)
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}
