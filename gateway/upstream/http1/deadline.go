package http1

import "time"

// What Conn.deadline holds besides a time in the manager's ms: nothing, or why
// the connection was ended. A connection once ended is never used again, so
// that a kick which comes late hits nobody else's request.
const (
	stateNone    = 0
	stateTimeout = -1
	stateGone    = -2
	stateCut     = -3
)

var longAgo = time.Unix(1, 0)

// kill ends the connection: every read and write on it fails from now on.
func (c *Conn) kill(state int64) {
	for {
		old := c.deadline.Load()
		if old < 0 {
			return
		}
		if c.deadline.CompareAndSwap(old, state) {
			_ = c.nc.SetDeadline(longAgo) // fails only where the connection is closed
			return
		}
	}
}

// expire kills the connection if its time is over.
func (c *Conn) expire(now int64) {
	d := c.deadline.Load()
	if d > 0 && d <= now && c.deadline.CompareAndSwap(d, stateTimeout) {
		_ = c.nc.SetDeadline(longAgo)
	}
}

// touch moves the deadline on because something has happened. The reader and
// the upload's goroutine both call it.
func (c *Conn) touch() {
	m := c.pool.manager
	idle, limit := c.idle.Load(), c.limit.Load()
	if idle == 0 && limit == 0 {
		return
	}
	now := m.now.Load()
	if idle > 0 && idle < exact || limit > 0 && limit-now < exact {
		now = m.precise()
		at := earlier(now+idle+1, idle, limit)
		c.setDeadline(at)
		c.setTimer(time.Duration(at-now) * time.Millisecond)
		return
	}
	// The coarse clock is late by up to a tick: never end anything early.
	c.setDeadline(earlier(now+idle+tick, idle, limit))
}

func earlier(byIdle, idle, limit int64) int64 {
	if idle == 0 || limit > 0 && limit < byIdle {
		return limit
	}
	return byIdle
}

func (c *Conn) setDeadline(at int64) {
	for {
		old := c.deadline.Load()
		if old < 0 || old == at || c.deadline.CompareAndSwap(old, at) {
			return
		}
	}
}

func (c *Conn) setTimer(d time.Duration) {
	c.timerMu.Lock()
	defer c.timerMu.Unlock()
	if c.timer == nil {
		c.timer = time.AfterFunc(d, c.onTimer)
		return
	}
	c.timer.Reset(d)
}

// onTimer may come for a request that is over; the deadline tells.
func (c *Conn) onTimer() {
	now := c.pool.manager.precise()
	d := c.deadline.Load()
	if d > now && d-now < exact {
		c.setTimer(time.Duration(d-now) * time.Millisecond)
		return
	}
	c.expire(now)
}

// disarm takes the deadline back; false if the connection has been ended.
func (c *Conn) disarm() bool {
	for {
		old := c.deadline.Load()
		if old < 0 {
			return false
		}
		if c.deadline.CompareAndSwap(old, stateNone) {
			return true
		}
	}
}

func (c *Conn) stopTimer() {
	c.timerMu.Lock()
	defer c.timerMu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
}
