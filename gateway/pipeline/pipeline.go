// Package pipeline drives one request through the chain its route was compiled
// to. It is the only package that knows how Fiber's own stack of handlers is
// used: one app whose handlers walk the exchange's chain, so that a plugin is
// an ordinary fiber.Handler and existing Fiber middleware works unchanged.
package pipeline

import (
	"fmt"
	"runtime/debug"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// width is how many handlers the Fiber app holds. Longer chains go round
// again, so it only trades memory against one extra hop per 32 plugins.
const width = 32

// Methods are the request methods that reach handlers: the IANA registry as of
// 2026-09 without CONNECT, TRACE and PRI, which the gateway never forwards,
// plus PURGE, which caches use.
var Methods = []string{
	"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH",
	"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL",
	"LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL",
	"MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPFIND",
	"PROPPATCH", "PURGE", "QUERY", "REBIND", "REPORT", "SEARCH", "UNBIND",
	"UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF",
	"VERSION-CONTROL",
}

var isMethod = func() map[string]bool {
	m := make(map[string]bool, len(Methods))
	for _, name := range Methods {
		m[name] = true
	}
	return m
}()

// KnowsMethod reports whether m is one of Methods. A request with another one
// must not get into the pipeline: Fiber would answer it before any handler.
func KnowsMethod(m []byte) bool { return isMethod[string(m)] }

// New returns the handler that runs the chain of the exchange attached to a
// request: exchange.Acquire must have been called and Route be set, or Refusal.
// onPanic is told of a panic in a plugin, which e.RefusedBy names; it must not
// keep the stack. It may be nil.
func New(onPanic func(e *exchange.Exchange, value any, stack []byte)) fasthttp.RequestHandler {
	app := fiber.New(fiber.Config{
		CaseSensitive: true, StrictRouting: true, StreamRequestBody: true,
		DisableStartupMessage: true, DisableDefaultDate: true,
		DisableDefaultContentType: true, DisablePreParseMultipartForm: true,
		DisableHeaderNormalizing: false,
		RequestMethods:           Methods,
		ErrorHandler: func(c *fiber.Ctx, err error) error {
			Refuse(c.Context(), exchange.From(c), err)
			return nil
		},
	})
	handlers := make([]any, 0, width+1)
	for range width {
		handlers = append(handlers, step)
	}
	handlers = append(handlers, func(c *fiber.Ctx) error { return c.RestartRouting() })
	app.Use(handlers...)
	run := app.Handler()
	return func(ctx *fasthttp.RequestCtx) {
		defer func() {
			if v := recover(); v != nil {
				panicked(ctx, v, onPanic)
			}
		}()
		run(ctx)
	}
}

// step runs the next handler of the chain. A refusal becomes a reply here,
// where it is returned, so that the plugins before it see an ordinary reply
// and still act on it (headers, CORS, error pages, compression).
func step(c *fiber.Ctx) error {
	e := exchange.From(c)
	chain := e.Route.Chain
	at := e.Step(1)
	if at >= len(chain) {
		e.Step(-1)
		return reason.Internal.Because("route %s: the last plugin of the chain called Next", e.Route.Name)
	}
	var err error
	if e.Span == nil {
		err = chain[at](c)
	} else {
		err = traced(c, e, at)
	}
	e.Step(-1)
	if err != nil {
		e.RefusedBy = e.Route.Steps[at]
		Refuse(c.Context(), e, err)
	}
	return nil
}

// slow is how much time of its own a plugin must take to be seen in a trace.
const slow = 100 * time.Microsecond

// traced runs a handler of a sampled request and records it if it took time or
// refused. The last handler's time is the upstream's, which has spans of its own.
func traced(c *fiber.Ctx, e *exchange.Exchange, at int) error {
	before := e.Inner
	e.Inner = 0
	began := time.Now()
	err := e.Route.Chain[at](c)
	took := time.Since(began)
	own := took - e.Inner
	e.Inner = before + took
	if at == len(e.Route.Chain)-1 && err == nil {
		return nil
	}
	if own < slow && err == nil {
		return nil
	}
	failure := ""
	if err != nil {
		failure = err.Error()
	}
	e.Span.Step(e.Route.Steps[at], began, own, failure)
	return err
}

func panicked(ctx *fasthttp.RequestCtx, v any, onPanic func(*exchange.Exchange, any, []byte)) {
	e := exchange.FromRequest(ctx)
	if e == nil {
		panic(v)
	}
	if at := min(e.Step(0), len(e.Route.Steps)) - 1; at >= 0 {
		e.RefusedBy = e.Route.Steps[at] // the innermost that had not returned
	}
	if onPanic != nil {
		onPanic(e, v, debug.Stack())
	}
	e.Refusal = reason.PluginPanic.Because("%s", fmt.Sprint(v))
	resetReply(ctx)
	writeRefusal(ctx, e, e.Refusal)
	ctx.Response.SetConnectionClose()
}
