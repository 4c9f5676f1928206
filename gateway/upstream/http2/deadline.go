package http2

import (
	"net/http/httptrace"
	"time"

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

// end ends the request: net/http sends RST_STREAM.
func (c *Conn) end(why int32) {
	if c.state.CompareAndSwap(stateNone, why) {
		close(c.done)
	}
}

// begin sets the call's deadlines.
func (c *Conn) begin(call *transport.Call) {
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

// arm sets the timer. It is not moved whenever something happens: it looks
// itself, when it is time, whether it is.
func (c *Conn) arm() {
	due := c.due()
	if due == 0 {
		return
	}
	c.timer.Reset(time.Duration(due - time.Now().UnixNano()))
}

// onTimer may come for a request that is over; what is due tells.
func (c *Conn) onTimer() {
	due := c.due()
	if due == 0 {
		return
	}
	if left := time.Duration(due - time.Now().UnixNano()); left > 0 {
		c.timer.Reset(left)
		return
	}
	c.end(stateTimeout)
}

// disarm takes all deadlines back.
func (c *Conn) disarm() {
	c.answer.Store(0)
	c.idle.Store(0)
	c.limit.Store(0)
	c.timer.Stop()
}

// wroteRequest implements httptrace.ClientTrace.WroteRequest: the upload has
// ended, and so the wait for an answer begins.
func (c *Conn) wroteRequest(info httptrace.WroteRequestInfo) {
	c.touch()
	if d := c.answer.Swap(0); d > 0 && info.Err == nil {
		c.limit.Store(time.Now().UnixNano() + d)
		if c.answered.Load() {
			c.limit.Store(0)
		}
		c.arm()
	}
}

// Unbounded implements transport.Conn.
func (c *Conn) Unbounded() {
	c.answered.Store(true)
	c.limit.Store(0)
	c.touch()
}
