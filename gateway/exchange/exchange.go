// Package exchange is one request's state, from dispatch to the last byte of
// its reply: what every layer and every plugin needs to know of it, computed
// once. Plugins share through its typed fields and never import each other.
//
// An Exchange is pooled. It belongs to the request's goroutine; nothing of it,
// and no byte slice or string read from it, may be kept after Close unless it
// is cloned (strings.Clone) where it is kept.
package exchange

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/telemetry"
)

// Route is a compiled route as the pipeline sees it. It never changes.
type Route struct {
	// Name is the key under "routes" in the config.
	Name string
	// Chain are the route's plugins in order; the last handler answers.
	Chain []fiber.Handler
	// Steps names the handlers of Chain, for traces and explain.
	Steps []string
	// Recorder receives the outcome of every request of this route.
	Recorder Recorder
	// HTTP1 says that the request may go to an upstream by HTTP/1, which gRPC
	// cannot be spoken in: see Exchange.Messages.
	HTTP1 bool
}

// Recorder takes down a finished request. Calls are concurrent.
type Recorder interface {
	Record(status int, took time.Duration, bytesIn, bytesOut int64)
	// RecordCall is called besides for a gRPC call, with its status code; known
	// is false where the reply ended without one.
	RecordCall(code uint8, known bool)
}

// Owner gets the exchange back when the request is over: it writes the access
// log, counts, releases the snapshot and recycles the exchange.
type Owner interface{ Finish(e *Exchange) }

// Consumer is who calls, once an authentication plugin has established it.
type Consumer struct {
	Name     string
	Groups   []string
	Plan     string
	Metadata map[string]string
}

// Identity is what authentication established. Zero means anonymous.
type Identity struct {
	Consumer *Consumer
	// Method names the plugin that established it ("jwt", "api_key", …).
	Method string
	// Subject is the credential's own name for the caller: a JWT's sub, a
	// user name, a SPIFFE ID.
	Subject string
	// Claims are a verified token's claims; nil without one. Read only. Numbers
	// are float64; integers that a float64 would round are int64 or uint64, and
	// json.Number beyond 64 bits.
	Claims map[string]any
	// Scopes are the token's scopes.
	Scopes []string
}

// UpstreamInfo is what the proxy did; the access log and metrics read it.
type UpstreamInfo struct {
	// Name of the chosen upstream, Endpoint its address ("host:port").
	Name, Endpoint string
	// Attempts counts tries, the first included.
	Attempts int
	// Status of the upstream's reply, 0 if there was none.
	Status int
	// Took is from the first try to the reply head.
	Took time.Duration
	// Reused says the last try went over a pooled connection.
	Reused bool
	// Protocol is what was spoken in the last try that got a connection:
	// "http/1.1", "h2" (over TLS) or "h2c".
	Protocol string
}

// TunnelInfo is what went through after a switch of protocols.
type TunnelInfo struct{ Received, Sent int64 }

// WAFInfo is the WAF's decision on this request; the zero value means not inspected.
type WAFInfo struct {
	Policy  string
	Mode    string // "detect" or "block"
	Blocked bool
	// Score is the inbound anomaly score.
	Score int
	// Rules are the IDs of the rules that matched with a log entry.
	Rules []int
}

// Exchange is the state of one request.
type Exchange struct {
	// Ctx is the fasthttp request and reply.
	Ctx      *fasthttp.RequestCtx
	Front    Front
	Route    *Route // nil until dispatch has chosen one
	Listener string
	Start    time.Time

	// Where the request wants to go. Routing, WAF, authorization and the
	// upstream all see these. Borrowed.
	Scheme string // "http" or "https"
	Host   string // lower case, without port and trailing dot
	Path   string // normalised, still percent-encoded where it must be
	Query  string // without '?', as sent

	// Peer is the socket's other end; Client is whom we believe the request
	// comes from: the peer, or what a trusted proxy says.
	Peer   netip.AddrPort
	Client netip.Addr
	// TLS tells of the connection; nil if it is in plain text.
	TLS *TLS
	// Trusted says that the peer is a trusted proxy, whose forwarding headers
	// are believed.
	Trusted bool

	RequestID string
	Identity  Identity
	// Trace is the request's place in a distributed trace; zero without one.
	Trace telemetry.TraceContext
	Span  telemetry.Span // nil when not sampled
	// Inner is the time that steps inside the current one have taken so far;
	// counted only when sampled. The pipeline's own.
	Inner time.Duration

	Refusal *reason.Refusal // why Gatehouse answered, nil otherwise
	// RefusedBy is the step of the route's chain that refused.
	RefusedBy string
	Upstream  UpstreamInfo
	// Tunnel is set once it has ended; why it did, if not in an orderly way, is
	// Refusal.
	Tunnel TunnelInfo
	WAF    WAFInfo
	RPC    RPC

	// Stream says that the reply must not be held back or rewritten: an
	// upgrade, server-sent events, gRPC. Set by the proxy with the reply head.
	Stream bool
	// Deadline is when the request's time is over; zero means none.
	Deadline time.Time
	// Scratch is memory for what dispatch computes (Host, Path); it is kept
	// when the exchange is recycled.
	Scratch []byte

	owner  Owner
	ctx    context.Context
	cancel context.CancelFunc
	step   int
	extra  [4]extra
	nextra int
	held   holds
}

type extra struct{ key, value any }

type keyType struct{}

// key holds the exchange in a fasthttp user value; a package variable so that
// setting it does not allocate.
var key any = keyType{}

var pool = sync.Pool{New: func() any { return new(Exchange) }}

// maxScratch keeps one long request target from holding memory for ever.
const maxScratch = 16 << 10

// Acquire takes an exchange from the pool and attaches it to ctx. It ends, and
// o.Finish is called, when ctx is reset after the reply or the tunnel.
func Acquire(ctx *fasthttp.RequestCtx, f Front, o Owner) *Exchange {
	e := pool.Get().(*Exchange)
	e.Ctx, e.Front, e.owner = ctx, f, o
	ctx.SetUserValue(key, e)
	return e
}

// From returns the exchange of a request inside the pipeline; it is never nil there.
func From(c *fiber.Ctx) *Exchange { return FromRequest(c.Context()) }

// FromRequest is From for code that has no fiber.Ctx; nil outside the pipeline.
func FromRequest(ctx *fasthttp.RequestCtx) *Exchange {
	e, _ := ctx.UserValue(key).(*Exchange)
	return e
}

// Close ends the request. The pipeline's own user-value reset calls it; nobody else does.
func (e *Exchange) Close() error {
	if e.cancel != nil {
		e.Front.OnGone(nil)
		e.cancel()
	}
	e.release() // before Finish, which lets go of the snapshot and its plugins
	if e.owner != nil {
		e.owner.Finish(e)
	}
	scratch := e.Scratch[:0]
	if cap(scratch) > maxScratch {
		scratch = nil
	}
	*e = Exchange{Scratch: scratch}
	pool.Put(e)
	return nil
}

// Step moves the chain position by d and returns the position before; the pipeline's own.
func (e *Exchange) Step(d int) int {
	at := e.step
	e.step += d
	return at
}

// Context is cancelled when the client goes away, the deadline passes or the
// request ends. It is made on first use, so that a request that never asks
// pays nothing. While it is in use the exchange holds the front's OnGone; the
// proxy replaces that registration with its own.
func (e *Exchange) Context() context.Context {
	if e.ctx == nil {
		if e.Deadline.IsZero() {
			e.ctx, e.cancel = context.WithCancel(context.Background())
		} else {
			e.ctx, e.cancel = context.WithDeadline(context.Background(), e.Deadline)
		}
		e.Front.OnGone(cancelFunc(e.cancel))
	}
	return e.ctx
}

type cancelFunc context.CancelFunc

func (f cancelFunc) Abort() { f() }

// Set keeps a plugin's own value for this request under a key that is a
// pointer or an empty struct of the plugin's own type. At most 4 keys; more
// are a programming error and panic.
func (e *Exchange) Set(k, v any) {
	for i := range e.extra[:e.nextra] {
		if e.extra[i].key == k {
			e.extra[i].value = v
			return
		}
	}
	e.extra[e.nextra] = extra{k, v}
	e.nextra++
}

// Get returns what Set kept, or nil.
func (e *Exchange) Get(k any) any {
	for i := range e.extra[:e.nextra] {
		if e.extra[i].key == k {
			return e.extra[i].value
		}
	}
	return nil
}

// Refuse makes the reply a refusal as soon as the handler returns it:
// `return e.Refuse(err)`. It exists so that code which cannot return an error
// (a body reader) can note the cause; the first cause wins.
func (e *Exchange) Refuse(err error) error {
	if e.Refusal == nil {
		e.Refusal = reason.From(err)
	}
	return err
}
