package h1

import (
	"bytes"

	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// step answers one request from the buffered bytes if it can; there is at least one.
func (c *conn) step() outcome {
	s := c.s
	b := s.in[c.r:c.w]
	if b[0] == '\r' && !c.blank {
		if len(b) < 2 {
			return more
		}
		if b[1] == '\n' { // RFC 9112 2.2; a second one is a bad request line
			c.blank = true
			c.r += 2
			if b = b[2:]; len(b) == 0 {
				return more
			}
		}
	}
	set := c.srv.settings.Load()
	c.settings = set
	if b[0] == preface[0] && set.Preface != nil && c.seq.Load() == 0 && c.tls == nil && !c.blank {
		if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] {
			if n == len(preface) {
				return http2
			}
			return more
		}
	}
	if c.scanned > 0 && c.hopeless(b, &set.Limits) {
		return more
	}
	n, why := s.head.Parse(b, &set.Limits)
	if why == wire.NeedMore {
		c.scanned, c.pastLine = len(b), bytes.IndexByte(b, '\n') >= 0
		return more
	}
	c.scanned, c.blank = 0, false
	if why != nil {
		c.refusal = why
		return refused
	}
	c.r += n
	c.keep = c.r
	h := &s.head
	if h.ContentLength > int64(c.w-c.r) || h.Chunked || h.WantsUpgrade {
		return outside
	}
	keep := c.handle()
	if keep && c.leftover {
		keep = c.drain() // all of it is buffered
	}
	c.endBody()
	if !keep {
		return ended
	}
	return served
}

// hopeless says that parsing b again is idle work: only a line end can make it
// a complete head, and none has come. It keeps a head that arrives byte by byte
// from costing the square of its length.
func (c *conn) hopeless(b []byte, limits *wire.Limits) bool {
	return (c.pastLine && len(b) <= limits.Head || len(b) <= limits.URI) &&
		bytes.IndexByte(b[c.scanned:], '\n') < 0
}

// makeRoom is called before reading more of a head.
func (c *conn) makeRoom() {
	in := c.s.in
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if len(in)-c.w >= len(in)/8 {
		return
	}
	if c.r > 0 {
		c.w = copy(in, in[c.r:c.w])
		c.r = 0
		if len(in)-c.w >= len(in)/8 {
			return
		}
	}
	larger := make([]byte, 2*len(in))
	copy(larger, in[:c.w])
	c.s.in = larger
}

// wait notes what the connection is about to wait for. stay says that it must
// not wait: look again what there is to read.
func (c *conn) wait() (stay bool) {
	if c.s == nil || c.r == c.w {
		c.putState()
		c.phase.Store(phaseIdle)
		// After the store: whoever wants an idle connection to end or look up
		// either sees it idle and kicks it, or has set these before.
		return c.gone.Load() || c.leave.Load()
	}
	if c.phase.Load() != phaseHead {
		c.readBy.Store(c.srv.clock.After(c.srv.settings.Load().HeadTimeout))
		c.phase.Store(phaseHead)
	}
	return c.gone.Load()
}

// servePlain is the loop over any net.Conn. err is from reading.
func (c *conn) servePlain() (outcome, error) {
	for {
		if c.s != nil && c.r < c.w {
			switch o := c.step(); o {
			case more:
			case served:
				continue
			default:
				return o, nil
			}
		}
		if c.wait() && c.phase.Load() == phaseIdle && c.leave.Load() {
			return ended, nil
		}
		if c.s == nil {
			// One byte is enough to hear of a request: idle connections hold no buffer.
			n, err := c.nc.Read(c.one[:])
			if n == 0 {
				return ended, err
			}
			c.getState()
			c.r, c.w = 0, copy(c.s.in, c.one[:n])
			continue
		}
		c.makeRoom()
		n, err := c.nc.Read(c.s.in[c.w:])
		c.w += n
		if n == 0 {
			return ended, err
		}
	}
}
