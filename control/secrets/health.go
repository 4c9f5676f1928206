package secrets

import (
	"context"
	"errors"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// health is whether the store answers.
type health struct {
	known, up bool
	since     time.Time
	err       error
	failed    time.Time // the last time
	// broken is when it was last found away or emptied. Zero: never.
	broken time.Time
}

// again is how long after a failure nobody but the one who follows the store
// asks it: many questions at a start must not each wait for it.
const again = time.Second

// ask puts a question to the store.
func (s *Shared) ask(ctx context.Context, f func(ctx context.Context) error) error {
	s.mu.Lock()
	h := s.health
	s.mu.Unlock()
	if h.known && !h.up && time.Since(h.failed) < again {
		return h.err
	}
	return s.try(ctx, f)
}

// try is ask, also right after a failure.
func (s *Shared) try(ctx context.Context, f func(ctx context.Context) error) error {
	asking, cancel := context.WithTimeout(ctx, s.s.Patience)
	defer cancel()
	err := f(asking)
	if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) ||
		errors.Is(err, store.ErrMalformed) || errors.Is(err, ErrOtherSecret) {
		s.answered()
	} else if ctx.Err() == nil {
		s.away(err)
	}
	return err
}

func (s *Shared) answered() {
	now := time.Now()
	s.mu.Lock()
	was := s.health
	if !was.up {
		s.health = health{known: true, up: true, since: now, broken: was.broken}
		if was.known {
			s.health.broken = now
		}
	}
	s.mu.Unlock()
	if was.known && !was.up {
		s.s.Log.Info("the store answers again; certificates and session tickets are shared", "away_for", now.Sub(was.since).Round(time.Millisecond))
		s.poke()
	}
}

func (s *Shared) away(err error) {
	now := time.Now()
	s.mu.Lock()
	was := s.health
	s.health = health{known: true, since: was.since, err: err, failed: now, broken: now}
	if was.up || !was.known {
		s.health.since = now
	}
	s.mu.Unlock()
	if was.up || !was.known {
		s.s.Log.Error("the store is away; certificates and secrets of session tickets that are in use stay", "error", err)
	}
}

// emptied notes that the store has lost what it had.
func (s *Shared) emptied() {
	s.mu.Lock()
	s.health.broken = time.Now()
	s.mu.Unlock()
	s.s.Log.Error("the store has lost what the nodes share; they put back what they have")
}

// grace is how long whoever holds a lock has to say so again to a store that has
// lost it.
func (s *Shared) grace() time.Duration { return s.s.Lease / 3 }

// steady is how long to wait until what the store says of locks can be relied
// on.
func (s *Shared) steady() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.health.broken.IsZero() {
		return 0
	}
	return s.grace() - time.Since(s.health.broken)
}

// wasAwayFor is how long the store has been away; 0: it is not.
func (s *Shared) wasAwayFor() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.health.known || s.health.up {
		return 0
	}
	return time.Since(s.health.since)
}
