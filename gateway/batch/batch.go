// Package batch is a connection for protocols of many small frames: what is
// written while a write is under way goes out together with the next one. A
// call of gRPC is four or five frames each way; with net/http alone each would be
// a system call and, over TLS, a record.
package batch

import (
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

const (
	// most is how many bytes may wait before Write does: what a connection whose
	// client reads slowly holds besides what the protocol's own windows allow.
	most = 64 << 10
	// large is what is written at once if nothing else waits: copying it would
	// cost more than another system call.
	large = 8 << 10
	// lastWords is how long Close lets what was written still go out.
	lastWords = time.Second
)

var longAgo = time.Unix(1, 0)

// Conn is a connection whose Write does not wait for the kernel: an error shows
// with a later call, and Close lets what was written go out first. It is for any
// number of writers.
type Conn struct {
	net.Conn

	mu      sync.Mutex // guards what follows
	room    sync.Cond  // told when bytes have gone, or none will
	waiting []byte
	spare   []byte        // what waits while waiting is being written
	writing bool          // somebody writes, and looks for more when done
	closed  bool          // Close was called: no more writes
	late    bool          // the deadline for writing has passed
	timeout time.Duration // of each write; 0: none
	failed  error         // of the first write that failed
}

// New makes nc such a connection; nobody else may write to it any more.
func New(nc net.Conn) *Conn {
	c := &Conn{Conn: nc}
	c.room.L = &c.mu
	return c
}

// NetConn is the connection below.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// refusal is why nothing can be written. c.mu is held.
func (c *Conn) refusal() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.failed != nil:
		return c.failed
	case c.late:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Write implements net.Conn. It waits only where much is waiting already.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	for c.refusal() == nil && len(c.waiting) > 0 && len(c.waiting)+len(p) > most {
		c.room.Wait()
	}
	if err := c.refusal(); err != nil {
		c.mu.Unlock()
		return 0, err
	}
	if len(p) >= large && !c.writing {
		c.writing = true // and nothing waits: nobody would have left it
		c.write(p)
		err := c.failed
		c.rest()
		if err != nil {
			return 0, err
		}
		return len(p), nil
	}
	if c.waiting == nil {
		c.waiting = buffers.Get().(*buffer).b[:0]
	}
	c.waiting = append(c.waiting, p...)
	start := !c.writing
	c.writing = true
	c.mu.Unlock()
	if start {
		go c.flush()
	}
	return len(p), nil
}

// buffer has room for all that may wait, so that it never grows.
type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, most)} }}

// flush writes what waits, and what has come meanwhile, until there is no more.
func (c *Conn) flush() {
	// Whoever is about to write the next frame gets to do so first.
	runtime.Gosched()
	c.mu.Lock()
	c.rest()
}

// rest writes what waits and ends the writing. c.mu is held, and is not after.
func (c *Conn) rest() {
	for len(c.waiting) > 0 && c.failed == nil {
		out := c.waiting
		c.waiting, c.spare = c.spare, nil
		c.write(out)
		if c.waiting == nil {
			c.waiting = out[:0]
		} else {
			c.spare = out[:0]
		}
	}
	give(c.waiting)
	give(c.spare)
	c.waiting, c.spare, c.writing = nil, nil, false
	closed := c.closed
	c.mu.Unlock()
	if closed {
		_ = c.Conn.Close() // Close has answered already
	}
}

func give(b []byte) {
	if cap(b) == most {
		buffers.Put(&buffer{b})
	}
}

// write writes out. c.mu is held, but not while writing.
func (c *Conn) write(out []byte) {
	timeout := c.timeout
	if c.closed {
		timeout = 0 // Close has set the last one
	}
	c.mu.Unlock()
	var err error
	if timeout > 0 {
		err = c.Conn.SetWriteDeadline(time.Now().Add(timeout))
	}
	if err == nil {
		_, err = c.Conn.Write(out)
	}
	c.mu.Lock()
	if c.failed == nil {
		c.failed = err
	}
	c.room.Broadcast()
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.Conn.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetWriteDeadline implements net.Conn. What has been written already goes out
// all the same, and the time that is left now is what each later write to the
// kernel may take.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.late = false
	if t.IsZero() {
		return nil // the last frames are still on their way
	}
	if left := time.Until(t); left > 0 {
		c.timeout = left
	} else {
		c.late = true
	}
	return nil
}

// Close implements net.Conn. What was written goes out, within a second; reads
// end at once.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.closed = true
	c.room.Broadcast()
	if !c.writing {
		c.mu.Unlock()
		return c.Conn.Close()
	}
	// Both fail only where the writer will fail as well.
	_ = c.Conn.SetWriteDeadline(time.Now().Add(lastWords))
	_ = c.Conn.SetReadDeadline(longAgo)
	c.mu.Unlock()
	return nil
}
