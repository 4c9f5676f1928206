package exchange

import (
	"bytes"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// RPC is what is known of a gRPC call. The zero value is a request that is none.
type RPC struct {
	// Kind is the form of gRPC that whoever gets the reply speaks. The plugin
	// grpc_web makes it Native for those behind it. A request of type
	// application/grpc over HTTP/1 is no call: gRPC cannot be spoken there. Nor
	// is anything but a POST: a refused call has status 200, which whoever sends
	// a type along could otherwise have caches keep in the place of a page.
	Kind grpc.Kind
	// Deadline is when the caller's grpc-timeout is over; zero without one. It
	// holds for the whole call, unlike Exchange.Deadline, which a route's
	// timeout may bring forward for the reply's head alone.
	Deadline time.Time
	// Known says that the call's status is known: Code, and Message as sent,
	// percent-encoded and cut to grpc.MaxMessage. Message is empty with OK.
	Known   bool
	Code    grpc.Code
	Message []byte
}

// longestCall is from when on a grpc-timeout is none: there are clients that
// send the longest one there is.
const longestCall = 365 * 24 * time.Hour

// BeginRPC finds out whether the request is a gRPC call, and when its time is
// over. It returns why the call cannot be made, or nil.
func (e *Exchange) BeginRPC() *reason.Reason {
	h := &e.Ctx.Request.Header
	kind, _ := grpc.KindOf(h.ContentType())
	if kind == grpc.None || !h.IsPost() || kind == grpc.Native && strings.HasPrefix(e.Front.Protocol(), "HTTP/1") {
		return nil
	}
	e.RPC.Kind = kind
	lines := h.PeekAll("Grpc-Timeout")
	if len(lines) == 0 {
		return nil
	}
	d, ok := grpc.ParseTimeout(lines[0])
	if !ok || len(lines) > 1 {
		return reason.BadGRPCTimeout
	}
	if d < longestCall {
		e.RPC.Deadline = time.Now().Add(d)
		e.Deadline = e.RPC.Deadline
	}
	return nil
}

// Messages reports that the request's body is messages of gRPC, a stream that
// may go on for as long as the call does: not to be held, nor to be read by who
// looks for text. A body that only says so, on its way to an upstream that knows
// no gRPC, is one like any other: guards must not be talked out of reading it.
func (e *Exchange) Messages() bool {
	return e.RPC.Kind == grpc.Native && (e.Route == nil || !e.Route.HTTP1)
}

// NoteStatus takes down a call's status. message is as sent and is copied.
func (e *Exchange) NoteStatus(c grpc.Code, message []byte) {
	e.RPC.Known, e.RPC.Code, e.RPC.Message = true, c, nil
	if c == grpc.OK || len(message) == 0 {
		return
	}
	at := len(e.Scratch)
	e.Scratch = append(e.Scratch, message[:min(len(message), grpc.MaxMessage)]...)
	e.RPC.Message = e.Scratch[at:len(e.Scratch):len(e.Scratch)]
}

// NoteTrailers looks for a call's status in trailers, complete lines
// "Name: value\r\n".
func (e *Exchange) NoteTrailers(lines []byte) {
	if e.RPC.Kind == grpc.None {
		return
	}
	var status, message []byte
	for len(lines) > 0 {
		var line []byte
		line, lines, _ = bytes.Cut(lines, []byte("\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case len(name) == 11 && bytes.EqualFold(name, []byte("grpc-status")):
			status = bytes.TrimSpace(value)
		case len(name) == 12 && bytes.EqualFold(name, []byte("grpc-message")):
			message = bytes.TrimSpace(value)
		}
	}
	if status != nil {
		c, _ := grpc.ParseCode(status)
		e.NoteStatus(c, message)
	}
}

// NoteHead looks for a call's status in the reply's head, where a reply
// without messages has it. Whatever was known is forgotten.
func (e *Exchange) NoteHead(h *fasthttp.ResponseHeader) {
	if e.RPC.Kind == grpc.None {
		return
	}
	e.RPC.Known = false
	if status := h.Peek("Grpc-Status"); len(status) > 0 {
		c, _ := grpc.ParseCode(status)
		e.NoteStatus(c, h.Peek("Grpc-Message"))
	}
}

// Status is how the call ended for the log: from the call itself, from why it
// was refused, or from what a client makes of the HTTP status. ok is false
// where nothing tells, because the reply ended without a status.
func (r *RPC) Status(refusal *reason.Refusal, status int) (c grpc.Code, ok bool) {
	switch {
	case r.Known:
		return r.Code, true
	case refusal != nil:
		return refusal.GRPC(), true
	case status != 200:
		return grpc.FromHTTP(status), true
	}
	return grpc.Unknown, false
}
