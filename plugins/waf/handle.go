package waf

import (
	"net/netip"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	engine "github.com/gatehouse-proxy/gatehouse/waf"
)

// inspection is one request in the plugin.
type inspection struct {
	p   *plugin
	ctx *fasthttp.RequestCtx
	e   *exchange.Exchange
	run *engine.Inspection
}

// Handle implements plugins.Instance.
func (p *plugin) Handle(c *fiber.Ctx) error {
	i := inspection{p: p, ctx: c.Context(), e: exchange.From(c), run: p.guard.Begin()}
	i.e.WAF.Policy, i.e.WAF.Mode = p.guard.Policy, p.guard.Mode
	blocked, failed := i.request()
	switch {
	case failed != nil:
		i.finish("refused", 0)
		return failed
	case blocked.Action == engine.Fail:
		if err := i.failed(blocked.Err); err != nil {
			return err
		}
		return c.Next()
	case blocked.Action != engine.Pass:
		return i.refuse(blocked)
	}
	if !p.guard.WantsReply() {
		i.finish("", 0) // the upstream may take long: do not hold the memory
		return c.Next()
	}
	defer i.run.End() // if the rest of the chain panics
	restore := i.plainReply()
	err := c.Next()
	restore()
	if err != nil {
		i.finish("", 0)
		return err
	}
	return i.afterReply()
}

func (i *inspection) afterReply() error {
	blocked, failed := i.reply()
	switch {
	case failed != nil:
		i.finish("refused", 0)
		return failed
	case blocked.Action == engine.Fail:
		return i.failed(blocked.Err)
	case blocked.Action == engine.Pass:
		i.finish("", 0)
		return nil
	}
	if blocked.Action == engine.Redirect { // the reply's own head is dropped with it
		blocked.Action, blocked.Status = engine.Deny, fiber.StatusForbidden
	}
	return i.refuse(blocked)
}

// request inspects head and body. An error is a refusal that is not a verdict:
// a body that is too long or did not arrive.
func (i *inspection) request() (engine.Verdict, error) {
	r, size := i.view()
	v, err := i.inTurn(size, func() engine.Verdict { return i.run.Head(&r) })
	if err != nil || v.Action != engine.Pass {
		return v, err
	}
	if !i.e.Front.HasBody() {
		return i.run.Body(nil, true), nil
	}
	if i.e.Messages() {
		// Protobuf is not for the rules to read. That these are messages makes
		// sure that nothing else gets past them under the name of gRPC.
		if err := exchange.FollowMessages(i.ctx, 0); err != nil {
			return engine.Verdict{}, err
		}
		return i.run.Body(nil, true), nil
	}
	g := i.p.guard
	if n := i.ctx.Request.Header.ContentLength(); g.RejectOver && n > g.BodyLimit {
		return engine.Verdict{}, reason.WAFBodyTooLarge.Because("policy %s: %d bytes announced, %d are inspected", g.Policy, n, g.BodyLimit)
	}
	// One byte more than the limit tells a body of just that size from a longer one.
	body, whole, err := exchange.BufferRequest(i.ctx, g.BodyLimit+1)
	if err != nil {
		return engine.Verdict{}, err
	}
	if over := !whole || len(body) > g.BodyLimit; over && g.RejectOver {
		return engine.Verdict{}, reason.WAFBodyTooLarge.Because("policy %s: more than %d bytes", g.Policy, g.BodyLimit)
	}
	return i.inTurn(len(body), func() engine.Verdict { return i.run.Body(body, whole) })
}

// inTurn inspects n bytes when there is room for something of that size.
func (i *inspection) inTurn(n int, inspect func() engine.Verdict) (engine.Verdict, error) {
	if n < engine.Large {
		return inspect(), nil
	}
	end, ok := i.p.pool.Turn(i.e.Context())
	if !ok {
		return engine.Verdict{}, reason.Overloaded.Because("policy %s: too many large requests to inspect at once", i.p.guard.Policy)
	}
	defer end()
	return inspect(), nil
}

// view copies what the engine is to see, because it keeps strings for as long
// as its transaction lives. All header fields share one allocation. total is the
// size of it in bytes.
func (i *inspection) view() (r engine.Request, total int) {
	size, n := 0, 0
	i.e.Front.EachField(func(name, value []byte) bool {
		size += len(name) + len(value)
		n++
		return true
	})
	var text strings.Builder
	text.Grow(size)
	i.e.Front.EachField(func(name, value []byte) bool {
		text.Write(name)
		text.Write(value)
		return true
	})
	all, at := text.String(), 0
	fields := make([]engine.Field, 0, n)
	i.e.Front.EachField(func(name, value []byte) bool {
		a, b := at+len(name), at+len(name)+len(value)
		fields = append(fields, engine.Field{Name: all[at:a], Value: all[a:b]})
		at = b
		return true
	})
	return engine.Request{
		ID:       strings.Clone(i.e.RequestID),
		Client:   netip.AddrPortFrom(i.e.Client, i.e.Peer.Port()),
		Server:   localAddr(i.ctx),
		Protocol: i.e.Front.Protocol(),
		Method:   string(i.ctx.Request.Header.Method()),
		Target:   string(i.e.Front.RawTarget()),
		Host:     strings.Clone(i.e.Host),
		Path:     strings.Clone(i.e.Path),
		Fields:   fields,
	}, size + len(i.e.Front.RawTarget())
}

func localAddr(ctx *fasthttp.RequestCtx) netip.AddrPort {
	if a, ok := ctx.LocalAddr().(interface{ AddrPort() netip.AddrPort }); ok {
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

// plainReply asks the upstream not to compress a reply that is to be read here.
// The client's own wish is put back afterwards for plugins that compress.
func (i *inspection) plainReply() (restore func()) {
	h := &i.ctx.Request.Header
	wish := h.Peek(fasthttp.HeaderAcceptEncoding)
	if len(wish) == 0 || !i.p.guard.ReadsBodies() {
		return func() {}
	}
	kept := string(wish)
	h.Del(fasthttp.HeaderAcceptEncoding)
	return func() { h.Set(fasthttp.HeaderAcceptEncoding, kept) }
}

// reply inspects what the upstream answered. Gatehouse's own refusals hold
// nothing to leak, and streams must not be held back.
func (i *inspection) reply() (engine.Verdict, error) {
	resp := &i.ctx.Response
	status := resp.StatusCode()
	if i.e.Refusal != nil || i.e.Stream || status == fiber.StatusSwitchingProtocols {
		return engine.Verdict{}, nil
	}
	var fields []engine.Field
	for k, v := range resp.Header.All() {
		fields = append(fields, engine.Field{Name: string(k), Value: string(v)})
	}
	if v := i.run.Reply(status, i.e.Front.Protocol(), fields); v.Action != engine.Pass {
		return v, nil
	}
	if !i.readable(resp) {
		return i.run.ReplyBody(nil), nil
	}
	body, _, err := exchange.BufferReply(i.ctx, i.p.guard.ReplyLimit)
	if err != nil {
		return engine.Verdict{}, err
	}
	return i.run.ReplyBody(body), nil
}

// readable reports that a reply's body can be read and is to be.
func (i *inspection) readable(resp *fasthttp.Response) bool {
	kind := string(resp.Header.ContentType())
	if i.ctx.IsHead() || len(resp.Header.ContentEncoding()) > 0 {
		return false
	}
	if strings.HasPrefix(kind, "text/event-stream") || strings.HasPrefix(kind, "application/grpc") {
		return false
	}
	return i.p.guard.WantsReplyBody(kind)
}
