package h2

import (
	"errors"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// maxPooledHead keeps one large head from holding memory for ever.
const maxPooledHead = 64 << 10

// stream is one request, and the memory it needs. The reader fills it, then its
// handler's goroutine owns all fields but the atomic ones and those that are
// guarded.
type stream struct {
	c        *conn
	id       uint32
	settings *Settings
	ctx      fasthttp.RequestCtx
	head     wire.Head
	raw      []byte // the head in the form of HTTP/1
	line     int    // where its version is
	body     *body
	why      *reason.Reason // why there is no request
	stated   bool           // the client has said how long the body is
	nothing  bool           // HEAD: no body is sent
	connect  bool           // an extended CONNECT: what the client sends is no body

	date, trailers []byte // of the reply
	hasBody        bool
	upgrade        func(client net.Conn, early []byte)
	cut            bool // reset the stream without completing the reply
	dirty          bool // the memory must not be used again
	replied        int64

	// What follows is guarded by c.mu.
	window        int64 // what the client takes
	receive, owed int64 // what it may send; what it may send more, and does not know
	ended         bool  // by the client
	closed        bool  // by us
	reset         bool  // by either side: nothing is sent any more
	started       bool  // the final reply has been
	late          bool  // the client has not taken it in time
	queued        bool
	writeBy       int64 // coarse time until which it has to; 0: nobody waits
	canWrite      sync.Cond
	tunnel        *tunnel // the stream carries another protocol

	seq     atomic.Uint32
	mu      sync.Mutex // guards what follows; taken behind c.mu, or alone
	aborter exchange.Aborter
	drainer exchange.Aborter // told by Shutdown
	gone    bool             // nobody waits for the reply
}

var (
	_ exchange.Front   = (*stream)(nil)
	_ exchange.Secured = (*stream)(nil)
)

var (
	errGone         = errors.New("h2: the client has gone")
	errWriteTimeout = errors.New("h2: the client does not take the reply")
	errInterrupted  = errors.New("h2: reading the request body was interrupted")
	errOver         = errors.New("h2: the request is over")
)

func (s *Server) newStream() *stream {
	if t, _ := s.streams.Get().(*stream); t != nil {
		return t
	}
	return &stream{raw: make([]byte, 0, 1<<10), body: new(body)}
}

// recycle gives the memory back.
func (s *Server) recycle(t *stream) {
	if t.dirty {
		return // somebody may still use it
	}
	if cap(t.raw) > maxPooledHead {
		t.raw = make([]byte, 0, 1<<10)
	}
	s.streams.Put(t)
}

// open makes s a stream of c. c.mu is held.
func (s *stream) open(c *conn, id uint32, end bool) {
	s.c, s.id = c, id
	s.date, s.trailers = s.date[:0], s.trailers[:0]
	s.cut, s.replied = false, 0
	s.window, s.receive, s.owed = c.initial, int64(c.limits.StreamWindow), 0
	s.ended, s.closed, s.reset, s.started, s.late, s.queued, s.writeBy = false, false, false, false, false, false, 0
	s.canWrite.L = &c.mu
	b := s.body
	b.begin(s)
	s.hasBody = !end && !s.connect
	s.upgrade, s.tunnel = nil, nil
	if s.why == nil && s.stated {
		b.length = s.head.ContentLength
		s.hasBody = !end && b.length > 0
	}
	b.waits = s.hasBody && s.why == nil && s.head.Expect
	switch {
	case s.connect: // what comes is for the tunnel
	case !s.hasBody:
		b.done.Store(true)
		b.err = io.EOF
	case s.settings.MaxBody > 0:
		b.lower(s.settings.MaxBody)
	}
	if end {
		s.endOfBody(nil)
	}
	s.mu.Lock()
	s.seq.Add(1)
	s.gone = false
	s.mu.Unlock()
}

// serve answers the request. When it returns, s may be another one's.
func (s *stream) serve() {
	c := s.c
	mine := s.finish(s.answer())
	c.srv.recycle(s)
	if mine {
		c.flushOwn()
	}
}

// answer has the handler make the reply, and sends it; complete is false where
// the client must not take what it has for one.
func (s *stream) answer() (complete bool) {
	defer func() {
		if v := recover(); v != nil {
			complete = s.panicked(v)
		}
	}()
	if s.why != nil {
		return s.refuse(s.why)
	}
	s.fill()
	s.settings.Handler(&s.ctx, s)
	resp := &s.ctx.Response
	if late := s.ctx.LastTimeoutErrorResponse(); late != nil { // the handler still runs and uses ctx
		s.dirty, resp = true, late
	}
	complete = s.reply(resp)
	s.OnGone(nil)
	if s.upgrade != nil {
		s.runTunnel()
	}
	if !s.dirty {
		exchange.End(&s.ctx)
	}
	return complete
}

// fill makes the fasthttp request of the head.
func (s *stream) fill() {
	s.ctx.Init2(s.c.face.Conn(), nil, false)
	s.ctx.Response.Header.SetNoDefaultContentType(true)
	s.head.Fill(&s.ctx.Request.Header)
	if s.hasBody {
		s.ctx.Request.SetBodyStream(s.body, int(s.body.length))
	}
}

// panicked ends a request whose handler panicked. Its state is in an unknown
// condition: a stale exchange in it could make another request skip its chain.
func (s *stream) panicked(v any) (complete bool) {
	if f := s.settings.Panicked; f != nil {
		f(v, debug.Stack())
	}
	s.dirty = true
	s.OnGone(nil)
	s.c.mu.Lock()
	started := s.started
	s.c.mu.Unlock()
	if !started {
		complete = s.refuse(reason.Internal)
	}
	defer func() { _ = recover() }() // closing what the handler left may panic again
	if s.upgrade != nil {
		s.runTunnel()
	}
	exchange.End(&s.ctx)
	return complete
}

// finish ends what is left of the stream; mine says that the caller is to flush.
func (s *stream) finish(complete bool) (mine bool) {
	s.OnGone(nil)
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.closed && !s.reset {
		if !c.dead {
			c.out = frames.AppendReset(c.room(), s.id, frames.InternalError)
			c.cut.add(s.id)
		}
		c.forget(s)
	}
	s.reset = true
	s.dequeue()
	b := s.body
	b.end()
	if !b.done.Load() {
		s.body = new(body) // its reader may not know yet that it is over
	}
	c.running--
	c.endIfDone()
	if c.running == 0 && c.gone {
		c.quiet.Broadcast()
	}
	return c.claim()
}

// wakeAll lets whoever waits look at what has become of s. c.mu is held.
func (s *stream) wakeAll() {
	s.canWrite.Broadcast()
	s.body.canRead.Broadcast()
}

// OnGone implements exchange.Front. Once it has returned, the Aborter
// registered before does not run and will not.
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

// hungUp is called when nobody waits for the reply any more, if s still is the
// request it was.
func (s *stream) hungUp(seq uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seq.Load() != seq {
		return
	}
	s.gone = true
	if a := s.aborter; a != nil {
		s.aborter = nil
		a.Abort()
	}
}
