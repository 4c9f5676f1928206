//go:build !race

package bridge_test

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/bridge"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// steady is a browser's request and about what a proxy does with the front.
func steady(t testing.TB) (run func()) {
	gone, date := abort(func() {}), []byte("Mon, 01 Jan 2001 00:00:00 GMT")
	body := []byte(strings.Repeat("x", 100))
	s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		f.OnGone(gone)
		f.ReplyDate(date)
		f.OnGone(nil)
		h := &ctx.Response.Header
		h.SetContentType("application/json")
		h.Set("Server", "app")
		h.Set("Cache-Control", "private")
		ctx.Response.SetBodyRaw(body)
	})
	b := bridge.New(s)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
	r, err := http.NewRequest("GET", "http://api.test/v1/users?id=42", nil)
	if err != nil {
		t.Fatal(err)
	}
	r = r.WithContext(bridge.NewContext(r.Context(), &bridge.Conn{Face: exchange.Face{Local: addr, Remote: addr}}))
	r.RequestURI, r.ProtoMajor, r.Proto = "/v1/users?id=42", 2, "HTTP/2.0"
	r.Header = http.Header{
		"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"}, "Accept": {"application/json"},
		"Accept-Encoding": {"gzip, br"}, "Cookie": {"a=b; c=d"},
	}
	w := &null{http.Header{}}
	return func() {
		clear(w.h)
		b.ServeHTTP(w, r)
	}
}

// maxAllocs are the reply's values, a number among them, and the list of them,
// all of which the server may keep.
const maxAllocs = 6

func TestAllocationsOfARequest(t *testing.T) {
	run := steady(t)
	run()
	if n := testing.AllocsPerRun(1000, run); n > maxAllocs {
		t.Errorf("%v allocations for a request, want at most %d", n, maxAllocs)
	}
}

func BenchmarkBridge(b *testing.B) {
	run := steady(b)
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}
