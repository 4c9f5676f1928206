package http1

import (
	"errors"
	"io"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// upload is the goroutine that sends a request body while the reply may
// already come.
type upload struct {
	running bool
	done    chan struct{}
	// allRead says that the body's end has been reached: what is left is to
	// hand the last bytes to the kernel.
	allRead atomic.Bool
	// stopping says that we have stopped reading the body, which is nobody's fault.
	stopping atomic.Bool
	readErr  error // from the body, or errStopped; read after done
	writeErr error // from the connection; read after done
}

// errStopped ends a body that we did not want to read further.
var errStopped = errors.New("the request body was not read further")

const uploadBuffer = 32 << 10

var uploadBuffers = sync.Pool{New: func() any { b := make([]byte, uploadBuffer); return &b }}

func (c *Conn) startUpload() {
	u := &c.upload
	u.running, u.readErr, u.writeErr = true, nil, nil
	u.stopping.Store(false)
	go c.runUpload()
}

func (c *Conn) runUpload() {
	u := &c.upload
	u.send(c)
	if u.readErr != nil {
		// A body that broke off must never look complete to the endpoint.
		c.kill(stateCut)
	} else if u.writeErr == nil && c.call.Stream != nil && c.call.Answer > 0 {
		c.awaitAnswer(c.call.Answer)
	}
	u.done <- struct{}{}
}

func (u *upload) send(c *Conn) {
	call := c.call
	if u.write(c, call.Head); u.writeErr != nil {
		return
	}
	if call.Stream == nil {
		u.allRead.Store(true)
		u.write(c, call.Body)
		return
	}
	b := uploadBuffers.Get().(*[]byte)
	defer uploadBuffers.Put(b)
	if call.Length >= 0 {
		u.sendLength(c, *b, call.Length)
	} else {
		u.sendChunked(c, *b)
	}
}

func (u *upload) write(c *Conn, p []byte) {
	if len(p) == 0 {
		return
	}
	if _, u.writeErr = c.nc.Write(p); u.writeErr == nil {
		c.touch()
	}
}

// read fills p with at least a byte of the body. An error from Tee, which
// means that the copy grew too long, is not one.
func (u *upload) read(call *transport.Call, p []byte) (n int, end bool) {
	for range 100 {
		n, err := call.Stream.Read(p)
		if n > 0 && call.Tee != nil {
			_, _ = call.Tee.Write(p[:n])
		}
		if err == io.EOF {
			return n, true
		}
		if err != nil {
			if u.readErr = err; u.stopping.Load() {
				u.readErr = errStopped
			}
			return 0, true
		}
		if n > 0 {
			return n, false
		}
	}
	u.readErr = io.ErrNoProgress
	return 0, true
}

// sendLength sends n bytes of the body, of which call.Body may be the first.
func (u *upload) sendLength(c *Conn, b []byte, n int64) {
	first := c.call.Body
	left := n - int64(len(first))
	if u.write(c, first); u.writeErr != nil {
		return
	}
	for left > 0 {
		p := b
		if int64(len(p)) > left {
			p = p[:left]
		}
		m, end := u.read(c.call, p)
		if u.readErr != nil {
			return
		}
		if left -= int64(m); left == 0 {
			u.allRead.Store(true)
		} else if end {
			u.readErr = io.ErrUnexpectedEOF
			return
		}
		if u.write(c, p[:m]); u.writeErr != nil {
			return
		}
	}
	u.allRead.Store(true)
}

// sendChunked sends the body in chunks, as it comes, then the trailers.
func (u *upload) sendChunked(c *Conn, b []byte) {
	const room = 10 // size line before, CRLF after
	if first := c.call.Body; len(first) > 0 {
		u.write(c, append(strconv.AppendInt(b[:0], int64(len(first)), 16), "\r\n"...))
		u.write(c, first)
		u.write(c, crlf)
	}
	for u.writeErr == nil {
		m, end := u.read(c.call, b[room:len(b)-room])
		if u.readErr != nil {
			return
		}
		at, to := room, room+m
		if m > 0 {
			var size [8]byte
			line := append(strconv.AppendInt(size[:0], int64(m), 16), "\r\n"...)
			at -= copy(b[room-len(line):], line)
			to += copy(b[to:], crlf)
		}
		if end {
			u.allRead.Store(true)
			to += copy(b[to:], "0\r\n")
			u.write(c, b[at:to])
			if u.writeErr == nil {
				u.write(c, c.trailers(b[:0]))
			}
			return
		}
		u.write(c, b[at:to])
	}
}

var crlf = []byte("\r\n")

// trailers are the request's trailer section and the empty line after it.
func (c *Conn) trailers(b []byte) []byte {
	if f := c.call.Front; f != nil && f.BodyDone() {
		b = append(b, f.RequestTrailers()...)
	}
	return append(b, crlf...)
}

// endUpload waits for an upload that has nothing left to read. An upload that
// has is cut; false then, or when it failed.
func (c *Conn) endUpload() bool {
	u := &c.upload
	if !u.running {
		return true
	}
	select {
	case <-u.done:
		u.running = false
	default:
		if !u.allRead.Load() {
			c.stopUpload()
			return false
		}
		<-u.done // writing is bounded by the connection's deadline
		u.running = false
	}
	return u.readErr == nil && u.writeErr == nil
}

// stopUpload ends the upload whatever it is doing and waits for it.
func (c *Conn) stopUpload() {
	u := &c.upload
	if !u.running {
		return
	}
	c.kill(stateCut)
	select {
	case <-u.done:
	default:
		u.stopping.Store(true)
		if c.call.Front != nil {
			c.call.Front.InterruptBody()
		}
		<-u.done
	}
	u.running = false
}
