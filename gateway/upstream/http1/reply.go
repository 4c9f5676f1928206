package http1

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// Head is the reply's head; the offsets in it point into raw. Both are
// borrowed, until the body is read.
func (c *Conn) Head() (head *wire.RespHead, raw []byte) { return &c.head, c.headRaw }

// beginBody finds out how the reply's body ends.
func (c *Conn) beginBody() {
	h := &c.head
	switch {
	case c.call.NoBody || h.Status == 101 || h.Status == 204 || h.Status == 304:
		c.complete = true
		if h.Status == 204 && h.ContentLength > 0 {
			h.KeepAlive = false // it cannot have a body, and may send one all the same
		}
	case h.Chunked:
		c.body.Start(c, true, 0, 0)
	case h.ContentLength >= 0:
		c.body.Start(c, false, h.ContentLength, 0)
		c.complete = h.ContentLength == 0
	default:
		c.untilClose = true
	}
}

// Complete reports that the reply has been read to its end.
func (c *Conn) Complete() bool { return c.complete }

// Length is the length of the reply's body, -1 where its end shows later.
func (c *Conn) Length() int64 {
	switch {
	case c.complete:
		return 0
	case c.untilClose || c.head.Chunked:
		return -1
	}
	return c.head.ContentLength
}

// Whole takes the whole body if it has already come and is at most limit
// bytes. The bytes are borrowed, until Release.
func (c *Conn) Whole(limit int) ([]byte, bool) {
	have := c.in[c.r:c.w]
	if c.complete {
		return nil, true
	}
	if c.untilClose {
		return nil, false
	}
	if c.head.Chunked {
		if len(have) > limit || !wholeChunked(have) {
			return nil, false
		}
		return c.unchunk(have)
	}
	n := c.head.ContentLength
	if int64(len(have)) < n || n > int64(limit) {
		return nil, false
	}
	c.r += int(n)
	c.complete = true
	return have[:n], true
}

// unchunk decodes a complete chunked body in place: what is decoded is always
// behind what is still to be read.
func (c *Conn) unchunk(have []byte) ([]byte, bool) {
	n := 0
	for {
		m, err := c.body.Read(have[n:])
		n += m
		if err == io.EOF {
			c.complete = true
			return have[:n], true
		}
		if err != nil {
			return nil, false // sticky: Read says it again
		}
	}
}

// wholeChunked reports that b is a complete chunked body in its plainest form
// and nothing else. Everything unusual is left to the decoder.
func wholeChunked(b []byte) bool {
	for {
		size, i := 0, 0
		for i < len(b) && i < 7 {
			d := hexValue(b[i])
			if d < 0 {
				break
			}
			size = size<<4 | d
			i++
		}
		if i == 0 || len(b) < i+size+4 || b[i] != '\r' || b[i+1] != '\n' {
			return false
		}
		end := b[i+2+size:]
		if end[0] != '\r' || end[1] != '\n' {
			return false
		}
		if b = end[2:]; size == 0 {
			return len(b) == 0
		}
	}
}

func hexValue(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// BufferedNow is how many bytes have come and not been read.
func (c *Conn) BufferedNow() int { return c.w - c.r }

// Read reads the reply's body; io.EOF only at its true end. Any other error is
// a *Failure: the reply broke off.
func (c *Conn) Read(p []byte) (n int, err error) {
	if c.complete {
		return 0, io.EOF
	}
	if c.untilClose {
		n, err = c.readUntilClose(p)
	} else {
		n, err = c.body.Read(p)
	}
	if err == nil {
		return n, nil
	}
	if err == io.EOF {
		c.complete = true
		return n, err
	}
	return n, c.broken(err)
}

func (c *Conn) readUntilClose(p []byte) (int, error) {
	if c.r < c.w {
		n := copy(p, c.in[c.r:c.w])
		c.r += n
		return n, nil
	}
	return c.Direct(p)
}

func (c *Conn) broken(err error) *transport.Failure {
	f := &transport.Failure{Reason: reason.UpstreamReset, Cause: err}
	switch c.deadline.Load() {
	case stateGone:
		f.Reason = reason.ClientGone
	case stateTimeout:
		f.Reason = reason.UpstreamTimeout
	case stateCut:
		if c.upload.running && c.upload.allRead.Load() {
			break
		}
		f.Reason, f.Client = reason.BodyCut, true
	default:
		if errors.Is(err, reason.BadChunk) || errors.Is(err, reason.BadTrailer) {
			f.Reason = reason.UpstreamProtocol
		}
	}
	return f
}

// Trailers are the reply's trailer lines, once the body has been read.
func (c *Conn) Trailers() []byte {
	if !c.complete || !c.head.Chunked {
		return nil
	}
	return c.body.Trailers
}

// BodyRead reports that the request's body has been read to its end.
func (c *Conn) BodyRead() bool { return c.upload.allRead.Load() }

// Adopt lets w tell when the client goes away from now on.
func (c *Conn) Adopt(w transport.Watcher) {
	c.call.Watch = w
	w.OnGone(c)
}

// awaitAnswer sets the deadline for the reply's head, unless that has come.
// The upload's goroutine calls it.
func (c *Conn) awaitAnswer(d time.Duration) {
	c.limit.Store(c.pool.manager.precise() + d.Milliseconds())
	if c.answered.Load() {
		c.limit.Store(0)
	}
	c.touch()
}

// Unbounded takes the deadline back for a reply whose body may go on for as
// long as it comes; the idle timeout stays.
func (c *Conn) Unbounded() {
	c.answered.Store(true)
	c.limit.Store(0)
	c.setDeadline(stateNone)
	c.touch()
}

// Release ends the request. The connection is kept for the next one if the
// request was sent and the reply read to its end, and nothing is left on it.
// It returns the error of a request body that broke off, if one did.
func (c *Conn) Release() (bodyErr error) {
	call := c.call
	if call.Watch != nil {
		call.Watch.OnGone(nil) // from here on nobody else ends this connection
	}
	sent := c.endUpload()
	bodyErr = c.upload.readErr
	alive := c.disarm()
	c.call, c.headRaw = nil, nil
	if call.Last || !sent || !alive || !c.complete || c.untilClose || c.r != c.w || !c.head.KeepAlive {
		c.close()
		return bodyErr
	}
	if len(c.in) > keepBuffer {
		c.in = make([]byte, bufferSize)
	}
	c.pool.put(c)
	return bodyErr
}

// Hijack gives the connection away after a 101; early is what has come behind
// the head. It must be called instead of Release. It counts as open until
// done is called.
func (c *Conn) Hijack() (nc net.Conn, early []byte, done func()) {
	if c.call.Watch != nil {
		c.call.Watch.OnGone(nil)
	}
	c.disarm()
	early = append([]byte(nil), c.in[c.r:c.w]...)
	c.call, c.headRaw = nil, nil
	return c.nc, early, c.forget
}
