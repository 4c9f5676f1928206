package bridge

import "context"

// timedOut marks a read or a write whose time is over.
const timedOut = -1

// sweep keeps every time limit, by the clock's tick, and looks for clients that
// went away.
func (b *Bridge) sweep(now int64) {
	b.busy.Each(func(s *stream) { s.sweep(now) })
}

// sweep looks at one request.
func (s *stream) sweep(now int64) {
	if d := s.readBy.Load(); d > 0 && now >= d && s.readBy.CompareAndSwap(d, timedOut) {
		s.interruptBody()
	}
	if f := s.conn.Ending; f != nil && f() {
		s.tell()
	}
	late := false
	if d := s.writeBy.Load(); d > 0 && now >= d {
		late = s.writeBy.CompareAndSwap(d, timedOut)
	}
	old := s.seq.Load() == s.lastSeq
	s.lastSeq = s.seq.Load()
	if !late && !old {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
	case late:
		_ = s.w.SetWriteDeadline(longAgo) // the stream has ended: nobody is blocked then
	case s.watch == nil:
		// Older than a tick: from now on it is worth something to hear that the
		// client has gone.
		s.watch = context.AfterFunc(s.r.Context(), s.watcher())
	}
}

// watcher is for this request only: it may run when s is another one's.
func (s *stream) watcher() func() {
	seq := s.seq.Load()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.seq.Load() == seq {
			s.leave()
		}
	}
}
