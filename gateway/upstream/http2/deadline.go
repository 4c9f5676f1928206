package http2

import (
	"net/http"
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

// end ends the request: net/http sends RST_STREAM. It does nothing to one that
// is over.
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
	close(c.done)
	if c.res != nil {
		c.unblock()
	}
}

// unblock ends a Read of the reply's body. net/http does that only once its
// goroutine has come back from reading the request's body, which may not happen
// before the Read ends. c.mu is held.
func (c *Conn) unblock() {
	if c.upload.pending() {
		body := c.res.Body
		go func() { _ = body.Close() }() // it writes, and whoever calls must not wait
	}
}

// received keeps the reply, whose head has come.
func (c *Conn) received(res *http.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.res = res
	if c.state.Load() != stateNone {
		c.unblock()
	}
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
	c.mu.Lock()
	defer c.mu.Unlock()
	due := c.due()
	if !c.live || due == 0 {
		return
	}
	if left := time.Duration(due - time.Now().UnixNano()); left > 0 {
		c.timer.Reset(left)
		return
	}
	c.endLocked(stateTimeout)
}

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
