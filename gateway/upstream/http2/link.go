package http2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

const (
	// connWindow is how much may come on a connection before more is allowed. It is
	// allowed at once, whoever reads it: what is held is bounded for each stream, so
	// that a slow client does not hold up the others.
	connWindow = 1 << 30
	// mostStreams is how many streams are used of an endpoint that sets no limit
	// (net/http has the same).
	mostStreams = 1000
	// lastStream leaves room for the streams that are being opened.
	lastStream = frames.MaxWindow - 2*mostStreams
)

// link is one connection.
type link struct {
	pool *Pool
	nc   net.Conn
	w    *frames.Writer
	in   input // the reader's own

	used   atomic.Bool
	active int       // requests; guarded by Pool.mu
	since  time.Time // when the last of them ended; guarded by Pool.mu
	timer  *time.Timer
	most   atomic.Int32 // requests at once that the endpoint takes
	ending atomic.Bool  // it takes no more
	heard  atomic.Int64 // when, in Unix nanoseconds
	// suspect is when a request began that has timed out while nothing at all was
	// heard, in Unix nanoseconds; 0: none.
	suspect atomic.Int64
	settled chan struct{} // closed when the endpoint's SETTINGS have come
	closed  chan struct{}

	// Of what is sent; guarded by w, between its Begin and End.
	enc   *frames.Encoder
	block []byte

	mu      sync.Mutex // guards what follows, and a Conn's window, place, stuck, sent, got and over; taken within w
	streams map[uint32]*Conn
	next    uint32 // the next stream's
	last    uint32 // the endpoint looks at no later one
	window  frames.Window
	initial frames.Window // of a stream
	frame   int           // the largest
	list    int64         // the largest head; 0: no limit
	// Who waits: for the connection's window, for less to wait to be written, and
	// how many do.
	share, room line
	lined       atomic.Int32
	moved       int    // heads and bodies' frames sent since the reader has counted them
	err         *fault // why it was closed
}

func newLink(p *Pool, nc net.Conn) *link {
	l := &link{
		pool: p, nc: nc, enc: frames.NewEncoder(), streams: map[uint32]*Conn{},
		settled: make(chan struct{}), closed: make(chan struct{}),
		next: 1, last: frames.MaxWindow, window: frames.DefaultWindow, initial: frames.DefaultWindow, frame: frames.MinFrame,
	}
	l.most.Store(mostStreams)
	l.heard.Store(time.Now().UnixNano())
	l.w = frames.NewWriter(nc, userTimeout, l.drained)
	l.in.start(l)
	l.timer = time.AfterFunc(never, func() { p.idled(l) })
	l.timer.Stop()
	return l
}

// greet sends what a client begins with.
func (l *link) greet() error {
	b, err := l.w.Begin()
	if err != nil {
		return err
	}
	s := &l.pool.settings
	b = append(b, frames.Preface...)
	b = frames.AppendSettings(b,
		frames.Setting{ID: frames.EnablePush},
		frames.Setting{ID: frames.InitialWindowSize, Value: uint32(s.Window)},
		frames.Setting{ID: frames.MaxHeaderListSize, Value: uint32(headFactor * s.Limits.Head)})
	l.w.End(frames.AppendWindowUpdate(b, 0, connWindow-frames.DefaultWindow))
	return nil
}

// Read implements io.Reader for the reader. Whoever waits for what has come is
// told before it waits itself.
func (l *link) Read(p []byte) (int, error) {
	l.in.ring()
	n, err := l.nc.Read(p)
	if n > 0 {
		l.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

// control sends a frame that says something about the connection.
func (l *link) control(appended func(b []byte) []byte) {
	if b, err := l.w.Begin(); err == nil {
		l.w.End(appended(b))
	}
}

var errClosed = errors.New("the connection was closed")

// close ends the connection, whatever is going on there.
func (l *link) close() {
	l.end(&fault{reason: reason.UpstreamReset, cause: errClosed, connection: true}, frames.NoError)
}

// end ends the connection because of f; code tells the endpoint.
func (l *link) end(f *fault, code frames.Code) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = f
	l.ending.Store(true)
	all := make([]ended, 0, len(l.streams))
	for id, c := range l.streams {
		c.over = true
		all = append(all, ended{c, id})
	}
	clear(l.streams)
	for c := l.room.first; c != nil; c = c.place.next { // some have no stream yet
		ring(c.place.bell)
	}
	l.mu.Unlock()
	l.control(func(b []byte) []byte { return frames.AppendGoAway(b, 0, code, "") })
	l.w.Close()
	for _, e := range all {
		e.c.fail(l, e.id, f)
	}
	l.timer.Stop()
	l.pool.lost(l)
	close(l.closed)
}

// ended is a stream that its connection has ended.
type ended struct {
	c  *Conn
	id uint32
}

// over reports that the connection has been closed, or takes no requests.
func (l *link) over() bool { return l.ending.Load() }

// ring wakes who waits for a bell, now or the next time.
func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// silent is called when a request that began at since has timed out. A
// connection on which nothing was heard is asked; without an answer it is dead.
func (l *link) silent(since int64) {
	if l.heard.Load() > since || !l.suspect.CompareAndSwap(0, since) {
		return
	}
	l.control(func(b []byte) []byte { return frames.AppendPing(b, false, [8]byte{}) })
	time.AfterFunc(l.pool.settings.PingTimeout, func() {
		if l.heard.Load() <= since {
			l.close() // suspected as long as it could be used
			return
		}
		l.suspect.Store(0)
	})
}

// suspected reports that nothing has been heard since.
func (l *link) suspected() bool {
	since := l.suspect.Load()
	return since != 0 && l.heard.Load() <= since
}

var (
	errNotHTTP2   = errors.New("the endpoint does not speak HTTP/2: it answered in HTTP/1")
	errNotFrames  = errors.New("the endpoint does not speak HTTP/2: it sent something else instead of sending SETTINGS")
	errEnded      = errors.New("the endpoint closed the connection instead of sending SETTINGS")
	errNoSettings = errors.New("no SETTINGS from the endpoint")
)

// settle waits for the endpoint's SETTINGS, which show that it speaks HTTP/2
// and how many streams it takes.
func (l *link) settle(ctx context.Context) error {
	select {
	case <-l.settled:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errNoSettings, ctx.Err())
	case <-l.closed:
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.err.cause
	}
}

// stranger says why a connection ended before SETTINGS.
func (l *link) stranger(err error) error {
	switch {
	case bytes.HasPrefix(l.in.r.Peek(), []byte("HTTP/1.")):
		return errNotHTTP2
	case brokenBy(err) != nil:
		return errNotFrames
	}
	return errEnded
}
