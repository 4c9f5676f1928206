package h1

import (
	"net/http"
	"time"
)

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
			leaving := s.leaving.Load()
			s.each(func(c *conn) { c.sweep(now.UnixMilli(), leaving) })
		}
	}
}

func (s *Server) setTime(t time.Time) {
	before := s.now.Swap(t.UnixMilli())
	if before/1000 == t.Unix() && s.date.Load() != nil {
		return
	}
	b := make([]byte, 0, len("Date: \r\n")+len(http.TimeFormat))
	b = append(b, "Date: "...)
	b = t.UTC().AppendFormat(b, http.TimeFormat)
	b = append(b, "\r\n"...)
	s.date.Store(&b)
}

// after is the coarse time d from now; 0, which is no limit, for none. The
// coarse clock is late by up to a tick: nothing is ever ended early.
func (s *Server) after(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return s.now.Load() + (d + tick).Milliseconds()
}

// timedOut marks a write whose time is over.
const timedOut = -1

const (
	// restTime is how long a connection of a server that shuts down has been idle
	// before it is closed: a client that is about to reuse it does so by then, and
	// learns from the reply that it must not again.
	restTime = 250 * time.Millisecond
	// firstTime is that for the first request of a connection, which comes as soon
	// as the client hears that it is connected.
	firstTime = 2 * time.Second
)

// rested reports that no request is to be expected any more of a connection that
// may still be used for one. Its shard is locked.
func (c *conn) rested() bool {
	if c.phase.Load() != phaseIdle {
		return false
	}
	seq := c.seq.Load()
	if c.parked.Load() {
		return true
	}
	rest := restTime
	if seq == 0 {
		rest = firstTime
	}
	return seq == c.lastSeq && time.Duration(c.quiet)*tick >= rest
}

// sweep looks at one connection. It runs under its shard's lock, so that the
// connection cannot be closed meanwhile.
func (c *conn) sweep(now int64, leaving bool) {
	if d := c.writeBy.Load(); d > 0 && now >= d && c.writeBy.CompareAndSwap(d, timedOut) {
		_ = c.nc.SetWriteDeadline(longAgo) // closed meanwhile: nothing to interrupt
	}
	phase := c.phase.Load()
	if d := c.readBy.Load(); d > 0 && now >= d {
		c.kick()
		return
	}
	if leaving && c.rested() {
		c.dismiss()
		return
	}
	if seq := c.seq.Load(); seq != c.lastSeq {
		c.lastSeq, c.quiet = seq, 0
		return
	}
	if c.parked.Load() {
		return
	}
	c.quiet++
	// Also with TLS, if its handshake is over: a Read that is interrupted with
	// nothing to return keeps half a record for the next, and leaves nothing that
	// the socket would not tell of.
	if phase == phaseIdle && c.sock != nil && time.Duration(c.quiet)*tick >= c.srv.parkAfter {
		c.wantPark.Store(true)
		c.kick()
		return
	}
	// The request, or the pause behind it, is older than a tick: from now on it
	// is worth a system call to hear that the client has gone. It also finds the
	// client whose good-bye came with its last bytes, which the loop cannot see.
	if phase == phaseBusy || phase == phaseIdle || phase == phaseHead {
		c.watch()
	}
}
