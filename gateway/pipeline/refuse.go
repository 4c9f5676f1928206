package pipeline

import (
	"bytes"
	"errors"
	"html"
	"strconv"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Refuse turns err into the reply: application/problem+json (RFC 9457), or
// HTML for a client that prefers it, with the reason's name and the request
// ID. Headers that plugins have set so far (Retry-After, WWW-Authenticate, …)
// stay; what an upstream has answered is dropped whole. The cause stays on the
// exchange for the log.
func Refuse(c *fiber.Ctx, e *exchange.Exchange, err error) {
	ctx := c.Context()
	var fe *fiber.Error
	if errors.As(err, &fe) { // stock Fiber middleware
		if e.Upstream.Status != 0 {
			ResetReply(ctx)
		}
		e.Refusal = &reason.Refusal{Reason: reason.Forbidden, Status: fe.Code, Detail: fe.Message, Cause: err}
		if fe.Code >= 500 {
			e.Refusal.Reason = reason.Internal
		}
		writeRefusal(ctx, e, e.Refusal)
		return
	}
	f := e.Refusal
	if f == nil || !errors.Is(err, f.Reason) {
		f = reason.From(err)
		e.Refusal = f
	}
	if e.Upstream.Status != 0 {
		ResetReply(ctx)
	}
	writeRefusal(ctx, e, f)
}

// ResetReply drops the reply built so far, upstream connection included.
func ResetReply(ctx *fasthttp.RequestCtx) {
	ctx.Response.Reset()
	ctx.Response.Header.SetNoDefaultContentType(true)
}

func writeRefusal(ctx *fasthttp.RequestCtx, e *exchange.Exchange, f *reason.Refusal) {
	resp := &ctx.Response
	resp.ResetBody()
	resp.Header.Del(fasthttp.HeaderContentEncoding)
	resp.SetStatusCode(f.Code())
	resp.Header.Set(fasthttp.HeaderCacheControl, "no-store")
	if prefersHTML(ctx.Request.Header.Peek(fasthttp.HeaderAccept)) {
		resp.Header.SetContentType("text/html; charset=utf-8")
		resp.SetBodyRaw(appendHTML(nil, f, e.RequestID))
		return
	}
	resp.Header.SetContentType("application/problem+json")
	resp.SetBodyRaw(AppendProblem(nil, f.Code(), f.Reason, e.RequestID))
}

// AppendProblem appends the RFC 9457 document of a refusal. Only the reason's
// own words are in it: no cause, nothing the client sent.
func AppendProblem(dst []byte, code int, r *reason.Reason, requestID string) []byte {
	dst = append(dst, `{"type":"about:blank","title":`...)
	dst = strconv.AppendQuote(dst, r.Title)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(code), 10)
	dst = append(dst, `,"reason":"`...)
	dst = append(dst, r.Name...)
	dst = append(dst, '"')
	if requestID != "" {
		dst = append(dst, `,"request_id":`...)
		dst = strconv.AppendQuote(dst, requestID)
	}
	return append(dst, "}\n"...)
}

func appendHTML(dst []byte, f *reason.Refusal, requestID string) []byte {
	code := strconv.Itoa(f.Code())
	dst = append(dst, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>"...)
	dst = append(dst, code...)
	dst = append(dst, "</title><body style=\"font:16px/1.5 system-ui;margin:15vh auto;max-width:32em;padding:0 1em\"><h1>"...)
	dst = append(dst, code...)
	dst = append(dst, "</h1><p>"...)
	dst = append(dst, html.EscapeString(f.Reason.Title)...)
	if requestID != "" {
		dst = append(dst, "</p><p>Request ID: <code>"...)
		dst = append(dst, html.EscapeString(requestID)...)
		dst = append(dst, "</code>"...)
	}
	return append(dst, "</p></body></html>\n"...)
}

// prefersHTML is true when text/html is named and JSON is not: browsers name
// the first, programs the second or neither.
func prefersHTML(accept []byte) bool {
	return bytes.Contains(accept, []byte("text/html")) && !bytes.Contains(accept, []byte("json"))
}
