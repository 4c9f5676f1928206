package http2

import (
	"bytes"
	"errors"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

var (
	errOver     = errors.New("the request is over")
	errHeadList = errors.New("the request's head is larger than the endpoint allows")
)

// open sends the request's head, with as much of a body that is at hand as may
// be sent.
func (c *Conn) open() *fault {
	l := c.link
	for {
		b, err := l.w.Begin()
		if err != nil {
			return &fault{reason: reason.UpstreamReset, cause: err, unsent: true, connection: true}
		}
		if !l.admit(c, len(b) >= frames.Enough) {
			l.endWrite(b)
			<-c.bell
			c.mu.Lock()
			f := c.broke()
			c.mu.Unlock()
			if f != nil {
				l.unqueue(c)
				return f
			}
			continue
		}
		id, frame, f := l.register(c)
		if f != nil {
			l.endWrite(b)
			return f
		}
		block := l.enc.Begin(l.block[:0])
		for _, f := range c.fields {
			if f.name != "" {
				block = l.enc.Append(block, f.name, f.value)
			}
		}
		if l.block = block; cap(block) > keepHead {
			l.block = nil
		}
		none := !c.uploaded && len(c.rest) == 0
		b = frames.AppendBlock(b, id, none, block, frame)
		c.opened = true
		if none {
			l.sentEnd(c)
		} else if !c.uploaded {
			b = c.fillRest(b)
		}
		l.endWrite(b)
		return nil
	}
}

// register gives c a stream.
func (l *link) register(c *Conn) (id uint32, frame int, f *fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return 0, 0, &fault{reason: reason.UpstreamReset, cause: l.err.cause, unsent: true, connection: true}
	case l.ending.Load():
		return 0, 0, &fault{reason: reason.UpstreamReset, cause: errLeaving, unsent: true, connection: true}
	case l.list > 0 && c.listed > l.list:
		return 0, 0, &fault{reason: reason.UpstreamReset, cause: errHeadList, unsent: true}
	}
	id = l.next
	c.id.Store(id)
	if s := c.state.Load(); s != stateNone { // whoever ended it has seen no stream
		c.id.Store(0)
		return 0, 0, &fault{reason: reason.UpstreamReset, cause: errStates[s], unsent: true}
	}
	if l.next += 2; l.next > lastStream {
		l.ending.Store(true)
	}
	l.streams[id] = c
	l.moved++
	c.window = l.initial
	return id, l.frame, nil
}

// sentEnd notes that the request has been sent. Begin has been called.
func (l *link) sentEnd(c *Conn) {
	c.allSent.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	c.sent = true
	if c.got {
		delete(l.streams, c.id.Load())
	}
}

// reset ends a stream by RST_STREAM, unless it has ended. c.mu may be held.
func (l *link) reset(c *Conn, code frames.Code) {
	id := c.id.Load()
	if id == 0 {
		return
	}
	l.mu.Lock()
	open := l.streams[id] == c
	l.mu.Unlock()
	if !open {
		return
	}
	b, err := l.w.Begin()
	if err != nil {
		return
	}
	l.mu.Lock()
	if l.streams[id] == c { // still
		delete(l.streams, id)
		c.over = true
		b = frames.AppendReset(b, id, code)
	}
	l.mu.Unlock()
	l.w.End(b)
}

// fill appends as much of p as may be sent now; end says that nothing comes
// behind p. Where it is not all, bell will ring. Begin has been called.
func (l *link) fill(b []byte, c *Conn, p []byte, end bool, bell chan struct{}) (_ []byte, n int, err error) {
	for first := true; n < len(p) || first && end; first = false {
		l.mu.Lock()
		m := max(min(len(p)-n, int(l.window), int(c.window), l.frame), 0)
		switch {
		case c.over:
			err = errOver
			l.outLocked(c)
		case m == 0 && n < len(p) && c.window <= 0:
			l.outLocked(c)
			c.queued, c.stuck = true, bell
			m = -1
		case n < len(p) && c.place.in != &l.room && !l.share.turn(c): // not into the other line, where it might be sooner
			l.enqueue(&l.share, c, bell)
			m = -1
		case len(b) >= frames.Enough || !l.room.turn(c):
			l.enqueue(&l.room, c, bell)
			m = -1
		case n < len(p) && m == 0:
			l.enqueue(&l.share, c, bell)
			m = -1
		default: // one frame, and then the others
			l.outLocked(c)
			l.window -= frames.Window(m)
			c.window -= frames.Window(m)
			l.moved++
		}
		l.mu.Unlock()
		if err != nil || m < 0 {
			return b, n, err
		}
		b = frames.AppendData(b, c.id.Load(), end && n+m == len(p), p[n:n+m])
		n += m
	}
	if end {
		l.sentEnd(c)
	}
	return b, n, nil
}

// send sends as much of p as may be sent now; all says that it was all of it,
// and its end.
func (l *link) send(c *Conn, p []byte, end bool, bell chan struct{}) (n int, all bool, err error) {
	b, err := l.w.Begin()
	if err != nil {
		return 0, false, err
	}
	b, n, err = l.fill(b, c, p, end, bell)
	all = err == nil && n == len(p) && (!end || c.allSent.Load())
	l.endWrite(b)
	return n, all, err
}

// fillRest appends of a body that is at hand. Begin has been called.
func (c *Conn) fillRest(b []byte) []byte {
	for len(c.rest) > 0 {
		var n int
		var err error
		b, n, err = c.link.fill(b, c, c.rest, len(c.more) == 0, c.bell)
		if c.rest = c.rest[n:]; err != nil {
			c.rest, c.more = nil, nil // why, the reply's reader will be told
		}
		if n == 0 || len(c.rest) > 0 {
			break
		}
		c.rest, c.more = c.more, nil
		c.touch()
	}
	if c.allSent.Load() {
		c.wrote()
	}
	return b
}

// sendRest sends of a body that is at hand, and is true if some was.
func (c *Conn) sendRest() bool {
	left := len(c.rest) + len(c.more)
	if left == 0 {
		return false
	}
	b, err := c.link.w.Begin()
	if err != nil {
		c.rest, c.more = nil, nil
		return false
	}
	c.link.endWrite(c.fillRest(b))
	return len(c.rest)+len(c.more) < left
}

// pieces are what bodies are read into to be sent.
var pieces = sync.Pool{New: func() any { return new([frames.MinFrame]byte) }}

// pump sends a body that is yet to come.
func (c *Conn) pump() {
	piece := pieces.Get().(*[frames.MinFrame]byte)
	defer pieces.Put(piece)
	for {
		n, err := c.upload.Read(piece[:])
		ended := err != nil && c.upload.allRead.Load()
		if err != nil && !ended {
			c.cutUpload()
			return
		}
		trailers := []byte(nil)
		if ended {
			trailers = c.upload.trailers()
		}
		if !c.sendPiece(piece[:n], ended && len(trailers) == 0) {
			return
		}
		if ended {
			if len(trailers) > 0 {
				c.sendTrailers(trailers)
			}
			c.wrote()
			return
		}
	}
}

// sendPiece sends p, which may take its time; false, if it cannot be sent.
func (c *Conn) sendPiece(p []byte, end bool) bool {
	for len(p) > 0 || end {
		n, all, err := c.link.send(c, p, end, c.room)
		if err != nil {
			return false
		}
		if n > 0 {
			c.touch()
		}
		if p = p[n:]; all {
			return true
		}
		<-c.room
	}
	return true
}

// sendTrailers ends the request by lines of HTTP/1.
func (c *Conn) sendTrailers(lines []byte) {
	l := c.link
	b, err := l.w.Begin()
	if err != nil {
		return
	}
	l.mu.Lock()
	over, frame, answered := c.over, l.frame, c.got
	l.mu.Unlock()
	switch {
	case over:
	case answered:
		// The endpoint may have forgotten the stream. To net/http's server a head on
		// one breaks a rule of the connection; a body does not.
		b = frames.AppendData(b, c.id.Load(), true, nil)
		l.sentEnd(c)
	default:
		block := l.enc.Begin(l.block[:0])
		for line := range bytes.Lines(lines) {
			name, value, _ := bytes.Cut(line, []byte(":"))
			name, value = frames.Lower(bytes.Clone(name)), bytes.TrimSpace(value)
			if frames.ValidName(frames.Text(name)) && frames.ValidValue(frames.Text(value)) {
				block = l.enc.Append(block, frames.Text(name), frames.Text(value))
			}
		}
		l.block = block
		b = frames.AppendBlock(b, c.id.Load(), true, block, frame)
		l.sentEnd(c)
	}
	l.endWrite(b)
}

// cutUpload ends a stream whose request's body has broken off, unless that is
// our own doing.
func (c *Conn) cutUpload() {
	bodyErr := c.upload.failure()
	if bodyErr == nil {
		return
	}
	c.link.reset(c, frames.Cancel)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !c.ended {
		c.err = &fault{reason: reason.UpstreamReset, cause: bodyErr, client: true}
	}
	ring(c.bell)
}
