package h2

import (
	"io"
	"strconv"
	"sync"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

const lastStatus = 999

// reply sends the response; false, if the stream must be reset.
func (s *stream) reply(resp *fasthttp.Response) (complete bool) {
	if s.cut {
		return false
	}
	if s.upgrade != nil && resp.StatusCode() == 101 {
		return s.openTunnel(resp)
	}
	if status := resp.StatusCode(); status < 200 || status > lastStatus || s.ctx.Hijacked() {
		pipeline.Replace(resp, reason.Internal)
	}
	stream := resp.BodyStream()
	if stream == nil || s.bodiless(resp.StatusCode()) {
		complete = s.sendBytes(resp, stream != nil)
	} else {
		complete = s.sendStream(resp, stream)
	}
	if resp.ConnectionClose() {
		s.c.drain()
	}
	return complete
}

// bodiless is true for replies that end with their head whatever it says.
func (s *stream) bodiless(status int) bool { return wire.Bodiless(status, s.nothing) }

// beginBlock begins the fields of a reply. c.mu is held until they are sent.
func (s *stream) beginBlock(status int) {
	c := s.c
	c.block = c.encoder.Begin(c.block[:0])
	if status > 0 {
		c.digits = strconv.AppendInt(c.digits[:0], int64(status), 10)
		c.block = c.encoder.Append(c.block, ":status", frames.Text(c.digits))
	}
}

// field adds one. What cannot be said is left out, as net/http does.
func (s *stream) field(name, value []byte) {
	c := s.c
	c.name = frames.Lower(append(c.name[:0], name...))
	if n, v := frames.Text(c.name), frames.Text(value); frames.ValidName(n) && frames.ValidValue(v) {
		c.block = c.encoder.Append(c.block, n, v)
	}
}

// lines adds complete lines "Name: value\r\n".
func (s *stream) lines(lines []byte) {
	for {
		name, value, rest, ok := wire.CutLine(lines)
		if !ok {
			return
		}
		s.field(name, value)
		lines = rest
	}
}

// sendHead sends the final reply's head; length is below 0 where none is said.
// c.mu is held.
func (s *stream) sendHead(resp *fasthttp.Response, length int, end bool) error {
	s.started = true
	if err := s.awaitRoom(); err != nil {
		return err
	}
	c := s.c
	status := resp.StatusCode()
	switched := status == 101
	if switched {
		status = 200 // RFC 8441, 5.1
	}
	s.beginBlock(status)
	trailers := resp.Header.PeekTrailerKeys()
	for k, v := range resp.Header.All() {
		if !wire.ServersOwn(k, trailers, false) && !(switched && wire.EqualFold(k, "sec-websocket-accept")) {
			s.field(k, v)
		}
	}
	if len(s.date) > 0 {
		c.block = c.encoder.Append(c.block, "date", frames.Text(s.date))
	} else {
		c.block = c.encoder.Append(c.block, "date", c.srv.clock.Date())
	}
	if length >= 0 {
		c.digits = strconv.AppendInt(c.digits[:0], int64(length), 10)
		c.block = c.encoder.Append(c.block, "content-length", frames.Text(c.digits))
	}
	s.sendBlock(end)
	return nil
}

// sendBytes sends a reply whose body is in memory or absent, in one piece if the
// client takes it.
func (s *stream) sendBytes(resp *fasthttp.Response, streamed bool) bool {
	var content []byte
	if !streamed {
		content = resp.Body()
	}
	length := len(content)
	bodiless := s.bodiless(resp.StatusCode())
	if bodiless {
		length = wire.BodilessLength(resp, length, streamed)
		content = nil
	}
	trailers := !bodiless && s.hasTrailers(resp)
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.sendHead(resp, length, len(content) == 0 && !trailers) != nil {
		return false
	}
	if len(content) > 0 && s.send(content, !trailers) != nil {
		return false
	}
	return !trailers || s.sendTrailers(resp)
}

func (s *stream) hasTrailers(resp *fasthttp.Response) bool {
	return len(s.trailers) > 0 || len(resp.Header.PeekTrailerKeys()) > 0
}

// sendTrailers ends the stream. c.mu is held.
func (s *stream) sendTrailers(resp *fasthttp.Response) bool {
	if s.fault() != nil {
		return false
	}
	s.beginBlock(0)
	s.lines(s.trailers)
	for _, k := range resp.Header.PeekTrailerKeys() {
		s.field(k, resp.Header.PeekBytes(k))
	}
	s.sendBlock(true)
	return true
}

// peeker is a body stream that knows how much it has without blocking.
type peeker interface{ BufferedNow() int }

// Copying begins with little memory, as thousands of streams may be open that
// say something now and then; who has much to say gets more.
const few, many = 4 << 10, 32 << 10

var (
	fewBytes  = sync.Pool{New: func() any { return new([few]byte) }}
	manyBytes = sync.Pool{New: func() any { return new([many]byte) }}
)

// sendStream copies a body stream to the client. What a Read returns goes out
// at once, unless more is at hand: events and slow bodies are never held back.
func (s *stream) sendStream(resp *fasthttp.Response, from io.Reader) bool {
	c := s.c
	left := int64(resp.Header.ContentLength())
	c.mu.Lock()
	err := s.sendHead(resp, int(left), false)
	c.mu.Unlock()
	if err != nil {
		return false
	}
	p, _ := from.(peeker)
	if left != 0 && (p == nil || p.BufferedNow() == 0) {
		s.flush()
	}
	first := fewBytes.Get().(*[few]byte)
	defer fewBytes.Put(first)
	var more *[many]byte
	buf := first[:]
	for {
		if left >= 0 && int64(len(buf)) > left {
			buf = buf[:left]
		}
		n, err := 0, io.EOF
		if left != 0 {
			n, err = from.Read(buf)
		}
		if left > 0 {
			left -= int64(n)
		}
		ended := left == 0 || err == io.EOF && left < 0
		if ended && s.cut {
			return false
		}
		if (n > 0 || ended) && !s.sendPiece(resp, buf[:n], ended) {
			return false
		}
		switch {
		case ended:
			return true
		case err != nil:
			return false // it promised more
		case n > 0 && (p == nil || p.BufferedNow() == 0):
			s.flush()
		}
		if n == few && more == nil {
			more = manyBytes.Get().(*[many]byte)
			defer manyBytes.Put(more)
			buf = more[:]
		}
	}
}

// sendPiece sends p and, at the end, what comes behind the body.
func (s *stream) sendPiece(resp *fasthttp.Response, p []byte, end bool) bool {
	trailers := end && s.hasTrailers(resp)
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.send(p, end && !trailers) != nil {
		return false
	}
	return !trailers || s.sendTrailers(resp)
}

// flush sends what waits, unless somebody is at it.
func (s *stream) flush() {
	c := s.c
	c.mu.Lock()
	mine := c.claim()
	c.mu.Unlock()
	if mine {
		c.flushOwn()
	}
}

// refuse answers what never became a request.
func (s *stream) refuse(why *reason.Reason) (complete bool) {
	s.c.refused(why, s.sent())
	content := pipeline.AppendProblem(nil, why.Status, why, "")
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.started = true
	if s.awaitRoom() != nil {
		return false
	}
	s.beginBlock(why.Status)
	c.block = c.encoder.Append(c.block, "content-type", "application/problem+json")
	c.block = c.encoder.Append(c.block, "cache-control", "no-store")
	c.block = c.encoder.Append(c.block, "date", c.srv.clock.Date())
	c.block = c.encoder.Append(c.block, "content-length", strconv.Itoa(len(content)))
	s.sendBlock(s.nothing)
	return s.nothing || s.send(content, true) == nil
}

// sent is the head for whoever takes down that it was refused.
func (s *stream) sent() []byte {
	if s.line > 0 {
		copy(s.raw[s.line+1:], protocol) // as long as HTTP/1.1, whose place it takes
	}
	return s.raw
}
