package secrets

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

// Tickets are the secrets behind session tickets, the same on all nodes. No
// clock decides when they change: a mark that the store ends after the time
// between two changes says which generation is wanted, and whoever finds it gone
// writes the next. A node that cannot ask goes on with the last secrets for as
// long as they would have been current, then with its own.
type Tickets struct {
	shared  *Shared
	every   time.Duration
	current atomic.Pointer[tlsterm.TicketSecrets]

	turn sync.Mutex // guards what follows; taken before Shared.mu
	set  *ticketSet // of the fleet, the last one seen; nil: none
	// since is when the current secret, shared or own, was first in use here.
	since   time.Time
	checked time.Time
	// own are this node's own secrets that may still be honoured, newest first,
	// made before generation until or, while alone, in use.
	own   []tlsterm.TicketSecret
	until uint64
	alone bool
	err   error // why the last look failed
}

var _ tlsterm.TicketKeys = (*Tickets)(nil)

// Tickets returns secrets that change at equal intervals. Before Start they are
// the node's own.
func (s *Shared) Tickets(every time.Duration) *Tickets {
	t := &Tickets{shared: s, every: every, alone: true}
	t.rotateAlone()
	return t
}

// Secrets implements tlsterm.TicketKeys.
func (t *Tickets) Secrets() *tlsterm.TicketSecrets { return t.current.Load() }

// Start takes up the secrets of the fleet, if they can be had, and follows them.
func (t *Tickets) Start(ctx context.Context) error {
	t.tick(ctx, true)
	t.shared.mu.Lock()
	defer t.shared.mu.Unlock()
	t.shared.tickets[t] = struct{}{}
	return nil
}

// Close ends the following; the last secrets stay.
func (t *Tickets) Close(context.Context) error {
	t.shared.mu.Lock()
	defer t.shared.mu.Unlock()
	delete(t.shared.tickets, t)
	return nil
}

func (t *Tickets) entry() string { return "tickets-" + strconv.Itoa(int(t.every/time.Second)) }
func (t *Tickets) mark() string  { return "rotation-" + strconv.Itoa(int(t.every/time.Second)) }

// tick looks at the store when it is time to, or something has changed.
func (t *Tickets) tick(ctx context.Context, changed bool) {
	t.turn.Lock()
	defer t.turn.Unlock()
	if !changed && t.err == nil && time.Since(t.checked) < max(min(t.every/20, 10*time.Second), poll) {
		return
	}
	t.checked = time.Now()
	was := t.err
	t.err = t.look(ctx)
	if ctx.Err() != nil {
		t.err = was
		return
	}
	if t.err == nil || time.Since(t.since) < t.every {
		return
	}
	if !t.alone {
		t.shared.s.Log.Error("the secrets of session tickets cannot be renewed; this node goes on with its own, which the others do not honour", "rotate", t.every, "error", t.err)
	}
	t.alone = true
	t.rotateAlone()
}

// look reads the set, writes the next one if that is due, and uses it.
func (t *Tickets) look(ctx context.Context) error {
	for range 10 { // whoever loses that often has busy company, and time
		raw, set, err := t.read(ctx)
		if err != nil {
			return err
		}
		next := set
		if t.set != nil && (set == nil || set.Generation < t.set.Generation) {
			next = t.set // the store has lost it
		}
		wanted, err := t.wanted(ctx, next, next != set)
		switch {
		case err != nil:
			return err
		case wanted == 0:
			continue
		case next == nil:
			next = newTicketSet(wanted)
		case next.Generation < wanted:
			next = next.next(wanted)
		}
		if next != set {
			err := t.shared.Replace(ctx, t.entry(), raw, t.shared.s.Key.Seal(t.entry(), next.encode()), 0)
			if errors.Is(err, acme.ErrChanged) {
				continue
			}
			if err != nil {
				return err
			}
		}
		t.use(next)
		return nil
	}
	return errors.New("other nodes keep changing the secrets of session tickets")
}

// read returns the set in the store: raw is nil if there is none, set also if it
// cannot be opened, and may then be replaced.
func (t *Tickets) read(ctx context.Context) (raw []byte, set *ticketSet, err error) {
	raw, err = t.shared.Get(ctx, t.entry())
	if errors.Is(err, acme.ErrNone) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	plain, err := t.shared.s.Key.Open(t.entry(), raw)
	if err == nil {
		set, err = parseTicketSet(plain)
	}
	if err != nil {
		t.shared.s.Log.Error("the secrets of session tickets in the store cannot be used; they are written anew", "entry", t.entry(), "error", err)
		return raw, nil, nil
	}
	return raw, set, nil
}

// wanted is the generation that there should be; 0: somebody else is just
// saying so. set is the newest known, nil if there is none; lost says that the
// store does not have it.
func (t *Tickets) wanted(ctx context.Context, set *ticketSet, lost bool) (uint64, error) {
	s := t.shared
	var mark []byte
	err := s.ask(ctx, func(ctx context.Context) (err error) {
		mark, err = s.s.Store.Get(ctx, entryFolder, t.mark())
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	next, most, ttl := uint64(1), uint64(1<<53), t.every
	if set != nil {
		next, most = set.Generation+1, set.Generation+1
	}
	if n, ok := parseMark(mark); ok && n <= most {
		return n, nil
	}
	if lost && mark == nil { // an emptied store
		next, ttl = set.Generation, max(t.every-time.Since(t.since), time.Second)
	}
	err = s.ask(ctx, func(ctx context.Context) error {
		return s.s.Store.Swap(ctx, entryFolder, t.mark(), mark, strconv.AppendUint(nil, next, 10), ttl)
	})
	if errors.Is(err, store.ErrConflict) {
		return 0, nil
	}
	return next, err
}

// use makes a set of the fleet the current one. What the node has handed out on
// its own is honoured for two more changes.
func (t *Tickets) use(set *ticketSet) {
	if t.alone {
		t.shared.s.Log.Info("the secrets of session tickets are those of the fleet", "rotate", t.every, "generation", set.Generation)
		t.alone, t.until = false, set.Generation+keptSecrets
	} else if t.set != nil && t.set.equal(set) {
		return
	}
	if t.set == nil || t.set.Secrets[0] != set.Secrets[0] {
		t.since = time.Now()
	}
	t.set = set
	if set.Generation >= t.until {
		t.own = nil
	}
	all := &tlsterm.TicketSecrets{Current: set.Secrets[0]}
	all.Previous = append(append(all.Previous, set.Secrets[1:]...), t.own...)
	t.current.Store(all)
}

// rotateAlone makes a secret of this node's own the current one.
func (t *Tickets) rotateAlone() {
	var secret tlsterm.TicketSecret
	rand.Read(secret[:])
	t.own = append([]tlsterm.TicketSecret{secret}, t.own[:min(len(t.own), keptSecrets)]...)
	t.since = time.Now()
	all := &tlsterm.TicketSecrets{Current: secret}
	if old := t.current.Load(); old != nil {
		all.Previous = append([]tlsterm.TicketSecret{old.Current}, old.Previous[:min(len(old.Previous), keptSecrets-1)]...)
	}
	t.current.Store(all)
}

func (t *Tickets) status() TicketStatus {
	t.turn.Lock()
	defer t.turn.Unlock()
	out := TicketStatus{Rotate: t.every.String(), Shared: !t.alone, Made: t.since}
	if !t.alone {
		out.Generation, out.Made = t.set.Generation, t.set.Made
	}
	if t.err != nil {
		out.Error = t.err.Error()
	} else if t.alone {
		out.Error = "the store was not asked yet"
	}
	return out
}
