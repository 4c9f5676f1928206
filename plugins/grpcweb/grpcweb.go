package grpcweb

import (
	"bytes"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Factory makes grpc_web instances.
func Factory() plugins.Factory {
	return plugins.Define("grpc_web", func(c *Config, s plugins.Settings) (plugins.Instance, error) {
		calls := s.Counter("gatehouse_grpc_web_calls_total", "Calls translated, by how the client encodes them.", "route", "mode")
		p := &plugin{
			longest: int64(c.MaxMessage),
			binary:  calls.WithLabelValues(s.Route.Name, "binary"),
			text:    calls.WithLabelValues(s.Route.Name, "text"),
		}
		return plugins.Stateless(p.handle), nil
	})
}

type plugin struct {
	longest      int64
	binary, text prometheus.Counter
}

func (p *plugin) handle(c *fiber.Ctx) error {
	ctx, e := c.Context(), exchange.From(c)
	kind := e.RPC.Kind
	if !kind.IsWeb() || !ctx.IsPost() {
		return c.Next()
	}
	answer := answerKind(&ctx.Request.Header, kind)
	if err := p.request(ctx, e, kind); err != nil {
		return err
	}
	f := &front{Front: e.Front}
	e.Front = f
	err := p.native(c, e)
	if !f.reply(&ctx.Response, answer) {
		return reason.Internal.Because("a reply of type %T cannot be translated", ctx.Response.BodyStream())
	}
	return err
}

// native runs the rest of the chain, for which the call is one of gRPC proper.
// The client's own form comes back even after a panic, whose refusal it gets.
func (p *plugin) native(c *fiber.Ctx, e *exchange.Exchange) error {
	defer func(k grpc.Kind) { e.RPC.Kind = k }(e.RPC.Kind)
	e.RPC.Kind = grpc.Native
	return c.Next()
}

// answerKind is the form the client wants the reply in: what it accepts, or
// else the one it sends.
func answerKind(h *fasthttp.RequestHeader, sent grpc.Kind) grpc.Kind {
	accept := h.Peek(fasthttp.HeaderAccept)
	for len(accept) > 0 {
		var one []byte
		one, accept, _ = bytes.Cut(accept, []byte(","))
		if k, _ := grpc.KindOf(bytes.TrimSpace(one)); k.IsWeb() {
			return k
		}
	}
	return sent
}

// request makes the request one of gRPC proper.
func (p *plugin) request(ctx *fasthttp.RequestCtx, e *exchange.Exchange, kind grpc.Kind) error {
	q := &ctx.Request
	_, format := grpc.KindOf(q.Header.ContentType())
	at := len(e.Scratch)
	e.Scratch = grpc.AppendType(e.Scratch, grpc.Native, format)
	q.Header.SetContentTypeBytes(e.Scratch[at:]) // copies
	e.Scratch = e.Scratch[:at]
	q.Header.Set("Te", "trailers")
	q.Header.Del(fasthttp.HeaderAccept)
	if kind == grpc.Web {
		p.binary.Inc()
		return exchange.FollowMessages(ctx, p.longest)
	}
	p.text.Inc()
	if q.IsBodyStream() {
		q.SetBodyStream(&decoder{from: q.BodyStream()}, -1)
	} else if len(q.Body()) > 0 {
		b, err := decode(q.Body())
		if err != nil {
			return err
		}
		q.SetBodyRaw(b)
	}
	return exchange.FollowMessages(ctx, p.longest)
}
