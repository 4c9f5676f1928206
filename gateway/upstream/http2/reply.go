package http2

import (
	"io"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// translate has the reply's head, which is in HTTP/1 form, parsed like any
// other: lengths that contradict each other and heads that are too long are
// found there.
func (c *Conn) translate() *reason.Reason {
	if n, r := c.head.Parse(c.raw, &c.pool.settings.Limits); r != nil || n != len(c.raw) {
		if r == nil || r == wire.NeedMore {
			c.head.Detail, r = "malformed fields", reason.UpstreamProtocol
		}
		return r
	}
	if c.announced {
		c.head.ContentLength = -1 // else a client that speaks HTTP/1 could not get them
	}
	status := c.head.Status
	c.complete = c.call.NoBody || status == 204 || status == 304 || c.headEnded && c.head.ContentLength < 0
	return nil
}

// drain reads a body that is known to be empty: trailers may follow it all the
// same, as they do when a gRPC call fails at once.
func (c *Conn) drain() error {
	if c.complete || c.head.ContentLength != 0 {
		return nil
	}
	for {
		c.mu.Lock()
		f, ended := c.broke(), c.ended
		c.mu.Unlock()
		switch {
		case f != nil:
			return c.failed(f)
		case ended:
			c.trailing = len(c.trailers) > 0
			c.complete = !c.trailing
			c.turnAway()
			return nil
		}
		if !c.sendRest() {
			<-c.bell
		}
	}
}

// Head implements transport.Conn.
func (c *Conn) Head() (head *wire.RespHead, raw []byte) { return &c.head, c.raw }

// Complete implements transport.Conn.
func (c *Conn) Complete() bool { return c.complete }

// Length implements transport.Conn.
func (c *Conn) Length() int64 {
	switch {
	case c.complete:
		return 0
	case c.trailing:
		return -1
	}
	return c.head.ContentLength
}

// Whole implements transport.Conn.
func (c *Conn) Whole(limit int) ([]byte, bool) {
	if c.complete {
		return nil, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.ended || c.expect >= 0 && c.came == c.expect && !c.announced
	if !all || c.broke() != nil || c.body.Len() > limit || len(c.trailers) > 0 && !c.call.Trailers {
		return nil, false
	}
	c.complete = true
	p, ok := c.body.One()
	if !ok {
		if n := c.body.Len(); cap(c.whole) < n {
			c.whole = make([]byte, n)
		}
		p = c.whole[:cap(c.whole)]
		p = p[:c.body.Read(p)]
	}
	return p, true
}

// BufferedNow implements transport.Conn.
func (c *Conn) BufferedNow() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.body.Len()
}

// Read implements transport.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if c.complete || c.trailing {
		c.complete = true
		return 0, io.EOF
	}
	for {
		c.mu.Lock()
		n := 0
		if c.state.Load() == stateNone {
			n = c.body.Read(p)
		}
		left, f, grow := c.body.Len(), c.broke(), int32(0)
		// The end of the stream may take longer: an endpoint may still be working.
		end := left == 0 && (c.ended || c.expect > 0 && c.came == c.expect && !c.announced)
		if n > 0 && !c.ended {
			grow = c.inflow.Gone(n)
		}
		c.mu.Unlock()
		if n > 0 {
			c.touch()
		}
		if grow > 0 {
			id := c.id.Load()
			c.link.control(func(b []byte) []byte { return frames.AppendWindowUpdate(b, id, grow) })
		}
		switch {
		case f != nil && left == 0 && n == 0, f != nil && c.state.Load() != stateNone:
			c.turnAway()
			return n, c.broken(f)
		case end && f == nil:
			c.complete = true
			c.turnAway()
			return n, io.EOF
		case n > 0 || len(p) == 0:
			c.sendRest()
			c.turnAway()
			return n, nil
		}
		if !c.sendRest() {
			<-c.bell
		}
	}
}

// Trailers implements transport.Conn.
func (c *Conn) Trailers() []byte {
	if !c.complete {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trailers
}

// broken says why a reply broke off.
func (c *Conn) broken(f *fault) *transport.Failure {
	failure := &transport.Failure{Reason: f.reason, Cause: f.cause}
	switch c.state.Load() {
	case stateGone:
		failure.Reason = reason.ClientGone
	case stateTimeout:
		failure.Reason = reason.UpstreamTimeout
		c.link.silent(c.began)
	case stateCut:
		failure.Reason, failure.Client = reason.BodyCut, true
	default:
		if f.client {
			failure.Reason, failure.Client = transport.BodyReason(f.cause), true
		}
	}
	return failure
}
