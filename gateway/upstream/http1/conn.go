package http1

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

const (
	bufferSize = 8 << 10  // most replies come whole, head and body
	keepBuffer = 32 << 10 // a larger buffer is not kept by an idle connection
)

// Conn is a connection with one request at a time on it. Between Get and
// Release it belongs to one goroutine; only Abort may be called by others.
type Conn struct {
	pool *Pool
	nc   net.Conn
	rc   syscall.RawConn // nil: not a plain socket
	raw  rawState
	calm quieter // nil: a plain socket, or nothing is known

	next, prev *Conn        // guarded by Manager.mu
	idleSince  atomic.Int64 // Manager.now when it became idle, 0 in use; set under Pool.mu
	examineAt  int64        // the manager's goroutine's own

	// See deadline.go.
	answered    atomic.Bool // the reply's head has come
	deadline    atomic.Int64
	limit, idle atomic.Int64
	timerMu     sync.Mutex // guards timer
	timer       *time.Timer

	call   *transport.Call
	reused bool

	in       []byte // in[r:w] is received and not yet used
	r, w     int
	wrote    bool // the request, or its head, has been handed to the kernel
	writeErr error
	err      error
	refused  *reason.Reason

	head     wire.RespHead
	headRaw  []byte // what head's offsets are relative to
	interims int
	scratch  []byte

	body       wire.Body
	untilClose bool // the reply body ends with the connection
	complete   bool // the reply has been read to its end
	upload     upload
}

func newConn(p *Pool, nc net.Conn) *Conn {
	c := &Conn{pool: p, nc: nc, in: make([]byte, bufferSize)}
	c.upload.done = make(chan struct{}, 1)
	c.calm, _ = nc.(quieter)
	c.openRaw()
	p.open.Add(1)
	p.manager.add(c)
	return c
}

// quieter is a connection that is more than its socket, and can tell without
// waiting that nothing has come on it; dial.Conn is one.
type quieter interface{ Quiet() bool }

// quietPortable is quiet where the socket tells nothing.
func (c *Conn) quietPortable() bool { return c.calm == nil || c.calm.Quiet() }

// close ends the connection for good.
func (c *Conn) close() {
	c.forget()
	_ = c.nc.Close() // nothing is left to be lost
}

// forget takes c out of the pool's books.
func (c *Conn) forget() {
	c.stopTimer()
	c.pool.manager.remove(c)
	c.pool.open.Add(-1)
	if c.pool.gate != nil {
		c.pool.gate.leave()
	}
}

// Abort implements transport.Conn.
func (c *Conn) Abort() { c.kill(stateGone) }

// Reused implements transport.Conn.
func (c *Conn) Reused() bool { return c.reused }

// Protocol implements transport.Conn.
func (c *Conn) Protocol() string { return transport.HTTP1 }

// Buffered implements wire.Source.
func (c *Conn) Buffered() []byte { return c.in[c.r:c.w] }

// Consume implements wire.Source.
func (c *Conn) Consume(n int) { c.r += n }

// Direct implements wire.Source.
func (c *Conn) Direct(p []byte) (int, error) {
	n, err := c.nc.Read(p)
	if n > 0 {
		c.touch()
	}
	return n, err
}

// More implements wire.Source.
func (c *Conn) More() error {
	c.room()
	n, err := c.nc.Read(c.in[c.w:])
	c.w += n
	if n > 0 {
		c.touch()
		return nil
	}
	return err
}

// room makes sure that in has space behind w.
func (c *Conn) room() {
	switch {
	case c.r == c.w:
		c.r, c.w = 0, 0
	case c.w < len(c.in):
	case c.r > 0:
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	default:
		c.in = append(c.in, make([]byte, len(c.in))...)
	}
}
