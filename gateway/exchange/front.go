package exchange

import (
	"net"

	"github.com/valyala/fasthttp"
)

// Front is what the protocol a request came by (h1, h2, or bridge for HTTP/3)
// offers beyond the fasthttp request and response. All byte slices are borrowed:
// valid until the reply is written. Methods are called by the request's own
// goroutine unless said otherwise.
type Front interface {
	// Protocol is "HTTP/1.0", "HTTP/1.1", "HTTP/2.0" or "HTTP/3.0".
	Protocol() string

	// RawTarget is the request target exactly as sent.
	RawTarget() []byte
	// EachField calls f for every header field in the order, case and
	// repetition received, including those the front keeps from the fasthttp
	// request (Host, Connection, Content-Length, …), until f returns false.
	EachField(f func(name, value []byte) bool)

	// HasBody reports whether a request body was announced.
	HasBody() bool
	// Whole returns the complete request body if it has already been received
	// and not yet been read, else nil. It counts as reading it.
	Whole() []byte
	// BodyDone reports that the request body was read to its end.
	BodyDone() bool
	// LimitBody makes reading more than max bytes of the body fail with
	// reason.BodyTooLarge. A limit can only be lowered.
	LimitBody(max int64)
	// RequestTrailers are the validated trailer lines "Name: value\r\n" that
	// followed the body; nil until BodyDone.
	RequestTrailers() []byte
	// InterruptBody makes a Read of the request body that is blocked in
	// another goroutine return an error. The connection will be closed.
	InterruptBody()

	// OnGone registers what to interrupt when the client goes away; nil takes
	// it back. Abort runs in another goroutine, at most once per registration,
	// and may run at once.
	OnGone(a Aborter)

	// Inform sends an interim (1xx) reply at once. fields are complete lines
	// "Name: value\r\n". It is ignored for HTTP/1.0 clients.
	Inform(status int, fields []byte) error
	// ReplyDate sets the Date field of the reply; fasthttp cannot carry it.
	ReplyDate(value []byte)
	// ReplyTrailers appends complete lines "Name: value\r\n" to be sent after
	// the reply body, if the client's protocol and the framing allow it.
	ReplyTrailers(lines []byte)

	// WantsUpgrade reports the protocol of an Upgrade request.
	WantsUpgrade() (protocol []byte, ok bool)
	// Upgrade switches protocols once the reply in the fasthttp response (its
	// status must be 101) has been written: tunnel then owns the connection,
	// early is what the client has sent already. The exchange ends, and the
	// connection is closed, when tunnel returns. Where it does not come to that,
	// because the reply is another one or cannot be written, tunnel is called all
	// the same, with a nil client, so that it can give back what it holds.
	Upgrade(tunnel func(client net.Conn, early []byte))

	// ReplyBytes is how many bytes of reply body have been written so far.
	ReplyBytes() int64
	// RequestBytes is how many bytes of request body have been read so far.
	RequestBytes() int64
	// Cut makes the front end the connection without completing the reply.
	Cut()
}

// End ends the request and its exchange, once a front has sent the reply. The
// reply's stream goes first: whoever feeds it may still read the request body
// until then.
func End(ctx *fasthttp.RequestCtx) {
	_ = ctx.Response.CloseBodyStream() // what went wrong with it, the front has seen
	if ctx.Hijacked() {
		ctx.Hijack(nil)
	}
	ctx.Request.Reset() // closes the user values: the exchange ends here
	ctx.Response.Reset()
}

// Drainer is a front whose server can be shut down around a tunnel.
type Drainer interface {
	// OnDrain registers what to tell, once, when the server wants the tunnel to
	// end; soon after, the connection is closed.
	OnDrain(a Aborter)
}

// Aborter is work that can be interrupted from another goroutine.
type Aborter interface{ Abort() }
