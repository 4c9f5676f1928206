package logging

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// quiet holds back messages that repeat: an upstream that is down must not
// fill a disk. Messages are equal by level, text and the attributes of their
// logger (route, plugin), whatever their own attributes say.
type quiet struct {
	next  slog.Handler
	scope string
	state *state
}

var _ slog.Handler = (*quiet)(nil)

type state struct {
	burst  int
	window time.Duration

	mu   sync.Mutex // guards seen
	seen map[key]*tally
}

type key struct {
	level       slog.Level
	scope, text string
}

type tally struct {
	began time.Time
	n     int
}

// maxSeen bounds the memory: more distinct messages than this within a window
// are no repetition.
const maxSeen = 1024

func newState(burst int, window time.Duration) *state {
	return &state{burst: burst, window: window, seen: map[key]*tally{}}
}

// allow reports whether a message passes, and how many equal ones were held
// back in the window before this one.
func (s *state) allow(k key, now time.Time) (ok bool, held int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.seen[k]
	if t == nil || now.Sub(t.began) >= s.window {
		if t == nil && len(s.seen) >= maxSeen {
			s.forget(now)
		}
		if t != nil {
			held = max(t.n-s.burst, 0)
		}
		s.seen[k] = &tally{began: now, n: 1}
		return true, held
	}
	t.n++
	return t.n <= s.burst, 0
}

// forget drops the tallies whose window is over, and all if that is not enough.
func (s *state) forget(now time.Time) {
	for k, t := range s.seen {
		if now.Sub(t.began) >= s.window {
			delete(s.seen, k)
		}
	}
	if len(s.seen) >= maxSeen {
		clear(s.seen)
	}
}

// Enabled implements slog.Handler.
func (q *quiet) Enabled(ctx context.Context, l slog.Level) bool { return q.next.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (q *quiet) Handle(ctx context.Context, r slog.Record) error {
	ok, held := q.state.allow(key{r.Level, q.scope, r.Message}, r.Time)
	if !ok {
		return nil
	}
	if held > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("held_back", held))
	}
	return q.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (q *quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *q
	c.next = q.next.WithAttrs(attrs)
	for _, a := range attrs {
		c.scope += a.String() + "\x00"
	}
	return &c
}

// WithGroup implements slog.Handler.
func (q *quiet) WithGroup(name string) slog.Handler {
	c := *q
	c.next = q.next.WithGroup(name)
	c.scope += name + "\x01"
	return &c
}
