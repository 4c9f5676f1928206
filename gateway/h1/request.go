package h1

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// request is what a connection knows of the request in progress besides its
// state; the zero value begins one.
type request struct {
	hasBody   bool
	started   bool // the reply has been begun
	cut       bool // end the connection without completing the reply
	leftover  bool // the reply is written, and the body not read to its end
	dirty     bool // the state must not be pooled
	replied   int64
	drainBy   int64 // coarse time to read the rest of the body until; 0: not draining
	upgrade   func(client net.Conn, early []byte)
	bodyBroke atomic.Bool // InterruptBody was called
}

// begin forgets the request before, but keeps its memory.
func (c *conn) begin() {
	c.hasBody, c.started, c.cut, c.leftover, c.dirty = false, false, false, false, false
	c.replied, c.drainBy, c.upgrade = 0, 0, nil
	c.s.date, c.s.trailers = c.s.date[:0], c.s.trailers[:0]
	if c.bodyBroke.Load() {
		c.bodyBroke.Store(false)
	}
}

// handle runs the handler for the head just parsed and writes the reply. It
// returns true when the connection can be used again, once the rest of the body
// is read if there is a leftover.
func (c *conn) handle() (keep bool) {
	c.phase.Store(phaseBusy)
	c.seq.Add(1)
	c.readBy.Store(0)
	c.begin()
	s := c.s
	ctx, h := &s.ctx, &s.head
	c.fill(ctx, h)

	c.settings.Handler(ctx, c)

	resp := &ctx.Response
	late := ctx.LastTimeoutErrorResponse()
	if late != nil { // the handler still runs and uses ctx
		c.dirty = true
		resp = late
		resp.SetConnectionClose()
	}
	keep = c.reply(resp)
	c.OnGone(nil)
	if late != nil {
		return false
	}
	if c.hasBody && !s.body.done.Load() {
		c.leftover = true
	}
	if c.upgrade != nil {
		return false // the request goes on as a tunnel
	}
	exchange.End(&c.s.ctx)
	if keep {
		c.readBy.Store(c.srv.clock.After(c.settings.IdleTimeout))
	}
	return keep
}

// fill makes the fasthttp request of the head.
func (c *conn) fill(ctx *fasthttp.RequestCtx, h *wire.Head) {
	ctx.Init2(c.face, nil, false)
	ctx.Response.Header.SetNoDefaultContentType(true)
	h.Fill(&ctx.Request.Header)
	b := c.s.body
	b.start(c, h)
	if c.hasBody = h.HasBody(); c.hasBody {
		n := int(h.ContentLength)
		if h.Chunked {
			n = -1
		}
		ctx.Request.SetBodyStream(b, n)
	}
}

// requestBody is the body stream of one request. A reader in another goroutine
// (an upload that goes on while the reply comes) is allowed for.
type requestBody struct {
	c     *conn
	count atomic.Int64
	done  atomic.Bool // read to its end by whoever wanted it
	waits atomic.Bool // the client waits for 100 Continue

	mu   sync.Mutex // held while reading
	body wire.Body
	over bool // the request is: nothing of the connection is read any more

	continues sync.Mutex // one interim or final reply head at a time
}

func (b *requestBody) start(c *conn, h *wire.Head) {
	b.c = c
	b.mu.Lock()
	b.over = false
	b.body.Start(c, h.Chunked, h.ContentLength, c.settings.MaxBody)
	b.mu.Unlock()
	b.count.Store(0)
	b.done.Store(!h.HasBody())
	b.waits.Store(h.Expect && h.HasBody() && c.r == c.w)
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errOver
	}
	if b.waits.Load() {
		if err := b.sendContinue(); err != nil {
			return 0, reason.ClientGone.Wrap(err)
		}
	}
	n, err := b.body.Read(p)
	b.count.Store(b.body.Count)
	if b.body.AtEOF() && err == io.EOF {
		b.done.Store(true)
	}
	return n, err
}

func (b *requestBody) sendContinue() error {
	b.continues.Lock()
	defer b.continues.Unlock()
	if !b.waits.Swap(false) {
		return nil
	}
	if b.c.started {
		b.over = true // refused: the client will not send it
		return errOver
	}
	return b.c.write(statusLine100)
}

// drainable says that the rest is short, of known length and on its way.
func (b *requestBody) drainable() bool {
	if b.waits.Load() || b.c.bodyBroke.Load() || !b.mu.TryLock() {
		return false // in TryLock's case somebody is reading it
	}
	defer b.mu.Unlock()
	n, ok := b.body.Remaining()
	return ok && n <= maxDrain && !b.over
}

// drain reads the rest of a body nobody wanted.
func (c *conn) drain() bool {
	c.drainBy = c.srv.clock.After(drainTime)
	b := c.s.body
	b.mu.Lock()
	defer b.mu.Unlock()
	var p [4 << 10]byte
	for {
		if _, err := b.body.Read(p[:]); err != nil {
			return err == io.EOF
		}
	}
}

// endBody makes sure that nobody reads the connection through this request's
// body any more. A reader that may not know yet that it is over keeps the body
// it has; the next request gets another.
func (c *conn) endBody() {
	c.keep = 0
	if c.s == nil || !c.hasBody {
		return
	}
	b := c.s.body
	if !b.mu.TryLock() {
		c.bodyBroke.Store(true)
		_ = c.nc.SetReadDeadline(longAgo) // closed meanwhile: nobody is blocked then
		b.mu.Lock()
	}
	b.over = true
	b.mu.Unlock()
	if !b.done.Load() {
		c.s.body = new(requestBody)
	}
}

// ---- wire.Source

func (c *conn) Buffered() []byte { return c.s.in[c.r:c.w] }

func (c *conn) Consume(n int) { c.r += n }

func (c *conn) Direct(p []byte) (int, error) { return c.readBody(p) }

// More keeps the head where it is: its slices are in use.
func (c *conn) More() error {
	s := c.s
	if c.r == c.w {
		c.r, c.w = c.keep, c.keep
	}
	if len(s.in)-c.w < 256 {
		if c.r-c.keep >= len(s.in)/4 {
			c.w = c.keep + copy(s.in[c.keep:], s.in[c.r:c.w])
			c.r = c.keep
		} else {
			larger := make([]byte, max(2*len(s.in), 16<<10))
			c.w = copy(larger, s.in[c.r:c.w])
			c.r, c.keep, s.in = 0, 0, larger
		}
	}
	n, err := c.readBody(s.in[c.w:])
	c.w += n
	return err
}

// readBody reads from the socket for as long as a body may take.
func (c *conn) readBody(p []byte) (int, error) {
	for {
		by := c.drainBy
		if by == 0 {
			by = c.srv.clock.After(c.settings.BodyTimeout)
		}
		if c.bodyBroke.Load() {
			return 0, errInterrupted
		}
		c.readBy.Store(by)
		n, err := c.nc.Read(p)
		c.readBy.Store(0)
		if n > 0 {
			return n, nil
		}
		switch {
		case err == nil, err == io.EOF:
			return 0, err
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, reason.BodyCut.Wrap(err)
		}
		_ = c.nc.SetReadDeadline(time.Time{}) // then look why: a kick is only a hint
		if by != 0 && c.srv.clock.Now() >= by {
			return 0, reason.BodyTimeout
		}
	}
}

// panicked ends a connection whose handler panicked. Its state is in an unknown
// condition: a stale exchange in it could make another request skip its chain.
func (c *conn) panicked(v any) {
	c.inReady = false
	stack := debug.Stack()
	if f := c.settings.Panicked; f != nil {
		f(v, stack)
	}
	c.dirty, c.keep = true, 0
	c.OnGone(nil)
	if !c.started {
		c.refuse(reason.Internal)
	} else {
		c.reset()
	}
	if c.s != nil {
		defer func() { _ = recover() }() // closing what the handler left may panic again
		c.dropUpgrade()
		c.endBody()
		exchange.End(&c.s.ctx)
	}
}
