package udp

import (
	"errors"
	"time"
)

const (
	// looked is how many sessions are looked at for one that may give way: all
	// would take too long where there are many.
	looked = 16
	// quiet is how long nothing must have come either way; tests change a server's.
	quiet = time.Second
)

// errGaveWay is the end of a session in whose place there is another.
var errGaveWay = errors.New("the session gave way to a newer one")

// giveWay ends a session where there is no room for another: the one that has
// been quiet for longest among some, all of them in the end. Else whoever sends
// one datagram each from many addresses, which may be forged, would keep
// everybody away until the idle time is over. Sessions whose client has written
// again after a reply stay, as with Linux's connection tracking (early drop).
// With a name it must be of that upstream. s.mu is held.
func (s *Server) giveWay(upstream string) *session {
	var victim *session
	longest, left := s.quiet, looked
	for _, x := range s.sessions { // in a random order
		if d := x.dispensable(upstream); d >= longest {
			victim, longest = x, d
		}
		if left--; left == 0 {
			break
		}
	}
	if victim == nil || !victim.dismiss() {
		return nil
	}
	delete(s.sessions, victim.key)
	victim.going = true
	s.going++
	return victim
}

// awaitRoom makes room for another session to an upstream; false: there is none.
func (s *Server) awaitRoom(upstream string) bool {
	s.mu.Lock()
	victim := s.giveWay(upstream)
	s.mu.Unlock()
	if victim == nil {
		return false
	}
	<-victim.served
	return true
}

// dispensable is for how long the session has been quiet; 0: it is needed.
func (x *session) dispensable(upstream string) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.leg == nil || x.over || x.assured || upstream != "" && x.choice.Upstream() != upstream {
		return 0
	}
	return time.Since(x.last)
}

// dismiss ends the session soon, unless it has ended.
func (x *session) dismiss() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.leg == nil || x.over {
		return false
	}
	x.over, x.gaveWay = true, true
	_ = x.leg.SetReadDeadline(longAgo)
	return true
}

// maxKept is how many bytes all sessions of a server together keep for a second
// try. What is over it is sent once, as datagrams are.
const maxKept = 32 << 20

// keep holds on to a datagram that may have to be sent again. x.mu is held.
func (x *session) keep(b []byte) {
	if x.answered || len(x.waiting) >= maxWaiting || x.bytes+len(b) > maxWaitingBytes {
		return
	}
	if !x.server.room(int64(len(b))) {
		return
	}
	x.waiting = append(x.waiting, append([]byte(nil), b...))
	x.bytes += len(b)
}

// room counts n bytes as kept if they may be.
func (s *Server) room(n int64) bool {
	for {
		kept := s.kept.Load()
		if kept+n > maxKept {
			return false
		}
		if s.kept.CompareAndSwap(kept, kept+n) {
			return true
		}
	}
}

// drop lets go of what was kept. x.mu is held.
func (x *session) drop() {
	x.server.kept.Add(-int64(x.bytes))
	x.waiting, x.bytes = nil, 0
}
