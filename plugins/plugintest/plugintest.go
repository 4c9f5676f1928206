// Package plugintest runs plugins through the real pipeline without a socket,
// and holds every plugin to the same contract (Run).
package plugintest

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// Reply is what came out of a chain.
type Reply struct {
	Status  int
	Header  *fasthttp.ResponseHeader
	Body    string
	Refusal *reason.Refusal // why Gatehouse answered, nil if the last handler did
}

// Request is one request through a chain. Raw is a complete HTTP/1.1 request.
type Request struct {
	Raw    string
	Client string                   // client address, default 192.0.2.1
	Path   string                   // normalised path, default the target's
	Edit   func(*exchange.Exchange) // runs before the chain
	After  func(*exchange.Exchange) // runs after the reply is complete, before Close
}

// handler is one pipeline for all tests: building one costs more than most tests.
var handler = sync.OnceValue(func() fasthttp.RequestHandler {
	return pipeline.New(func(e *exchange.Exchange, v any, stack []byte) {
		if t, ok := reporters.Load(e); ok {
			t.(testing.TB).Errorf("panic: %v\n%s", v, stack)
		}
	})
})

// reporters says whose test an exchange belongs to, for panics.
var reporters sync.Map

// Upstream answers every request that reaches it with 200 "upstream".
func Upstream(c *fiber.Ctx) error {
	plugin := exchange.From(c)
	plugin.Upstream.Status = 200
	return c.SendString("upstream")
}

// Do sends one request through chain, whose last handler must answer.
func Do(t testing.TB, req Request, chain ...fiber.Handler) Reply {
	t.Helper()
	var head wire.Head
	n, why := head.Parse([]byte(req.Raw), &wire.Limits{Head: 64 << 10, Fields: 100, URI: 8 << 10})
	if why != nil {
		t.Fatalf("plugintest: request refused by the parser: %v", why)
	}
	f := &front{head: &head, src: source{b: []byte(req.Raw)[n:]}}
	f.body.Start(&f.src, head.Chunked, head.ContentLength, 0)
	client := netip.MustParseAddr("192.0.2.1")
	if req.Client != "" {
		client = netip.MustParseAddr(req.Client)
	}
	var ctx fasthttp.RequestCtx
	ctx.Init2(conn{client}, nil, false)
	fill(&ctx, f)
	e := exchange.Acquire(&ctx, f, nil)
	e.Start, e.Listener, e.Scheme = time.Now(), "test", "http"
	e.Client, e.Peer = client, netip.AddrPortFrom(client, 40000)
	e.Host = string(bytes.ToLower(head.Host))
	path, query, _ := bytes.Cut(head.Target, []byte("?"))
	e.Path, e.Query = string(path), string(query)
	if req.Path != "" {
		e.Path = req.Path
	}
	steps := make([]string, len(chain))
	e.Route = &exchange.Route{Name: "test", Chain: chain, Steps: steps}
	_ = e.BeginRPC() // a call that cannot be made gets into no chain
	if req.Edit != nil {
		req.Edit(e)
	}
	reporters.Store(e, t)
	handler()(&ctx)
	reporters.Delete(e) // before e is recycled
	r := Reply{Status: ctx.Response.StatusCode(), Header: &fasthttp.ResponseHeader{}, Refusal: e.Refusal}
	ctx.Response.Header.CopyTo(r.Header)
	if ctx.Response.IsBodyStream() {
		b, err := io.ReadAll(ctx.Response.BodyStream())
		if err != nil {
			t.Errorf("plugintest: reply body: %v", err)
		}
		r.Body = string(b)
	} else {
		r.Body = string(ctx.Response.Body())
	}
	if req.After != nil {
		req.After(e)
	}
	ctx.Request.Reset() // closes the exchange
	ctx.Response.Reset()
	return r
}

func fill(ctx *fasthttp.RequestCtx, f *front) {
	h, q := f.head, &ctx.Request.Header
	q.SetNoDefaultContentType(true)
	ctx.Response.Header.SetNoDefaultContentType(true)
	q.SetMethodBytes(h.Method)
	q.SetRequestURIBytes(h.Target)
	q.SetHostBytes(h.Host)
	for i, fl := range h.Fields {
		if !h.Special(i) {
			q.AddBytesKV(h.Raw[fl.N0:fl.N1], h.Raw[fl.V0:fl.V1])
		}
	}
	if f.HasBody() {
		n := int(h.ContentLength)
		if h.Chunked {
			n = -1
		}
		ctx.Request.SetBodyStream(&f.body, n)
	}
}

type source struct{ b []byte }

func (s *source) Buffered() []byte           { return s.b }
func (s *source) Consume(n int)              { s.b = s.b[n:] }
func (s *source) More() error                { return io.EOF }
func (s *source) Direct([]byte) (int, error) { return 0, io.EOF }

// front is exchange.Front over a parsed request in memory.
type front struct {
	head *wire.Head
	body wire.Body
	src  source
}

var _ exchange.Front = (*front)(nil)

func (f *front) Protocol() string  { return "HTTP/1.1" }
func (f *front) RawTarget() []byte { return f.head.RawTarget }
func (f *front) EachField(do func(name, value []byte) bool) {
	for _, fl := range f.head.Fields {
		if !do(f.head.Raw[fl.N0:fl.N1], f.head.Raw[fl.V0:fl.V1]) {
			return
		}
	}
}

func (f *front) HasBody() bool                  { return f.head.Chunked || f.head.ContentLength > 0 }
func (f *front) Whole() []byte                  { return f.body.Whole() }
func (f *front) BodyDone() bool                 { return f.body.AtEOF() }
func (f *front) LimitBody(n int64)              { f.body.Limit(n) }
func (f *front) RequestTrailers() []byte        { return f.body.Trailers }
func (f *front) InterruptBody()                 {}
func (f *front) OnGone(exchange.Aborter)        {}
func (f *front) Inform(int, []byte) error       { return nil }
func (f *front) ReplyDate([]byte)               {}
func (f *front) ReplyTrailers([]byte)           {}
func (f *front) WantsUpgrade() ([]byte, bool)   { return f.head.Protocol, f.head.WantsUpgrade }
func (f *front) Upgrade(func(net.Conn, []byte)) {}
func (f *front) ReplyBytes() int64              { return 0 }
func (f *front) RequestBytes() int64            { return f.body.Count }
func (f *front) Cut()                           {}

type conn struct{ client netip.Addr }

func (conn) Read([]byte) (int, error)    { return 0, io.EOF }
func (conn) Write(p []byte) (int, error) { return len(p), nil }
func (conn) Close() error                { return nil }
func (conn) LocalAddr() net.Addr         { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

func (c conn) RemoteAddr() net.Addr           { return &net.TCPAddr{IP: c.client.AsSlice(), Port: 40000} }
func (conn) SetDeadline(time.Time) error      { return nil }
func (conn) SetReadDeadline(time.Time) error  { return nil }
func (conn) SetWriteDeadline(time.Time) error { return nil }
