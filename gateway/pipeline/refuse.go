package pipeline

import (
	"bytes"
	"errors"
	"html"
	"strconv"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Refuse turns err into the reply: application/problem+json (RFC 9457), or
// HTML for a client that prefers it, with the reason's name and the request
// ID; for a gRPC call, a status of its own. Headers that plugins have set so far (Retry-After, WWW-Authenticate, …)
// stay; what an upstream has answered is dropped whole. The cause stays on the
// exchange for the log.
func Refuse(ctx *fasthttp.RequestCtx, e *exchange.Exchange, err error) {
	e.Refusal = refusal(e.Refusal, err)
	if e.Upstream.Status != 0 {
		resetReply(ctx)
	}
	writeRefusal(ctx, e, e.Refusal)
}

// refusal is what err says; known is what the request has been refused for so
// far, which may tell more of the same reason.
func refusal(known *reason.Refusal, err error) *reason.Refusal {
	if known != nil && errors.Is(err, known.Reason) {
		return known
	}
	f := reason.From(err)
	if f.Reason != reason.Internal {
		return f
	}
	var fe *fiber.Error
	if errors.Is(err, reason.Internal) || !errors.As(err, &fe) {
		return f
	}
	// Stock Fiber middleware.
	f = &reason.Refusal{Reason: reason.PluginRefused, Status: fe.Code, Detail: fe.Message, Cause: err}
	if fe.Code < 400 || fe.Code > 599 {
		f.Status = 0
	}
	if f.Status == 0 || f.Status >= 500 {
		f.Reason = reason.Internal
	}
	return f
}

// resetReply drops the reply built so far, upstream connection included.
func resetReply(ctx *fasthttp.RequestCtx) {
	ctx.Response.Reset()
	ctx.Response.Header.SetNoDefaultContentType(true)
}

func writeRefusal(ctx *fasthttp.RequestCtx, e *exchange.Exchange, f *reason.Refusal) {
	resp := &ctx.Response
	resp.ResetBody()
	resp.Header.Del(fasthttp.HeaderContentEncoding)
	resp.Header.Set(fasthttp.HeaderCacheControl, "no-store")
	if e.RPC.Kind != grpc.None {
		refuseCall(ctx, e, f)
		return
	}
	resp.SetStatusCode(f.Code())
	if prefersHTML(ctx.Request.Header.Peek(fasthttp.HeaderAccept)) {
		resp.Header.SetContentType("text/html; charset=utf-8")
		resp.SetBodyRaw(appendHTML(nil, f, e.RequestID))
		return
	}
	resp.Header.SetContentType("application/problem+json")
	at := len(e.Scratch)
	e.Scratch = AppendProblem(e.Scratch, f.Code(), f.Reason, e.RequestID)
	resp.SetBody(e.Scratch[at:])
	e.Scratch = e.Scratch[:at]
}

// Replace makes a reply that cannot be sent one that says why.
func Replace(resp *fasthttp.Response, why *reason.Reason) {
	_ = resp.CloseBodyStream() // it is not sent
	resp.Reset()
	resp.Header.SetNoDefaultContentType(true)
	resp.SetStatusCode(why.Status)
	resp.Header.SetContentType("application/problem+json")
	resp.SetBodyRaw(AppendProblem(nil, why.Status, why, ""))
}

// AppendProblem appends the RFC 9457 document of a refusal. Only the reason's
// own words are in it: no cause, nothing the client sent but its request ID.
func AppendProblem(dst []byte, code int, r *reason.Reason, requestID string) []byte {
	dst = append(dst, `{"type":"about:blank","title":`...)
	dst = appendJSON(dst, r.Title)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(code), 10)
	dst = append(dst, `,"reason":`...)
	dst = appendJSON(dst, r.Name)
	if requestID != "" {
		dst = append(dst, `,"request_id":`...)
		dst = appendJSON(dst, requestID)
	}
	return append(dst, "}\n"...)
}

// appendJSON appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendJSON(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, r := range s { // an invalid byte is utf8.RuneError
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < ' ' || r == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
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
