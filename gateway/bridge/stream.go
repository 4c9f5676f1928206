package bridge

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/live"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// writer is what the servers' http.ResponseWriter can do besides.
type writer interface {
	http.ResponseWriter
	FlushError() error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// stream is one request, and the memory it needs. Its goroutine owns all fields
// but the atomic ones and those under mu; the sweeper owns lastSeq and watched.
type stream struct {
	bridge *Bridge
	ctx    fasthttp.RequestCtx
	head   wire.Head
	raw    []byte // the head in the form of HTTP/1
	line   int    // where its version is
	names  []string
	body   *body

	settings *Settings
	w        writer
	r        *http.Request
	conn     *Conn

	values         []string // of the reply's header map
	date, trailers []byte   // of the reply
	hasBody        bool
	connect        bool // an extended CONNECT: what the client sends is no body
	upgrade        func(client net.Conn, early []byte)
	tunnel         *tunnel // the stream carries another protocol
	started        bool    // the reply has been begun
	cut            bool    // reset the stream without completing the reply
	dirty          bool    // the memory must not be used again
	replied        int64

	seq       atomic.Uint32
	readBy    atomic.Int64 // coarse time by which a read must have succeeded; 0 none
	writeBy   atomic.Int64 // the same for a write; timedOut once it has not
	bodyBroke atomic.Bool  // InterruptBody was called

	interim sync.Mutex // one interim or final reply head at a time; guards started

	mu      sync.Mutex
	aborter exchange.Aborter
	drainer exchange.Aborter // told when the connection is to end
	gone    bool             // the client reset the stream, or the connection ended
	over    bool             // w is not to be used any more
	watch   func() bool

	live.Place
	lastSeq uint32
}

var (
	_ exchange.Front   = (*stream)(nil)
	_ exchange.Secured = (*stream)(nil)
)

// longAgo as a deadline interrupts a blocked read or write at once.
var longAgo = time.Unix(1, 0)

var (
	errWriteTimeout = errors.New("bridge: the client does not take the reply")
	errInterrupted  = errors.New("bridge: reading the request body was interrupted")
	errOver         = errors.New("bridge: the request is over")
)

func newStream(b *Bridge) *stream {
	return &stream{bridge: b, raw: make([]byte, 0, 1<<10), body: new(body)}
}

// begin makes s that of a request.
func (s *stream) begin(w http.ResponseWriter, r *http.Request) {
	b := s.bridge
	s.settings = b.settings.Load()
	s.r, s.conn = r, connOf(r.Context())
	var ok bool
	if s.w, ok = w.(writer); !ok {
		s.w = controlled{w, http.NewResponseController(w)}
	}
	s.values, s.date, s.trailers = s.values[:0], s.date[:0], s.trailers[:0]
	s.hasBody, s.started, s.cut, s.replied = false, false, false, 0
	s.connect, s.upgrade, s.tunnel = false, nil, nil
	s.readBy.Store(0)
	s.writeBy.Store(0)
	s.bodyBroke.Store(false)
	s.seq.Add(1)
	s.mu.Lock()
	s.gone, s.over = false, false
	s.mu.Unlock()
	b.busy.Add(s)
	if b.closing.Load() { // since: Close may have missed it
		s.hungUp()
	}
}

// end gives the memory back. Nobody uses w from here on.
func (s *stream) end(complete bool) {
	s.endBody()
	s.bridge.busy.Remove(s) // the sweeper does not know it any more
	s.mu.Lock()
	s.over, s.aborter, s.drainer = true, nil, nil
	watch := s.watch
	s.watch = nil
	s.mu.Unlock()
	if watch != nil {
		watch()
	}
	s.conn.note(s.tunnel == nil && s.r.Context().Err() != nil) // tunnels are ended so by browsers
	if d := s.settings.WriteTimeout; complete && s.tunnel == nil && d > 0 {
		_ = s.w.SetWriteDeadline(time.Now().Add(d)) // for what is still buffered
	}
	if s.dirty {
		return // somebody may still use it
	}
	s.w, s.r, s.conn, s.tunnel = nil, nil, nil, nil
	if cap(s.raw) > maxPooledHead {
		s.raw = make([]byte, 0, 1<<10)
	}
	s.values = nil // the server may still have the header map
	clear(s.names)
	s.bridge.streams.Put(s)
}

// fill makes the fasthttp request of the head.
func (s *stream) fill(r *http.Request) {
	s.ctx.Init2(s.conn.Face.Conn(), nil, false)
	s.ctx.Response.Header.SetNoDefaultContentType(true)
	s.head.Fill(&s.ctx.Request.Header)
	s.hasBody = !s.connect && r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
	s.body.begin(s)
	if s.hasBody {
		s.ctx.Request.SetBodyStream(s.body, int(s.body.length))
	}
}

// OnGone implements exchange.Front. Once it has returned, the Aborter
// registered before does not run and will not. The client's going is not
// watched for before the sweeper has found the request to be an old one.
func (s *stream) OnGone(a exchange.Aborter) {
	s.mu.Lock()
	if a != nil && s.gone {
		s.aborter = nil
		s.mu.Unlock()
		a.Abort()
		return
	}
	s.aborter = a
	s.mu.Unlock()
}

// hungUp is called when nobody waits for the reply any more.
func (s *stream) hungUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave()
}

// leave is hungUp; s.mu is held.
func (s *stream) leave() {
	if s.over {
		return
	}
	s.gone = true
	if a := s.aborter; a != nil {
		s.aborter = nil
		a.Abort()
	}
}

// interruptBody ends a Read of the body in progress.
func (s *stream) interruptBody() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		_ = s.w.SetReadDeadline(longAgo) // the stream has ended: nobody is blocked then
	}
}

// controlled is a writer made of one that needs to be unwrapped.
type controlled struct {
	http.ResponseWriter
	c *http.ResponseController
}

func (c controlled) FlushError() error                  { return c.c.Flush() }
func (c controlled) SetReadDeadline(t time.Time) error  { return c.c.SetReadDeadline(t) }
func (c controlled) SetWriteDeadline(t time.Time) error { return c.c.SetWriteDeadline(t) }
