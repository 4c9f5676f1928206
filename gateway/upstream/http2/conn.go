package http2

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// Conn is one request and its stream. It is also the request's context, so that
// ending it costs nothing until it happens. It is pooled unless it was ended or
// net/http may still be busy with it.
type Conn struct {
	pool   *Pool
	link   *link
	reused bool
	call   *transport.Call

	// The request, made once and filled in for each call.
	req    *http.Request
	url    url.URL
	values []string
	trace  httptrace.ClientTrace
	traced context.Context

	// See deadline.go.
	mu          sync.Mutex    // guards live, setting state and res
	live        bool          // between Do and Release
	state       atomic.Int32  // why it was ended
	done        chan struct{} // closed when state is set
	began       int64
	limit, idle atomic.Int64
	answer      atomic.Int64
	touched     atomic.Int64
	timer       *time.Timer
	answered    atomic.Bool // the reply's head has come

	sent     atomic.Bool // the request's head has been handed to the kernel
	upload   upload
	interims interims

	res      *http.Response
	head     wire.RespHead
	raw      []byte // the reply's head in HTTP/1 form
	trailers []byte
	left     int64 // of the body; below 0: not known
	complete bool
	lingers  bool // complete, but the stream's end has not been seen
	trailing bool // the body is empty, but trailers follow it
	got      bool // some of the body has been read
}

func newConn(p *Pool) *Conn {
	c := &Conn{pool: p, done: make(chan struct{})}
	c.trace = httptrace.ClientTrace{
		WroteHeaders:   func() { c.sent.Store(true) },
		WroteRequest:   c.wroteRequest,
		Got1xxResponse: c.interim,
	}
	c.traced = httptrace.WithClientTrace(context.Background(), &c.trace)
	c.req = (&http.Request{
		URL: &c.url, Proto: "HTTP/2.0", ProtoMajor: 2, Header: http.Header{},
	}).WithContext(c)
	c.upload.conn = c
	c.timer = time.AfterFunc(never, c.onTimer)
	c.timer.Stop()
	return c
}

// Deadline implements context.Context: what ends when is not net/http's to know.
func (c *Conn) Deadline() (t time.Time, ok bool) { return t, false }

// Done implements context.Context.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err implements context.Context.
func (c *Conn) Err() error {
	if c.state.Load() == stateNone {
		return nil
	}
	return context.Canceled
}

// Value implements context.Context.
func (c *Conn) Value(key any) any { return c.traced.Value(key) }

// Reused implements transport.Conn.
func (c *Conn) Reused() bool { return c.reused }

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
		c.link.client.Release()
		f := transport.Fail(reason.UpstreamNoUpgrade, errNoUpgrade)
		c.leave(true)
		return f
	}
	if err := c.prepare(call); err != nil {
		c.link.client.Release()
		f := transport.Fail(reason.Internal, err)
		c.leave(true)
		return f
	}
	c.begin(call)
	if call.Watch != nil {
		call.Watch.OnGone(c)
	}
	res, err := c.link.client.RoundTrip(c.req)
	c.interims.end()
	if err != nil {
		return c.failed(err)
	}
	c.received(res)
	if r := c.translate(res); r != nil {
		return c.refused(r)
	}
	if err := c.drain(); err != nil {
		return c.failed(err)
	}
	return nil
}

// Release implements transport.Conn.
func (c *Conn) Release() (bodyErr error) {
	c.retire()
	bodyErr = c.upload.failure()
	if c.lingers && !c.upload.pending() {
		c.upload.stop()
		go c.linger()
		return bodyErr
	}
	c.leave(c.finish())
	return bodyErr
}

// linger waits for the end of a stream whose reply is complete. To end it before
// would cancel what the endpoint still does.
func (c *Conn) linger() {
	late := time.AfterFunc(c.pool.settings.IdleTimeout, c.cut)
	_, _ = io.Copy(io.Discard, c.res.Body) // more than was announced is nobody's
	late.Stop()
	c.leave(c.finish())
}

// finish ends the stream and lets go of the request's body. The order matters:
// closing the reply's body waits for net/http's goroutine, which may be waiting
// in the request's body. It returns whether net/http is done with c.
func (c *Conn) finish() (clean bool) {
	if c.upload.pending() {
		c.cut()
	}
	c.upload.stop()
	if c.res == nil {
		return false
	}
	_ = c.res.Body.Close() // whatever is left of the reply is not wanted
	// A reply without a body has nothing to wait for, so that the sending of the
	// request may still be about to end.
	return c.state.Load() == stateNone && (c.got || !c.upload.some)
}

// cut ends a request that is over for us but not for net/http.
func (c *Conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(stateCut)
}

// leave gives the stream's place back. clean says that c can be used again.
func (c *Conn) leave(clean bool) {
	l := c.link
	c.link, c.call, c.res = nil, nil, nil
	if clean {
		c.forget()
		c.pool.streams.Put(c)
	}
	l.pool.done(l)
}

// interims passes interim replies on. net/http reports them where it reads the
// connection, which a slow client must not hold up: they have a goroutine.
type interims struct {
	mu      sync.Mutex
	count   int
	ended   bool
	running bool
	queue   []interim
	wg      sync.WaitGroup
}

type interim struct {
	status int
	lines  []byte
}

// end waits for what is under way; nothing is passed on afterwards.
func (i *interims) end() {
	i.mu.Lock()
	i.ended = true
	i.mu.Unlock()
	i.wg.Wait()
}

// interim implements httptrace.ClientTrace.Got1xxResponse. "100 Continue" stays
// here: the front has sent its own, and the endpoint was never asked.
func (c *Conn) interim(status int, fields textproto.MIMEHeader) error {
	c.touch()
	i := &c.interims
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.count++; i.count > transport.MaxInterims {
		return errTooManyInterims
	}
	if status == http.StatusSwitchingProtocols {
		return errSwitched
	}
	if i.ended || c.call.Front == nil || status == http.StatusContinue {
		return nil
	}
	i.queue = append(i.queue, interim{status, appendLines(nil, fields)})
	if !i.running {
		i.running = true
		front := c.call.Front
		i.wg.Go(func() { i.pass(front) })
	}
	return nil
}

func (i *interims) pass(front exchange.Front) {
	for {
		i.mu.Lock()
		if len(i.queue) == 0 {
			i.running = false
			i.mu.Unlock()
			return
		}
		next := i.queue[0]
		i.queue = i.queue[1:]
		i.mu.Unlock()
		// A client that cannot be reached shows when the reply is written.
		_ = front.Inform(next.status, next.lines)
	}
}
