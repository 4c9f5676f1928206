package h2

import "github.com/gatehouse-proxy/gatehouse/gateway/reason"

// sweep keeps every time limit, by the clock's tick.
func (s *Server) sweep(now int64) {
	s.conns.Each(func(c *conn) { c.sweep(now) })
	s.workers.sweep(now)
}

// sweep looks at one connection.
func (c *conn) sweep(now int64) {
	if d := c.writeBy.Load(); d > 0 && now >= d && c.writeBy.CompareAndSwap(d, timedOut) {
		_ = c.nc.SetWriteDeadline(longAgo) // closed meanwhile: nothing to interrupt
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.earn(calmByTick)
	if c.over || c.dead {
		return
	}
	if c.ending == leaving && now >= c.leaveBy {
		c.leave()
	}
	if d := c.headBy.Load(); d > 0 && now >= d {
		c.refuseLater(reason.HeadTimeout)
		c.leave()
		c.stopReading()
	}
	if len(c.streams) == 0 {
		idle := c.srv.settings.Load().IdleTimeout
		if c.running == 0 && idle > 0 && now >= c.idleAt.Load()+idle.Milliseconds() {
			c.leave()
		}
		return
	}
	for _, s := range c.streams {
		s.sweep(now)
	}
}

// sweep looks at one stream. c.mu is held.
func (s *stream) sweep(now int64) {
	if s.writeBy > 0 && now >= s.writeBy {
		s.late = true
		s.canWrite.Broadcast()
	}
	b := s.body
	if b.readBy == 0 || now < b.readBy {
		return
	}
	// A frame of a slow client may be on its way for long: what has come of it
	// counts, too.
	if came := s.c.cameAt.Load(); s.c.midway.Load() == s.id && came > b.began {
		b.readBy, b.began = b.readBy+came-b.began, came
		if now < b.readBy {
			return
		}
	}
	b.late = true
	b.canRead.Broadcast()
}
