package gateway

import (
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
)

// Door is one address without a socket, for tests of dispatch alone.
func Door(g *Gateway, address string) func(ctx *fasthttp.RequestCtx, f exchange.Front) {
	return (&door{gateway: g, address: address}).serve
}

// SetCurrent makes s current without binding anything.
func SetCurrent(g *Gateway, s *snapshot.Snapshot) { g.current.Store(s) }
