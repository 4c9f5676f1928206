package gateway

import (
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// challenged is the route of an authority that asks for a challenge's answer.
var challenged = &exchange.Route{Name: "acme_challenge"}

// answerChallenge answers a certificate authority that makes sure that a host
// is ours, ahead of routes, redirects and plugins: an access rule, or the
// redirect to the very https that has no certificate yet, must not be in its
// way. Only the token of a pending challenge is answered, and only to who reads:
// to a CONNECT, which is like any other, the answer would say that it has a tunnel.
func (g *Gateway) answerChallenge(ctx *fasthttp.RequestCtx, e *exchange.Exchange) bool {
	if g.settings.Challenge == nil || !ctx.IsGet() {
		return false
	}
	answer, ok := g.settings.Challenge(e.Path)
	if !ok || extendedConnect(e.Front) {
		return false
	}
	e.Route = challenged
	ctx.SetContentType("application/octet-stream") // as RFC 8555, 8.3
	ctx.Response.Header.Set("Cache-Control", "no-store")
	ctx.SetBodyString(answer)
	return true
}
