package h1

import (
	"net"
	"net/netip"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// Settings of a server. A time of 0 or less means no limit.
type Settings struct {
	// Handler answers a request. It runs on the connection's goroutine; ctx and f
	// are valid until it has returned and the reply, or the tunnel, is over.
	Handler func(ctx *fasthttp.RequestCtx, f exchange.Front)
	Limits  wire.Limits
	// MaxBody is how many bytes a request body may have; 0 means no limit.
	MaxBody int64
	// HeadTimeout is for a head from its first byte to its last, and for the
	// first byte on a new connection.
	HeadTimeout time.Duration
	// BodyTimeout is how long a reader of the body waits for more of it.
	BodyTimeout time.Duration
	// WriteTimeout is how long a client may take none of, at most, 64 KiB.
	WriteTimeout time.Duration
	// IdleTimeout is for the time between two requests.
	IdleTimeout time.Duration
	// Preface takes over a connection in plain text whose first bytes are the
	// preface of HTTP/2 (RFC 9113, 3.4): early is what was read so far, which
	// begins with it. It owns nc from then on. It runs on the connection's
	// goroutine and must return at once. Nil: such a connection is refused.
	Preface func(nc net.Conn, early []byte)
	// Refused is told of what was answered without a handler. head are the first
	// bytes of what the client sent, borrowed. May be nil. Concurrent.
	Refused func(r *reason.Reason, peer netip.AddrPort, head []byte)
	// Panicked is told of a panic in Handler, which has its own recover: this is
	// the last line of defence. May be nil. Concurrent.
	Panicked func(value any, stack []byte)
}

// Stats is a moment's count of a server's connections.
type Stats struct {
	// Open counts all of them.
	Open int
	// Idle ones wait for a request; Parked are those of them without a goroutine.
	Idle, Parked int
	// Busy ones have a request in progress, Tunnels an upgraded one.
	Busy, Tunnels int
}

// preface is how a connection of HTTP/2 begins.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

const (
	// parkAfter is how long a connection is idle before it gives up its goroutine.
	parkAfter = 2 * time.Second
	// firstBuffer is what nearly every request head fits in.
	firstBuffer = 4 << 10
	// maxPooledBuffer keeps one large request from holding memory for ever.
	maxPooledBuffer = 64 << 10
	// maxDrain is how much of a body nobody wanted is read to save the connection.
	maxDrain   = 64 << 10
	drainTime  = time.Second
	lingerTime = 2 * time.Second
	maxLinger  = 64 << 20
	// maxWrite is the piece of a reply that WriteTimeout is for.
	maxWrite = 64 << 10
	// closeTime is how long Close waits for handlers that it has interrupted.
	closeTime = 5 * time.Second
)
