package h1

import (
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/live"
)

// sweep keeps every time limit, by the clock's tick.
func (s *Server) sweep(now int64) {
	leaving := s.leaving.Load()
	s.conns.Each(func(c *conn) { c.sweep(now, leaving) })
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
// may still be used for one. The server looks at it.
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
	return seq == c.lastSeq && time.Duration(c.quiet)*live.Tick >= rest
}

// sweep looks at one connection, which cannot be closed meanwhile.
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
	if phase == phaseIdle && c.sock != nil && time.Duration(c.quiet)*live.Tick >= c.srv.parkAfter {
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
