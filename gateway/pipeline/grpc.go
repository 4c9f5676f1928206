package pipeline

import (
	"encoding/base64"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// refuseCall answers a gRPC call: HTTP status 200, no message, and the status
// in the head. A gRPC-Web client gets it as the frame that ends a body: its
// JavaScript sees a header only where CORS exposes it, and the body always.
func refuseCall(ctx *fasthttp.RequestCtx, e *exchange.Exchange, f *reason.Refusal) {
	resp := &ctx.Response
	h := &resp.Header
	resp.SetStatusCode(fasthttp.StatusOK)
	resp.SkipBody = false
	b := e.Scratch
	at := len(b)
	_, format := grpc.KindOf(ctx.Request.Header.ContentType())
	b = grpc.AppendType(b, e.RPC.Kind, format)
	h.SetContentTypeBytes(b[at:])

	code := f.GRPC()
	b = appendCallMessage(b[:at], f.Reason, e.RequestID)
	text := len(b)
	b = grpc.AppendMessage(b, b[at:])
	message := b[text:]
	if e.RPC.Kind == grpc.Native {
		h.SetBytesV("Grpc-Message", message)
		status := len(b)
		b = grpc.AppendCode(b, code)
		h.SetBytesV("Grpc-Status", b[status:])
	} else {
		frame := len(b)
		b = grpc.AppendStatusFrame(b, code, b[at:text])
		body := b[frame:]
		if e.RPC.Kind == grpc.WebText {
			frame = len(b)
			b = base64.StdEncoding.AppendEncode(b, body)
			body = b[frame:]
		}
		resp.SetBody(body)
	}
	e.Scratch = b[:at]
	e.NoteStatus(code, message)
}

// appendCallMessage appends what the client is told: the reason's own words and
// the request ID, as in a problem document.
func appendCallMessage(dst []byte, r *reason.Reason, requestID string) []byte {
	dst = append(dst, r.Title...)
	dst = append(append(dst, " (reason "...), r.Name...)
	if requestID != "" {
		dst = append(append(dst, ", request "...), requestID...)
	}
	return append(dst, ')')
}
