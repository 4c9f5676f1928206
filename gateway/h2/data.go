package h2

import (
	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// takeData hands on a piece of a request's body.
func (c *conn) takeData(f *frames.Frame) error {
	n := len(f.Payload) + f.Padding
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.receive -= int64(n); c.receive < 0 {
		return protocolError(frames.FlowControlError)
	}
	s := c.streams[f.Stream]
	if s == nil {
		return c.dataOfNone(f.Stream, n)
	}
	b := s.body
	code, why := frames.NoError, reason.HTTP2Protocol
	switch {
	case s.ended:
		code = frames.StreamClosed
	case s.receive < int64(n):
		code = frames.FlowControlError
	case b.length >= 0 && b.got+int64(len(f.Payload)) > b.length:
		code, why = frames.ProtocolError, reason.BadContentLength
	}
	if code != frames.NoError {
		c.owe(n)
		return c.breakHeld(f.Stream, code, why)
	}
	s.receive -= int64(n)
	if f.Padding > 0 { // it is as good as read
		c.owe(f.Padding)
		s.owe(f.Padding)
	}
	b.put(f.Payload)
	switch {
	case f.Ended():
		s.endOfBody(nil)
	case len(f.Payload) == 0:
		return c.spend(1)
	}
	c.earn(calmByFrame)
	return nil
}

// dataOfNone accounts for n bytes of a stream that is not there. c.mu is held.
func (c *conn) dataOfNone(id uint32, n int) error {
	if err := c.checkOpened(id); err != nil {
		return err
	}
	c.owe(n)
	if !c.cut.has(id) && id <= c.lastID {
		c.out = frames.AppendReset(c.room(), id, frames.StreamClosed)
		c.cut.add(id)
	}
	return c.spend(1)
}

// owe notes that the client may send n bytes more, and tells it when it is worth
// a frame. c.mu is held.
func (c *conn) owe(n int) {
	if c.owed += int64(n); 2*c.owed >= int64(c.limits.ConnectionWindow) && !c.dead {
		c.out = frames.AppendWindowUpdate(c.room(), 0, int32(c.owed))
		c.receive += c.owed
		c.owed = 0
	}
}

// owe is the same for a stream. c.mu is held.
func (s *stream) owe(n int) {
	c := s.c
	if s.owed += int64(n); 2*s.owed >= int64(c.limits.StreamWindow) && !s.ended && !s.reset && !c.dead {
		c.out = frames.AppendWindowUpdate(c.room(), s.id, int32(s.owed))
		s.receive += s.owed
		s.owed = 0
	}
}
