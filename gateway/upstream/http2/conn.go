package http2

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// Conn is one request and its stream. It is pooled unless it was ended before
// its time. Locks are taken in this order: mu, the writer's, link.mu.
type Conn struct {
	pool   *Pool
	reused bool
	call   *transport.Call
	// bell wakes the goroutine that has the request, room the one that sends its
	// body. Either may ring for nothing.
	bell, room chan struct{}

	// The request; see request.go and send.go.
	text     []byte // of the head, with names in lower case
	fields   []field
	listed   int64  // what the fields count for the endpoint's limit
	length   int64  // of the body; below 0: not known
	rest     []byte // of a body at hand, which is still to be sent
	more     []byte // behind rest
	upload   upload
	pumping  sync.WaitGroup
	opened   bool        // the head has been handed to the kernel
	queued   bool        // stuck or place may be set; of who sends
	allSent  atomic.Bool // the end of the request has been
	uploaded bool        // the body has a goroutine

	// See deadline.go.
	mu          sync.Mutex // guards link, live, armed, setting state, and what the link's reader touches
	link        *link
	live        bool         // between Do and Release
	state       atomic.Int32 // why it was ended
	began       int64
	armed       int64 // when the timer goes off; 0: never
	limit, idle atomic.Int64
	answer      atomic.Int64
	touched     atomic.Int64
	timer       *time.Timer
	answered    atomic.Bool // the reply's head has come

	id atomic.Uint32 // the stream's; 0: none yet
	// Guarded by link.mu.
	window    frames.Window // what may be sent
	sent, got bool          // a side has ended
	stuck     chan struct{} // to be rung when window is more than 0; nil: it need not
	place     place
	over      bool // nothing may be sent any more

	// What the link's reader has read; guarded by mu. raw is left alone once
	// headed is set.
	raw       []byte // the reply's head in HTTP/1 form
	headed    bool   // raw is there
	headEnded bool   // and nothing follows it
	announced bool   // trailers may follow
	body      frames.Buffer
	inflow    frames.Inflow
	expect    int64 // the body's length; below 0: not known
	came      int64 // of the body
	trailers  []byte
	ended     bool // all has come
	err       *fault
	interims  int
	informing []interim // interim replies to be passed on
	lingering bool      // released; its place is given back when it ends

	// The reply as its reader has it.
	head     wire.RespHead
	whole    []byte // a body that lay in pieces
	complete bool
	trailing bool // the body is empty, but trailers follow it
}

type interim struct {
	status int
	lines  []byte
}

func newConn(p *Pool) *Conn {
	c := &Conn{pool: p, bell: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	c.upload.conn = c
	c.timer = time.AfterFunc(never, c.onTimer)
	c.timer.Stop()
	return c
}

// take gives c its place.
func (c *Conn) take(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link, c.reused = l, l.used.Swap(true)
	c.inflow = frames.NewInflow(int32(c.pool.settings.Window))
}

// Reused implements transport.Conn.
func (c *Conn) Reused() bool { return c.reused }

// Protocol implements transport.Conn.
func (c *Conn) Protocol() string {
	if c.pool.settings.Scheme == "https" {
		return transport.HTTP2
	}
	return transport.ClearHTTP2
}

// Abort implements transport.Conn: the endpoint is told by RST_STREAM.
func (c *Conn) Abort() { c.end(stateGone) }

// Adopt implements transport.Conn.
func (c *Conn) Adopt(w transport.Watcher) {
	c.call.Watch = w
	w.OnGone(c)
}

// BodyRead implements transport.Conn.
func (c *Conn) BodyRead() bool { return c.upload.allRead.Load() }

// Do implements transport.Conn.
func (c *Conn) Do(call *transport.Call) error {
	c.call = call
	if call.Upgrade {
		f := transport.Fail(reason.UpstreamNoUpgrade, errNoUpgrade)
		c.leave()
		return f
	}
	if err := c.prepare(call); err != nil {
		f := transport.Fail(reason.Internal, err)
		c.leave()
		return f
	}
	c.begin(call)
	if call.Watch != nil {
		call.Watch.OnGone(c)
	}
	if f := c.open(); f != nil {
		return c.failed(f)
	}
	if c.uploaded {
		c.pumping.Go(c.pump)
	}
	if f := c.await(); f != nil {
		return c.failed(f)
	}
	if r := c.translate(); r != nil {
		return c.refused(r)
	}
	if err := c.drain(); err != nil {
		return err
	}
	return nil
}

// await waits for the reply's head, passes interim replies on and sends what is
// left of a body that is at hand.
func (c *Conn) await() *fault {
	for {
		c.mu.Lock()
		f, headed, informing := c.broke(), c.headed, c.informing
		c.informing = nil
		c.mu.Unlock()
		if len(informing) > 0 {
			c.turnAway() // to the client, which may take its time
		}
		for _, i := range informing {
			// A client that cannot be reached shows when the reply is written.
			_ = c.call.Front.Inform(i.status, i.lines)
		}
		switch {
		case headed && c.state.Load() == stateNone:
			c.turnAway()
			return nil
		case f != nil:
			c.turnAway()
			return f
		}
		if !c.sendRest() {
			<-c.bell
		}
	}
}

// broke is why nothing more can be expected, nil if it can. c.mu is held.
func (c *Conn) broke() *fault {
	if s := c.state.Load(); s != stateNone {
		return &fault{reason: reason.UpstreamReset, cause: errStates[s]}
	}
	return c.err
}

// fail is told by the link that stream id has ended by f.
func (c *Conn) fail(l *link, id uint32, f *fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != l || c.id.Load() != id {
		return
	}
	if !c.ended && c.err == nil {
		c.err = f
	}
	if c.lingering {
		c.lingering = false
		go c.leave()
		return
	}
	ring(c.bell)
	ring(c.room)
}

// Release implements transport.Conn.
func (c *Conn) Release() (bodyErr error) {
	c.retire()
	bodyErr = c.upload.failure()
	if c.linger() {
		return bodyErr
	}
	c.finish()
	c.leave()
	return bodyErr
}

// linger leaves the stream to the link if its reply is complete, but its end has
// not been seen: to end it before would cancel what the endpoint still does.
func (c *Conn) linger() bool {
	if !c.complete || !c.allSent.Load() {
		return false
	}
	c.pumping.Wait() // it has sent all
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.err != nil || c.state.Load() != stateNone {
		return false
	}
	c.lingering, c.live = true, true
	c.limit.Store(time.Now().UnixNano() + int64(c.pool.settings.IdleTimeout))
	c.arm()
	return true
}

// finish ends the stream and lets go of the request's body. Nothing of the call
// is touched afterwards.
func (c *Conn) finish() {
	c.link.reset(c, frames.Cancel)
	ring(c.room)
	c.upload.stop()
	c.pumping.Wait()
}

// leave gives the stream's place back.
func (c *Conn) leave() {
	c.mu.Lock()
	l := c.link
	l.unqueue(c)
	clean := c.state.Load() == stateNone
	c.link, c.call, c.live = nil, nil, false
	c.forget()
	c.mu.Unlock()
	if clean {
		c.pool.streams.Put(c)
	}
	c.pool.done(l)
}

// forget makes c ready for another call. c.mu is held.
func (c *Conn) forget() {
	c.id.Store(0)
	c.window, c.sent, c.got, c.over = 0, false, false, false
	clear(c.fields)
	c.fields, c.rest, c.more = c.fields[:0], nil, nil
	c.upload = upload{conn: c}
	c.opened, c.uploaded = false, false
	c.allSent.Store(false)
	c.answered.Store(false)
	c.headed, c.headEnded, c.announced, c.ended, c.lingering = false, false, false, false, false
	c.body.Reset()
	c.expect, c.came, c.err = -1, 0, nil
	c.interims, c.informing = 0, nil
	c.complete, c.trailing = false, false
	c.trailers = c.trailers[:0]
	if cap(c.raw)+cap(c.text)+cap(c.whole)+cap(c.trailers) > keepHead {
		c.raw, c.text, c.whole, c.trailers = nil, nil, nil, nil
	}
}

// keepHead is how much memory for heads is kept.
const keepHead = 32 << 10

var _ exchange.Aborter = (*Conn)(nil)
