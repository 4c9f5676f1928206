package h2

import (
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// tick is how often clocks and time limits are looked at: a limit is kept to
// within a tick, and costs a request one store.
const tick = 100 * time.Millisecond

// sweep keeps the coarse clock and every time limit until the server ends.
func (s *Server) sweep() {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case now := <-t.C:
			s.setTime(now)
			s.each(func(c *conn) { c.sweep(now.UnixMilli()) })
			s.workers.sweep(now.UnixMilli())
		}
	}
}

func (s *Server) setTime(t time.Time) {
	before := s.now.Swap(t.UnixMilli())
	if before/1000 == t.Unix() && s.date.Load() != nil {
		return
	}
	date := t.UTC().Format(http.TimeFormat)
	s.date.Store(&date)
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
