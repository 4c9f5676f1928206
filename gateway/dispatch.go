package gateway

import (
	"bytes"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/route"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

// refused is the route of a request that was refused before one was chosen.
var refused = &exchange.Route{}

// serve is a request's way in: it works out what the request is, chooses its
// route and runs the chain. The reply is in ctx when it returns.
func (d *door) serve(ctx *fasthttp.RequestCtx, f exchange.Front) {
	b := d.acquire()
	if b == nil {
		f.Cut() // the gateway was closed under a connection that did not end in time
		return
	}
	b.dispatch(ctx, f)
	if b.altSvc != nil {
		ctx.Response.Header.SetBytesV("Alt-Svc", b.altSvc) // what an upstream says of itself means nothing here
	}
}

// dispatch makes the reply.
func (b *binding) dispatch(ctx *fasthttp.RequestCtx, f exchange.Front) {
	g := b.door.gateway
	g.settings.Metrics.InFlight.Inc()
	e := exchange.Acquire(ctx, f, b)
	e.Start = ctx.Time()
	e.Scheme = "http"
	if s, ok := f.(exchange.Secured); ok {
		if e.TLS = s.TLS(); e.TLS != nil {
			e.Scheme = "https"
		}
	}
	if a, ok := ctx.RemoteAddr().(*net.TCPAddr); ok {
		p := a.AddrPort()
		e.Peer = netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	broken := e.BeginRPC()
	l := b.listener
	if l == nil { // the listener has gone and this connection is told so
		refuse(ctx, e, reason.Draining)
		ctx.Response.SetConnectionClose()
		return
	}
	e.Listener = l.Name
	e.Client = e.Peer.Addr()
	if e.Trusted = l.Trust.Trusts(e.Client); e.Trusted {
		e.Client, e.Scheme = l.Trust.Origin(e.Client, e.Scheme, &ctx.Request.Header)
	}
	if why := locate(ctx, e, l.Rules); why != nil {
		refuse(ctx, e, why)
		return
	}
	if l.TLS != nil && !l.TLS.Admits(e.TLS) { // since the connection was made, the rules have changed
		refuse(ctx, e, reason.TLSClientCertificate)
		ctx.Response.SetConnectionClose()
		return
	}
	if broken != nil {
		refuse(ctx, e, broken)
		return
	}
	if g.answerChallenge(ctx, e) {
		return
	}
	e.Route = choose(ctx, e, l)
	if t := g.settings.Tracer; t != nil {
		e.Trace, e.Span = t.Begin(&ctx.Request.Header, e.Route.Name)
	}
	proxy.SetForwarded(ctx, e, e.Trusted)
	g.run(ctx)
	if saysTunnel(ctx, f) {
		e.RefusedBy = "dispatch"
		pipeline.Refuse(ctx, e, reason.UpstreamNoUpgrade.Because("the answer to an extended CONNECT was %d, by which its client would take the body for a tunnel", ctx.Response.StatusCode()))
	}
}

// saysTunnel reports an answer without a tunnel by which the client would
// believe that it has one: over HTTP/1 that is status 101 only, but any success
// of an extended CONNECT (RFC 8441, 5). Pages must not become WebSockets.
func saysTunnel(ctx *fasthttp.RequestCtx, f exchange.Front) bool {
	return extendedConnect(f) && ctx.LastTimeoutErrorResponse() == nil && ctx.Response.StatusCode()/100 == 2
}

// extendedConnect reports what the servers of HTTP/2 and HTTP/3 hand on as a GET
// that wants to switch protocols.
func extendedConnect(f exchange.Front) bool {
	_, ok := f.WantsUpgrade()
	return ok && f.Protocol() >= "HTTP/2"
}

// choose finds a request's route.
func choose(ctx *fasthttp.RequestCtx, e *exchange.Exchange, l *snapshot.Listener) *exchange.Route {
	if l.Redirect != nil && e.Scheme != "https" {
		return l.Redirect
	}
	q := route.Query{Host: e.Host, Path: e.Path, Method: ctx.Method(), Header: &ctx.Request.Header, Args: e.Query}
	if r, ok := l.Routes.Lookup(&q); ok {
		return r
	}
	return l.NoRoute
}

// refuse answers a request that gets into no chain.
func refuse(ctx *fasthttp.RequestCtx, e *exchange.Exchange, why *reason.Reason) {
	e.Route, e.RefusedBy = refused, "dispatch"
	pipeline.Refuse(ctx, e, why)
}

// locate computes host, path and query once, for everybody. They are kept in
// the exchange's scratch memory: whatever a plugin does to the raw request, it
// was routed and is forwarded by these.
func locate(ctx *fasthttp.RequestCtx, e *exchange.Exchange, rules target.Rules) *reason.Reason {
	h := &ctx.Request.Header
	host := h.Host()
	path, query, _ := bytes.Cut(h.RequestURI(), []byte{'?'})
	longest := 3 * len(path) // every byte as an escape
	if need := len(host) + longest + len(query); cap(e.Scratch) < need {
		e.Scratch = make([]byte, 0, max(need, 256))
	} else {
		e.Scratch = e.Scratch[:0]
	}
	mem := e.Scratch[:len(host)+longest+len(query)]
	e.Scratch = mem
	forHost, mem := mem[:len(host):len(host)], mem[len(host):]
	forPath, forQuery := mem[:longest:longest], mem[longest:]

	name, _ := target.Host(forHost[:0], host)
	e.Host = keep(forHost, name)
	e.Query = keep(forQuery, query)
	clean, why := target.Normalize(forPath[:0], path, rules)
	if why != nil {
		e.Path = keep(forPath, path) // for the log: the request goes nowhere
		return why
	}
	e.Path = keep(forPath, clean)
	if !pipeline.KnowsMethod(ctx.Method()) {
		return reason.MethodRefused
	}
	return nil
}

// keep copies b into mem, where it may be already.
func keep(mem, b []byte) string { return borrow(mem[:copy(mem, b)]) }

// borrow makes a string of bytes that live as long as the request.
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Finish implements exchange.Owner: the request is over, in whatever way.
func (b *binding) Finish(e *exchange.Exchange) {
	g := b.door.gateway
	took := time.Since(e.Start)
	status := e.Ctx.Response.StatusCode()
	in, out := e.Front.RequestBytes()+e.Tunnel.Received, e.Front.ReplyBytes()+e.Tunnel.Sent
	if e.Route != nil && e.Route.Recorder != nil {
		e.Route.Recorder.Record(status, took, in, out)
		if e.RPC.Kind != grpc.None {
			c, known := e.RPC.Status(e.Refusal, status)
			e.Route.Recorder.RecordCall(uint8(c), known)
		}
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
