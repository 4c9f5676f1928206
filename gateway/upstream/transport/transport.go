// Package transport is what the clients of all protocols that endpoints speak
// have in common, so that the proxy need not know which it uses: a request
// (Call), a pool that finds a place to send it (Pool), the request on its way
// and its reply (Conn), and why it came to nothing (Failure).
//
// A request's head is handed over in HTTP/1 wire form, and a reply's head comes
// back as one. That is what the WAF has seen and what HTTP/1, by far the most
// common protocol of endpoints, sends as it is; other clients translate.
package transport

import (
	"io"
	"net"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// MaxInterims bounds the interim replies before the final one.
const MaxInterims = 16

// The protocols.
const (
	HTTP1      = "http/1.1"
	HTTP2      = "h2"
	ClearHTTP2 = "h2c"
)

// Watcher tells when the client goes away; exchange.Front is one.
type Watcher interface{ OnGone(exchange.Aborter) }

// Limiter bounds connections, and requests that wait for one; an upstream's
// breaker is one. Pools that have the same Limiter share what it allows: a
// connection that one of them closes makes room for another.
type Limiter interface {
	TryConnection() bool
	ReleaseConnection()
	TryPending() bool
	ReleasePending()
}

// Call is one request for one connection, and what is needed while it is under
// way. It is not copied and must not change until Release.
type Call struct {
	// Head is the complete request head. A small body may follow it in the
	// same bytes, so that both go out in one write.
	Head []byte
	// Body is (more of) a body that is at hand.
	Body []byte
	// Stream is a body that has yet to come, of Length bytes, Body included;
	// below 0 its end shows later, and trailers may follow it. It is read by
	// another goroutine until Release.
	Stream io.Reader
	Length int64
	// Tee receives a copy of what was read from Stream; nil: none.
	Tee io.Writer
	// Front receives interim replies and gives request trailers; nil: none of either.
	Front exchange.Front
	// Watch tells when the client goes away; nil: it never does.
	Watch Watcher
	// NoBody says that the reply has no body: the request is a HEAD.
	NoBody bool
	// Trailers says that those of the reply can be passed on behind a body that is
	// at hand (see Conn.Whole).
	Trailers bool
	// Upgrade says that the request asks for another protocol, so that 101 is
	// a reply.
	Upgrade bool
	// Last says that the connection is not to be used again, as Head tells the
	// endpoint. It concerns protocols only where one request follows another.
	Last bool
	// Deadline ends the waiting for the reply's head; zero means none.
	Deadline time.Time
	// Answer does so this long after Stream has been sent whole: an upload may
	// take its time. 0 means none.
	Answer time.Duration
	// Idle ends a pause in either direction; 0 means none.
	Idle time.Duration
}

// Pool is the connections to one endpoint. It is safe for concurrent use.
type Pool interface {
	// Get finds a place for call, on a connection that is there unless fresh
	// asks for a new one; it may have to wait. An error is a *Failure; nothing
	// has been sent then.
	Get(call *Call, fresh bool) (Conn, error)
	// Close closes idle connections now and the others when their requests are
	// over. It is safe to call twice; Get still works afterwards, for a request
	// that had chosen the endpoint before, but keeps nothing.
	Close()
}

// Conn is a place on a connection for one request: all of it, or a stream. It
// belongs to one goroutine; only Abort may be called by others.
type Conn interface {
	// Reused says that the connection had carried a request before this one.
	Reused() bool
	// Protocol is what is spoken on the connection, by its name in ALPN.
	Protocol() string
	// Do sends the request and reads the reply's head. After an error, which is
	// a *Failure, c is gone; otherwise Release must be called.
	Do(call *Call) error
	// Head is the reply's head; the offsets in it point into raw. Both are
	// borrowed, until the body is read.
	Head() (head *wire.RespHead, raw []byte)
	// Complete reports that the reply has been read to its end.
	Complete() bool
	// Length is the length of the reply's body, -1 where its end shows later.
	Length() int64
	// Whole takes the whole body if it has already come and is at most limit
	// bytes. The bytes are borrowed, until Release. Where Call.Trailers says so,
	// trailers may have followed it; otherwise it is not taken then.
	Whole(limit int) ([]byte, bool)
	// BufferedNow is how many bytes Read is sure to return without waiting.
	BufferedNow() int
	// Read reads the reply's body; io.EOF only at its true end. Any other error
	// is a *Failure: the reply broke off.
	Read(p []byte) (int, error)
	// Trailers are the reply's trailer lines, once the body has been read.
	Trailers() []byte
	// BodyRead reports that the request's body has been read to its end.
	BodyRead() bool
	// Adopt lets w tell when the client goes away from now on.
	Adopt(w Watcher)
	// Unbounded takes the deadline back for a reply whose body may go on for as
	// long as it comes; the idle timeout stays.
	Unbounded()
	// Abort ends whatever is going on, because the client has gone. Any
	// goroutine may call it while the call's Watch holds c.
	Abort()
	// Release ends the request; what is left of it is given up. It returns the
	// error of a request body that broke off, if one did.
	Release() error
}

// Hijacker is a Conn whose protocol can switch to another one.
type Hijacker interface {
	Conn
	// Hijack gives the connection away after a 101; early is what has come behind
	// the head. It is called instead of Release. It counts as open until done is
	// called.
	Hijack() (nc net.Conn, early []byte, done func())
}
