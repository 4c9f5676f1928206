package http2

import (
	"errors"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// Why a request was ended. One that was is never used again, so that a kick
// which comes late hits nobody else's.
const (
	stateNone int32 = iota
	stateTimeout
	stateGone
	stateCut
)

// never is when a timer that is not set would go off.
const never = 1<<63 - 1

var errStates = [...]error{
	stateTimeout: errors.New("the time for the request is over"),
	stateGone:    errors.New("the client has gone"),
	stateCut:     errors.New("the request was given up"),
}

// end ends the request by RST_STREAM. It does nothing to one that is over.
func (c *Conn) end(why int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live {
		c.endLocked(why)
	}
}

func (c *Conn) endLocked(why int32) {
	if c.state.Load() != stateNone {
		return
	}
	c.state.Store(why)
	c.link.reset(c, frames.Cancel)
	if c.lingering {
		c.lingering = false
		go c.leave()
		return
	}
	ring(c.bell)
	ring(c.room)
}

// begin sets the call's deadlines.
func (c *Conn) begin(call *transport.Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = true
	c.began = time.Now().UnixNano()
	c.touched.Store(c.began)
	limit := int64(0)
	if !call.Deadline.IsZero() {
		limit = call.Deadline.UnixNano()
	}
	c.limit.Store(limit)
	c.idle.Store(int64(call.Idle))
	c.answer.Store(0)
	if call.Stream != nil {
		c.answer.Store(int64(call.Answer))
	}
	c.arm()
}

// touch notes that something has happened.
func (c *Conn) touch() { c.touched.Store(time.Now().UnixNano()) }

// due is when the request's time is over as things stand; 0 means never.
func (c *Conn) due() int64 {
	limit, idle := c.limit.Load(), c.idle.Load()
	if idle == 0 {
		return limit
	}
	if at := c.touched.Load() + idle; limit == 0 || at < limit {
		return at
	}
	return limit
}

// arm sets the timer, unless it goes off before. It is not moved whenever
// something happens, not even when a request ends: it looks itself, when it is
// time, whether it is. c.mu is held.
func (c *Conn) arm() {
	due := c.due()
	if due == 0 || c.armed != 0 && c.armed <= due {
		return
	}
	c.armed = due
	c.timer.Reset(time.Duration(due - time.Now().UnixNano()))
}

// onTimer may come for a request that is over; what is due tells.
func (c *Conn) onTimer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = 0
	due := c.due()
	if !c.live || due == 0 {
		return
	}
	if due > time.Now().UnixNano() {
		c.arm()
		return
	}
	c.endLocked(stateTimeout)
}

// farOff is from when on a timer is not left to itself.
const farOff = int64(time.Minute)

// retire takes all deadlines back: from here on nobody else ends the request.
func (c *Conn) retire() {
	if w := c.call.Watch; w != nil {
		w.OnGone(nil)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = false
	c.answer.Store(0)
	c.idle.Store(0)
	c.limit.Store(0)
	if c.armed > c.touched.Load()+farOff {
		c.armed = 0
		c.timer.Stop()
	}
}

// wrote notes that the request has been sent whole, and so the wait for an
// answer begins.
func (c *Conn) wrote() {
	c.touch()
	if d := c.answer.Swap(0); d > 0 {
		c.limit.Store(time.Now().UnixNano() + d)
		if c.answered.Load() {
			c.limit.Store(0)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.arm()
	}
}

// Unbounded implements transport.Conn.
func (c *Conn) Unbounded() {
	c.answered.Store(true)
	c.limit.Store(0)
	c.touch()
}
