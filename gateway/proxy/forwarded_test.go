package proxy_test

import (
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
)

// fields is a front that has nothing but header fields.
type fields struct {
	exchange.Front
	names, values [][]byte
}

func (f *fields) EachField(do func(name, value []byte) bool) {
	for i := range f.names {
		if !do(f.names[i], f.values[i]) {
			return
		}
	}
}

// forwarding returns a function that prepares a fresh request.
func forwarding() func() {
	ctx := &fasthttp.RequestCtx{}
	f := &fields{}
	e := &exchange.Exchange{Front: f, Peer: peer, Scheme: "https", TLS: &exchange.TLS{ClientCert: ":MA==:"}}
	for _, kv := range [][2]string{{"Host", "api.example.com"}, {"User-Agent", "x"}, {"Accept", "*/*"}, {"Accept-Encoding", "gzip"}, {"X-Request-Id", "1"}, {"Connection", "keep-alive"}} {
		f.names, f.values = append(f.names, []byte(kv[0])), append(f.values, []byte(kv[1]))
	}
	return func() {
		h := &ctx.Request.Header
		h.Reset()
		h.SetHost("api.example.com")
		for i := range f.names[1:5] {
			h.AddBytesKV(f.names[i+1], f.values[i+1])
		}
		proxy.SetForwarded(ctx, e, false)
	}
}

func TestSetForwardedDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(1000, forwarding()); n != 0 && !raceEnabled {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSetForwarded(b *testing.B) {
	f := forwarding()
	b.ReportAllocs()
	for b.Loop() {
		f()
	}
}
