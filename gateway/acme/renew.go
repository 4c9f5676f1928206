package acme

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// attempt gets a certificate, or says why not and when to try again.
func (s *Source) attempt(ctx context.Context) {
	done, err := s.renew(ctx)
	defer done()
	if s.running.Err() != nil {
		return // stopped: that is no failure
	}
	var p *pausedError
	switch {
	case err == nil:
		s.succeeded()
	case errors.As(err, &p):
		s.waitWith(p)
	default:
		s.failedWith(classify(err))
	}
}

// renew gets a new certificate, unless another node has stored one. done lets the
// other nodes try: not before they can read why this one has failed.
func (s *Source) renew(ctx context.Context) (done func(), err error) {
	done = func() {}
	st, err := s.node.opened()
	if err != nil {
		return done, err
	}
	held, unlock, err := s.node.lock(ctx, certificateEntry(s.s.Name), s.sharedEntry(), false)
	alone := isAway(err) && s.inUse != nil && !time.Now().Before(s.alone)
	switch {
	case alone:
		s.log.Warn("the store of the fleet is away and the certificate is about to expire: this node orders one on its own", "error", err)
		held, unlock, err = s.node.lock(ctx, certificateEntry(s.s.Name), "", true)
	case isAway(err) && s.inUse == nil:
		err = fmt.Errorf("%w; nothing is ordered without it", err)
	case isAway(err):
		err = fmt.Errorf("%w; nothing is ordered without it before %s", err, s.alone.UTC().Format(time.RFC3339))
	}
	if err != nil {
		return done, err
	}
	done = unlock
	shared := st.shared != nil && !alone
	if shared {
		err = s.adoptShared(ctx, st)
	} else {
		err = s.adopt(ctx, st)
	}
	if err != nil || time.Now().Before(s.due) {
		return done, err
	}
	if shared {
		if err := s.othersFailed(ctx, st); err != nil {
			return done, err
		}
	}
	if err := s.replace(held, st, alone); err != nil {
		if held.Err() != nil && ctx.Err() == nil {
			return done, &awayError{context.Cause(held)}
		}
		return done, err
	}
	if shared {
		if err := s.adoptShared(ctx, st); err != nil { // theirs is older: it gives them ours
			s.log.Error("a new certificate cannot be stored for the other nodes yet", "error", err)
		}
	}
	return done, nil
}

// replace orders a certificate and puts it in use.
func (s *Source) replace(ctx context.Context, st *store, alone bool) error {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	found, err := s.obtain(ctx, st, alone)
	if err != nil {
		return err
	}
	// Before it is in use, so that who takes over from this source, after a reload
	// or a restart, finds it; also where the node is stopping, since it has cost an
	// order.
	if err := st.putCertificate(context.WithoutCancel(ctx), s.s.Name, found); err != nil {
		// It is used all the same: to order again would change nothing.
		s.log.Error("a new certificate cannot be stored; after a restart it is ordered again", "error", err)
	}
	s.use(found)
	if soonest := time.Now().Add(s.shortest); s.due.Before(soonest) {
		s.due = soonest // a very short life, or a clock that is ahead: never ask without a pause
		s.schedule(s.due)
	}
	s.log.Info("a new certificate is in use", "names", s.s.Hosts, "not_after", found.cert.Leaf.NotAfter, "renewal", s.due)
	s.mu.Lock()
	s.ordered = time.Now()
	s.orders[succeeded]++
	s.mu.Unlock()
	return nil
}

// obtain asks the authority. The first attempt tries each kind of challenge,
// later ones one each, to spare the authority's limits.
func (s *Source) obtain(ctx context.Context, st *store, alone bool) (*stored, error) {
	held, unlock, err := s.node.lock(ctx, s.s.account(), s.s.account(), alone)
	if err != nil {
		return nil, err
	}
	c, done, err := s.dial(held, st, alone)
	if err == nil {
		defer done()
		err = s.account(held, c)
	}
	unlock()
	if err != nil {
		return nil, err
	}
	tries := 1
	if s.failures == 0 {
		tries = len(s.s.Challenges)
	}
	var errs []error
	for range tries {
		kind := s.s.Challenges[s.kind%len(s.s.Challenges)]
		cert, err := s.order(ctx, c, kind, alone)
		if err == nil {
			return &stored{cert: cert, directory: s.s.Directory, hosts: s.s.wanted()}, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", kind, err))
		if k := classify(err).kind; k != unproved && !errors.Is(err, errNoKind) {
			break // another challenge would meet the same
		}
		s.kind++
	}
	return nil, errors.Join(errs...)
}

// look is what a worker does between orders when something has changed that the
// nodes share, or can be had again.
func (s *Source) look(ctx context.Context) {
	st, err := s.node.opened()
	if err != nil || st.shared == nil {
		return
	}
	if err = s.adoptShared(ctx, st); err == nil {
		var own []byte
		if own, err = st.ownAccount(ctx, s.s.account()); err == nil {
			_, err = st.shareAccount(ctx, s.s.account(), own, false)
		}
	}
	switch {
	case err != nil: // whoever is asked next tells
		s.log.Debug("what the nodes share could not be looked at", "error", err)
	case s.waiting:
		s.waiting, s.failures = false, 0
		s.schedule(s.due)
	}
	if s.again && time.Now().Before(s.due) {
		s.succeeded() // another node has
	}
}

func (s *Source) succeeded() {
	s.mu.Lock()
	again := s.fault != ""
	s.fault, s.since = "", time.Time{}
	s.mu.Unlock()
	if again {
		s.log.Info("the certificate is as it should be again")
	}
	s.failures, s.again, s.waiting = 0, false, false
	s.forget()
}

func (s *Source) failedWith(f failure) {
	s.failures++
	s.again, s.waiting = true, f.kind == storeAway
	s.failed.Add(1)
	p := s.whileRefused
	if f.kind == unreachable || f.kind == storeAway {
		p = s.whileUnreachable
	}
	now := time.Now()
	next := now.Add(p.pause(s.failures, f.wait))
	until := "nothing: there is none yet"
	if c := s.current.Load(); c != nil {
		until = "the last one, until " + c.Leaf.NotAfter.Format(time.RFC3339)
	}
	what := "no certificate could be had from the authority"
	if f.kind == storeAway {
		what = "no certificate is ordered: what the nodes share cannot be had"
	}
	s.log.Error(what, "kind", f.kind, "error", f.text,
		"failures", s.failures, "next_try", next.Round(time.Second), "in_use", until)
	s.mu.Lock()
	s.orders[f.kind]++
	if s.fault == "" {
		s.since = now
	}
	s.fault, s.next = f.text, next
	s.mu.Unlock()
	if f.kind != unreachable && f.kind != storeAway {
		s.note(note{failures: s.failures, at: now, next: next, asked: f.wait > 0, text: f.text})
	}
}
