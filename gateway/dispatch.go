package gateway

import (
	"bytes"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/route"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

// refuse is the route of a request that was refused before one was chosen.
var refuse = &exchange.Route{
	Chain: []fiber.Handler{func(c *fiber.Ctx) error { return exchange.From(c).Refusal }},
	Steps: []string{"dispatch"},
}

// serve is a request's way in: it works out what the request is, chooses its
// route and runs the chain. The reply is in ctx when it returns.
func (d *door) serve(ctx *fasthttp.RequestCtx, f exchange.Front) {
	b := d.acquire()
	g := d.gateway
	g.settings.Metrics.InFlight.Inc()
	e := exchange.Acquire(ctx, f, b)
	e.Start = ctx.Time()
	e.Scheme = "http"
	if a, ok := ctx.RemoteAddr().(*net.TCPAddr); ok {
		p := a.AddrPort()
		e.Peer = netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	l := b.listener
	if l == nil { // the listener has gone and this connection is told so
		g.run1(ctx, e, reason.Draining)
		ctx.Response.SetConnectionClose()
		return
	}
	e.Listener = l.Name
	e.Client = e.Peer.Addr()
	if e.Trusted = l.Trust.Trusts(e.Client); e.Trusted {
		e.Client, e.Scheme = l.Trust.Origin(e.Client, e.Scheme, &ctx.Request.Header)
	}
	if why := locate(ctx, e, l.Rules); why != nil {
		g.run1(ctx, e, why)
		return
	}
	e.Route = l.NoRoute
	q := route.Query{Host: e.Host, Path: e.Path, Method: ctx.Method(), Header: &ctx.Request.Header, Args: e.Query}
	if r, ok := l.Routes.Lookup(&q); ok {
		e.Route = r
	}
	if t := g.settings.Tracer; t != nil {
		e.Trace, e.Span = t.Begin(&ctx.Request.Header, e.Route.Name)
	}
	proxy.SetForwarded(ctx, e, e.Trusted)
	g.run(ctx)
}

// run1 answers with a refusal that no plugin sees.
func (g *Gateway) run1(ctx *fasthttp.RequestCtx, e *exchange.Exchange, why *reason.Reason) {
	e.Refusal = &reason.Refusal{Reason: why}
	e.Route = refuse
	g.run(ctx)
}

// locate computes host, path and query once, for everybody. What cannot be
// used in place is built in the exchange's scratch memory.
func locate(ctx *fasthttp.RequestCtx, e *exchange.Exchange, rules target.Rules) *reason.Reason {
	uri := ctx.Request.Header.RequestURI()
	path, query := uri, []byte(nil)
	if i := bytes.IndexByte(uri, '?'); i >= 0 {
		path, query = uri[:i], uri[i+1:]
	}
	host := ctx.Request.Header.Host()
	if need := len(host) + 3*len(path); cap(e.Scratch) < need {
		e.Scratch = make([]byte, 0, max(need, 256))
	}
	e.Scratch = e.Scratch[:len(host)+3*len(path)]
	name, _ := target.Host(e.Scratch[:0], host)
	e.Host = borrow(name)
	e.Query = borrow(query)
	if len(path) == 1 && path[0] == '*' {
		e.Path = "*"
		return nil
	}
	clean, why := target.Normalize(e.Scratch[len(host):len(host)], path, rules)
	e.Path = borrow(clean)
	return why
}

// borrow makes a string of bytes that live as long as the request.
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Finish implements exchange.Owner: the request is over, in whatever way.
func (b *binding) Finish(e *exchange.Exchange) {
	g := b.door.gateway
	took := time.Since(e.Start)
	status := e.Ctx.Response.StatusCode()
	in, out := e.Front.RequestBytes(), e.Front.ReplyBytes()
	if e.Route != nil && e.Route.Recorder != nil {
		e.Route.Recorder.Record(status, took, in, out)
	}
	if e.Refusal != nil {
		g.settings.Metrics.Refusal(e.Refusal.Reason.Name)
	}
	if e.Span != nil {
		endSpan(e, status, in, out)
	}
	if log := g.settings.AccessLog; log != nil {
		g.logRequest(log, e, status, took, in, out)
	}
	g.settings.Metrics.InFlight.Dec()
	b.snapshot.Release()
}
