package gateway

import (
	"fmt"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/route"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
)

// Explanation tells what dispatch makes of a request, without running it.
type Explanation struct {
	// Host and Path are what routing, plugins and upstream would see.
	Host, Path string
	// Route is the name of the chosen route; empty for none.
	Route string
	// Refused says why no route was looked for.
	Refused string
	// Candidates are the routes looked at, in order of precedence, up to the
	// chosen one.
	Candidates []route.Step
}

// Explain asks a listener of a snapshot about a request. Only method, target,
// Host and the other fields of h count.
func Explain(l *snapshot.Listener, h *fasthttp.RequestHeader) Explanation {
	var ctx fasthttp.RequestCtx
	h.CopyTo(&ctx.Request.Header)
	var e exchange.Exchange
	if why := locate(&ctx, &e, l.Rules); why != nil {
		return Explanation{Refused: fmt.Sprintf("%d %s", why.Status, why.Name)}
	}
	q := route.Query{Host: e.Host, Path: e.Path, Method: ctx.Method(), Header: &ctx.Request.Header, Args: e.Query}
	x := Explanation{Host: e.Host, Path: e.Path, Candidates: l.Routes.Explain(&q)}
	if r, ok := l.Routes.Lookup(&q); ok {
		x.Route = r.Name
	}
	return x
}
