package secrets

import (
	"context"
	"errors"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// watch has the store looked at whenever it says that something has changed.
func (s *Shared) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.s.Store.Watch(ctx, func(topic string) {
			switch topic {
			case entryFolder, challengeFolder:
				s.poke()
			case lockFolder, seenFolder:
				s.moved.ring()
			case "":
				s.poke()
				s.moved.ring()
			}
		})
		if err != nil && ctx.Err() == nil {
			s.s.Log.Warn("the store no longer tells of certificates and session tickets; changes are found by asking", "error", err)
		}
		sleep(ctx, poll, nil)
	}
}

// locksEvery is how many polls lie between two looks at who orders what.
const locksEvery = 5

func (s *Shared) follow(ctx context.Context) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for n := 0; ; n++ {
		s.tick(ctx, n%locksEvery == 0)
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		case <-tick.C:
		}
	}
}

// tick looks at the store once.
func (s *Shared) tick(ctx context.Context, locks bool) {
	changed, err := s.look(ctx)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		s.listChallenges(ctx)
		if locks {
			s.listLocks(ctx)
		}
	} else if s.pending && s.wasAwayFor() > challengeLife {
		s.pending = false
		s.certs.Challenged(nil)
	}
	s.mu.Lock()
	list := make([]*Tickets, 0, len(s.tickets))
	for t := range s.tickets {
		list = append(list, t)
	}
	s.mu.Unlock()
	for _, t := range list {
		t.tick(ctx, changed)
	}
}

// look finds out whether anything has changed, or may have because the store was
// away, and if so has it looked at.
func (s *Shared) look(ctx context.Context) (changed bool, err error) {
	var v []byte
	err = s.try(ctx, func(ctx context.Context) (err error) {
		v, err = s.s.Store.Get(ctx, entryFolder, versionEntry)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	s.mu.Lock()
	same := s.trust.same && s.health.broken.Before(s.looked)
	s.mu.Unlock()
	if same && string(v) == s.version && time.Since(s.looked) < slow {
		return false, nil
	}
	if err := s.try(ctx, s.verify); err != nil {
		return false, err
	}
	s.version, s.looked = string(v), time.Now()
	s.certs.Look()
	return true, nil
}
