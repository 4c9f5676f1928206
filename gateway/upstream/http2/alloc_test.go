package http2_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// roundTrip makes one small request.
func roundTrip(t testing.TB, p *http2.Pool, call *transport.Call, buf []byte) {
	c, err := p.Get(call, false)
	if err == nil {
		err = c.Do(call)
	}
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = c.Read(buf)
	}
	if err != io.EOF {
		t.Error(err)
	}
	c.Release()
}

func plain(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }

// What is ours allocates little; most of it is net/http's, on both ends here.
func TestRequestsDoNotAllocateWithoutBound(t *testing.T) {
	p := newPool(t, http2.Settings{}, serve(t, plain))
	call, buf := newCall(), make([]byte, 4096)
	call.Deadline, call.Idle = time.Now().Add(time.Minute), time.Minute
	for range 50 {
		roundTrip(t, p, call, buf)
	}
	if n := testing.AllocsPerRun(500, func() { roundTrip(t, p, call, buf) }); n > 70 {
		t.Errorf("%v allocations per request, client and server together", n)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	p := newPool(b, http2.Settings{}, serve(b, plain))
	call, buf := newCall(), make([]byte, 4096)
	call.Deadline, call.Idle = time.Now().Add(time.Hour), time.Minute
	b.ReportAllocs()
	for b.Loop() {
		roundTrip(b, p, call, buf)
	}
}

func BenchmarkParallel(b *testing.B) {
	p := newPool(b, http2.Settings{}, serve(b, plain))
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		call, buf := newCall(), make([]byte, 4096)
		for pb.Next() {
			roundTrip(b, p, call, buf)
		}
	})
}
