// Package bridge answers the requests of a net/http kind of server, which HTTP/3
// is spoken by, with the handler that h1 also calls: it fills a pooled
// fasthttp.RequestCtx, is the exchange.Front, and writes the reply. What HTTP/1
// refuses is refused here by the same code: a request's head is written down in
// the form of HTTP/1 and read by wire. It knows nothing of frames.
//
// A reply goes out as it comes, but what is at hand goes out in one piece; a
// reply that breaks off resets its stream, so that it never looks complete.
package bridge

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/live"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// Settings of a bridge. A time of 0 or less means no limit.
type Settings struct {
	// Handler answers a request. It runs on the goroutine of ServeHTTP; ctx and f
	// are valid until it has returned and the reply is written.
	Handler func(ctx *fasthttp.RequestCtx, f exchange.Front)
	// Limits of a head as it would be in HTTP/1. The server's own limit must be
	// the wider one, or it refuses in our place and nobody hears of it.
	Limits wire.Limits
	// MaxBody is how many bytes a request body may have; 0 means no limit.
	MaxBody int64
	// BodyTimeout is how long a reader of the body waits for more of it.
	BodyTimeout time.Duration
	// WriteTimeout is how long a client may take none of, at most, 64 KiB.
	WriteTimeout time.Duration
	// WebSockets lets clients open them (RFC 9220).
	WebSockets bool
	// Refused is told of what was answered without a handler. head is what the
	// client sent in the form of HTTP/1, borrowed. May be nil. Concurrent.
	Refused func(r *reason.Reason, peer netip.AddrPort, head []byte)
	// Panicked is told of a panic in Handler, which has its own recover: this is
	// the last line of defence. May be nil. Concurrent.
	Panicked func(value any, stack []byte)
}

// Bridge is an http.Handler. All methods are safe for concurrent use.
type Bridge struct {
	settings atomic.Pointer[Settings]
	streams  sync.Pool
	busy     *live.Set[*stream]
	clock    *live.Clock // moves from the first request on
	closing  atomic.Bool
	tunnels  atomic.Int32
}

// closeTime is how long Close waits for handlers that it has interrupted.
const closeTime = 5 * time.Second

// New returns a bridge. Close ends what its first request starts.
func New(settings Settings) *Bridge {
	b := &Bridge{busy: live.NewSet[*stream]()}
	b.clock = live.NewClock(b.sweep)
	b.settings.Store(&settings)
	return b
}

// Update makes settings apply from the next request on.
func (b *Bridge) Update(settings Settings) { b.settings.Store(&settings) }

// Busy is how many requests are being answered.
func (b *Bridge) Busy() int { return b.busy.Len() }

// Tunnels is how many of them carry another protocol.
func (b *Bridge) Tunnels() int { return int(b.tunnels.Load()) }

// Close interrupts what handlers wait for, and waits for them; requests that
// still come are reset. Its error says that some did not end. Closing twice is
// allowed. The server, whose connections it does not know, is closed first.
func (b *Bridge) Close() error {
	b.closing.Store(true)
	b.busy.Each((*stream).hungUp)
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	ok := b.busy.Wait(ctx.Done())
	b.clock.Stop()
	if !ok {
		return errors.New("bridge: handlers did not return in time")
	}
	return nil
}

// enter admits a request.
func (b *Bridge) enter() bool {
	b.busy.Enter()
	if b.closing.Load() {
		b.busy.Leave()
		return false
	}
	b.clock.Start()
	return true
}

// ServeHTTP implements http.Handler. It panics with http.ErrAbortHandler, which
// the server knows, to have the stream reset.
func (b *Bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !b.enter() {
		panic(http.ErrAbortHandler)
	}
	defer b.busy.Leave()
	s, _ := b.streams.Get().(*stream)
	if s == nil {
		s = newStream(b)
	}
	if !s.serve(w, r) {
		panic(http.ErrAbortHandler)
	}
}

// serve answers one request. When it returns nobody uses w or r any more;
// complete is false where the client must not take what it has for a reply.
func (s *stream) serve(w http.ResponseWriter, r *http.Request) (complete bool) {
	s.begin(w, r)
	why := s.readHead(r)
	defer func() {
		if v := recover(); v != nil {
			complete = s.panicked(v)
		}
		s.end(complete)
	}()
	if why != nil {
		return s.refuse(why)
	}
	s.fill(r)
	s.settings.Handler(&s.ctx, s)
	resp := &s.ctx.Response
	if late := s.ctx.LastTimeoutErrorResponse(); late != nil { // the handler still runs and uses ctx
		s.dirty, resp = true, late
	}
	complete = s.reply(resp)
	s.OnGone(nil)
	s.runTunnel()
	if !s.dirty {
		exchange.End(&s.ctx)
	}
	return complete
}

// panicked ends a request whose handler panicked. Its state is in an unknown
// condition: a stale exchange in it could make another request skip its chain.
func (s *stream) panicked(v any) (complete bool) {
	if f := s.settings.Panicked; f != nil {
		f(v, debug.Stack())
	}
	s.dirty = true
	s.OnGone(nil)
	if !s.started {
		complete = s.refuse(reason.Internal)
	}
	defer func() { _ = recover() }() // closing what the handler left may panic again
	s.runTunnel()
	s.endBody()
	exchange.End(&s.ctx)
	return complete
}
