package h2

import (
	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// takeSettings applies what the client says of itself. c.mu is held.
func (c *conn) takeSettings(f *frames.Frame) error {
	if f.Acknowledges() {
		if !c.settled {
			return protocolError(frames.ProtocolError)
		}
		return c.spend(1)
	}
	c.settled = true
	for i := 0; ; i++ {
		s, ok, err := f.Setting(i)
		if err != nil {
			return c.misread(err)
		}
		if !ok {
			break
		}
		if err := c.set(s); err != nil {
			return err
		}
	}
	c.out = frames.AppendSettingsAck(c.room())
	return c.spend(1 + len(f.Payload)/60)
}

// set applies one setting. c.mu is held.
func (c *conn) set(s frames.Setting) error {
	switch s.ID {
	case frames.HeaderTableSize:
		c.encoder.SetTable(s.Value)
	case frames.InitialWindowSize:
		more := int64(s.Value) - c.initial
		c.initial = int64(s.Value)
		for _, s := range c.streams {
			if s.window += more; s.window > frames.MaxWindow {
				return protocolError(frames.FlowControlError)
			}
			s.canWrite.Signal()
		}
	}
	return nil
}

// takeWindow lets more be sent. c.mu is held.
func (c *conn) takeWindow(f *frames.Frame) error {
	n := int64(f.Uint32())
	if n < smallStep {
		if err := c.spend(1); err != nil {
			return err
		}
	}
	if f.Stream == 0 {
		if c.window += n; c.window > frames.MaxWindow {
			return protocolError(frames.FlowControlError)
		}
		c.wakeNext()
		return nil
	}
	s := c.streams[f.Stream]
	if s == nil {
		if err := c.checkOpened(f.Stream); err != nil {
			return err
		}
		return c.spend(1) // its window takes any number of them
	}
	if s.window+n > frames.MaxWindow {
		return c.breakHeld(f.Stream, frames.FlowControlError, reason.HTTP2Protocol)
	}
	s.window += n
	s.canWrite.Signal()
	return nil
}

// unopened reports a stream that the client has not begun, and so may not speak
// of. c.mu is held.
func (c *conn) unopened(id uint32) bool { return id%2 == 0 || id > c.highest }

// checkOpened is for frames that come when their stream has ended. c.mu is held.
func (c *conn) checkOpened(id uint32) error {
	if c.unopened(id) {
		return protocolError(frames.ProtocolError)
	}
	return nil
}

// takePing answers. c.mu is held.
func (c *conn) takePing(f *frames.Frame) error {
	data := [8]byte(f.Payload)
	if !f.Acknowledges() {
		c.out = frames.AppendPing(c.room(), true, data)
	} else if data == farewellPing && c.ending == leaving {
		c.leave()
	}
	return c.spend(1)
}

// takeReset ends a stream that the client has no use for any more. c.mu is held.
func (c *conn) takeReset(f *frames.Frame) error {
	s := c.streams[f.Stream]
	if s == nil {
		if err := c.checkOpened(f.Stream); err != nil {
			return err
		}
		return c.spend(1)
	}
	c.drop(s)
	if s.tunnel != nil { // it is how many end one
		return c.spend(1)
	}
	return c.noteReset()
}

// enoughResets is how many streams a client may reset before they are held
// against those that it lets finish (Envoy's premature_reset_total_stream_count
// is 500): beyond it, not more than half.
const enoughResets = 200

// noteReset counts a stream that was reset by the client, or for what it did.
// That costs it nothing and us a request to the upstream: CVE-2023-44487, and
// CVE-2025-8671 where it has us do it. c.mu is held.
func (c *conn) noteReset() error {
	if c.resets++; c.resets >= enoughResets && 2*c.resets > c.served {
		return flood()
	}
	return nil
}

// breakHeld resets a stream for what the client did. c.mu is held, but not while
// others are told.
func (c *conn) breakHeld(id uint32, code frames.Code, why *reason.Reason) error {
	c.out = frames.AppendReset(c.room(), id, code)
	c.cut.add(id)
	if s := c.streams[id]; s != nil {
		c.drop(s)
	} else {
		c.served++
	}
	c.mu.Unlock()
	c.refused(why, nil)
	c.mu.Lock()
	return c.noteReset()
}

// ring remembers the last streams that were reset: as many as there are at once,
// unless that has been raised.
type ring struct {
	ids  [128]uint32
	next int
}

func (r *ring) add(id uint32) {
	r.ids[r.next] = id
	r.next = (r.next + 1) % len(r.ids)
}

func (r *ring) has(id uint32) bool {
	for _, one := range r.ids {
		if one == id {
			return true
		}
	}
	return false
}
