package bridge

import (
	"context"
	"net/http"
	"time"
)

const (
	// tick is how often clocks, time limits and clients that went away are
	// looked at: a limit is kept to within a tick, and costs a request one store.
	tick = 100 * time.Millisecond
	// timedOut marks a read or a write whose time is over.
	timedOut = -1
)

// sweep keeps the coarse clock and every time limit until the bridge ends.
func (b *Bridge) sweep() {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-b.stop:
			return
		case now := <-t.C:
			b.setTime(now)
			b.each(func(s *stream) { s.sweep(now.UnixMilli()) })
		}
	}
}

func (b *Bridge) setTime(t time.Time) {
	before := b.now.Swap(t.UnixMilli())
	if before/1000 == t.Unix() && b.date.Load() != nil {
		return
	}
	b.date.Store(&[]string{t.UTC().Format(http.TimeFormat)})
}

// after is the coarse time d from now; 0, which is no limit, for none. The
// coarse clock is late by up to a tick: nothing is ever ended early.
func (b *Bridge) after(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return b.now.Load() + (d + tick).Milliseconds()
}

func (b *Bridge) add(s *stream) {
	h := &b.shards[b.turn.Add(1)%uint32(len(b.shards))]
	s.shard = h
	h.mu.Lock()
	s.place = len(h.streams)
	h.streams = append(h.streams, s)
	h.mu.Unlock()
	if b.closing.Load() { // since: Close may have missed it
		s.hungUp()
	}
}

func (b *Bridge) remove(s *stream) {
	h := s.shard
	h.mu.Lock()
	last := len(h.streams) - 1
	h.streams[s.place] = h.streams[last]
	h.streams[s.place].place = s.place
	h.streams[last] = nil
	h.streams = h.streams[:last]
	h.mu.Unlock()
}

// each calls f for every request in progress, which stays one while f looks at it.
func (b *Bridge) each(f func(*stream)) {
	for i := range b.shards {
		h := &b.shards[i]
		h.mu.Lock()
		for _, s := range h.streams {
			f(s)
		}
		h.mu.Unlock()
	}
}

// sweep looks at one request.
func (s *stream) sweep(now int64) {
	if d := s.readBy.Load(); d > 0 && now >= d && s.readBy.CompareAndSwap(d, timedOut) {
		s.interruptBody()
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
