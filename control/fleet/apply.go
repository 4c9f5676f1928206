package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// Refusal is a node that does not run a revision.
type Refusal struct {
	Node  string `json:"node"`
	Error string `json:"error"`
}

// Outcome is what the live nodes made of a revision.
type Outcome struct {
	// Running are the nodes on which it, or a newer one, is live.
	Running []string `json:"running"`
	// Refused do not run it; Silent have said nothing yet.
	Refused []Refusal `json:"refused,omitempty"`
	Silent  []string  `json:"silent,omitempty"`
}

// outcome asks what every live node makes of revision n.
func (p *Publisher) outcome(ctx context.Context, n uint64) (Outcome, error) {
	var o Outcome
	members, err := Members(ctx, p.s.Store)
	if err != nil {
		return o, err
	}
	for _, m := range members {
		switch {
		case m.Instance == "" || m.File: // no node at all, or none that follows
		case m.Revision >= n:
			o.Running = append(o.Running, m.Node)
		case m.Refused == n:
			o.Refused = append(o.Refused, Refusal{m.Node, m.Error})
		default:
			o.Silent = append(o.Silent, m.Node)
		}
	}
	self := p.s.Follower.s.Self.Node
	if !slices.ContainsFunc(members, func(m Member) bool { return m.Node == self }) {
		o.Silent = append(o.Silent, self)
	}
	return o, nil
}

// asking is how often nodes are looked at while they are waited for.
const asking = 50 * time.Millisecond

// wait waits until no live node is silent, or until ctx is done.
func (p *Publisher) wait(ctx context.Context, n uint64) (o Outcome, err error) {
	for {
		now, e := p.outcome(ctx, n)
		if e == nil {
			o, err = now, nil
			if len(o.Silent) == 0 {
				return o, nil
			}
		} else if ctx.Err() == nil {
			err = e
		}
		if ctx.Err() != nil {
			return o, err
		}
		sleep(ctx, asking)
	}
}

// Applied is what came of Apply.
type Applied struct {
	Revision *store.Revision `json:"revision"`
	// Outcome is absent if nobody was waited for.
	Outcome *Outcome `json:"outcome,omitempty"`
	// BackTo is the revision whose config was published again since a node refused
	// the new one, and Rollback the number it got.
	BackTo   uint64 `json:"back_to,omitempty"`
	Rollback uint64 `json:"rollback,omitempty"`
	// Error is why nodes could not be waited for, or no rollback was possible.
	Error string `json:"error,omitempty"`
}

// Apply publishes and, with a wait above 0, waits that long for every live node
// to run the revision or to refuse it. If one refuses and rollback is true, the
// config before it is published again. The error is Publish's; all that comes
// later is in the result. A caller that goes away does not stop it.
func (p *Publisher) Apply(ctx context.Context, d Draft, wait time.Duration, rollback bool) (*Applied, error) {
	if !p.begin() {
		return nil, errClosed
	}
	defer p.done.Done()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	r, err := p.Publish(ctx, d)
	if err != nil {
		return nil, err
	}
	a := &Applied{Revision: r}
	if wait <= 0 {
		return a, nil
	}
	waiting, stop := context.WithTimeout(ctx, wait)
	defer stop()
	o, err := p.wait(waiting, r.Number)
	a.Outcome = &o
	if err != nil {
		a.Error = "what the nodes make of it is not known: " + err.Error()
	}
	if len(o.Refused) > 0 && rollback {
		p.rollback(ctx, a)
	}
	return a, nil
}

// takingBack is how long a rollback is tried: a store that fails over or starts
// again is back by then, and whoever applies waits for it.
const takingBack = 30 * time.Second

// rollback publishes what was there before a revision that nodes refuse.
func (p *Publisher) rollback(ctx context.Context, a *Applied) {
	n, bad := a.Revision.Number, a.Outcome.Refused[0]
	if n == 1 {
		a.Error = "there is no earlier revision to go back to: revision 1 stays published, and live where it could be made so; mend what is wrong and apply again"
		return
	}
	first, _, _ := strings.Cut(bad.Error, "\n")
	message := cut(fmt.Sprintf("back to %d because %s refused: %.300s", n-1, bad.Node, first))
	ctx, cancel := context.WithTimeout(ctx, takingBack)
	defer cancel()
	var r *store.Revision
	err := insist(ctx, func(ctx context.Context) error {
		if r == nil {
			back, err := p.Revision(ctx, n-1)
			if err != nil {
				return err
			}
			r = p.sign(n, Draft{Data: back.Data, Author: a.Revision.Author, Message: message})
		}
		return p.put(ctx, r, 0)
	})
	if err == nil {
		a.BackTo, a.Rollback = n-1, r.Number
		return
	}
	could := "could not be"
	if unknown := (*UnknownError)(nil); errors.As(err, &unknown) {
		could = "may not have been"
	} else if errors.Is(err, store.ErrConflict) {
		err = errors.New("somebody has published another one since")
	}
	a.Error = fmt.Sprintf("it %s taken back: %v", could, err)
}

// insist does something with the store until that is done, somebody else was
// first or what it has is of no use; or until ctx is done.
func insist(ctx context.Context, f func(ctx context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, patience)
		err := f(try)
		cancel()
		switch {
		case err == nil, errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrMalformed),
			errors.Is(err, revision.ErrUnknownKey), errors.Is(err, revision.ErrBadSignature):
			return err
		}
		sleep(ctx, asking)
		if ctx.Err() != nil {
			return err
		}
	}
}
