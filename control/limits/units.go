package limits

import (
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

const (
	// quotaPart is how much of what is left of a quota all nodes together may
	// have leased and not spent; leases become single units near its end.
	quotaPart = 4
	// maxLease bounds one lease of units.
	maxLease = 10_000
	// busy is how soon a lease must be used up for the next to be twice as large,
	// idleLease after what time without a request it is given back.
	busy      = 5 * time.Second
	idleLease = 30 * time.Second
	// askAgain is how long a quota counts as used up without being asked for: others
	// may give back what they have leased.
	askAgain = time.Second
	// grace is how long a counter outlives its period, for nodes whose clocks are
	// behind.
	grace = 24 * time.Hour
)

// How units come from the store and go back: what is leased, and what is owed.

// refill returns what is to be asked in the background: leases that run low, and
// what is owed. Holds a.mu.
func (a *account) refill(q *quota, limits [2]int64, now time.Time, spending bool) (list []*unitQuestion) {
	if q.node.health.away() {
		return nil
	}
	for i := range a.periods {
		p := &a.periods[i]
		low := spending && q.leased && limits[i] > 0 && 2*p.held < p.size && !p.asking && !now.Before(p.full)
		if low || p.owed != 0 {
			if x := a.ask(q, i, 0, limits[i], now); x.extra > 0 || x.owed != 0 {
				list = append(list, x)
			}
		}
	}
	return list
}

// ask makes a question: cost for a request that waits, and as much more as is to
// be leased. Holds a.mu.
func (a *account) ask(q *quota, i int, cost, limit int64, now time.Time) *unitQuestion {
	p := &a.periods[i]
	x := &unitQuestion{a: a, i: i, key: p.key, end: p.end, cost: cost, limit: limit, owed: p.owed}
	p.owed = 0
	if q.leased && !p.asking {
		if now.Sub(p.at) < busy {
			p.size *= 2
		} else {
			p.size /= 2
		}
		p.size = max(1, min(p.size, maxLease))
		x.extra = min(p.size, (limit-p.sum)/int64(quotaPart*q.node.live()))
		if x.extra > 0 {
			p.asking, p.at = true, now
		} else {
			x.extra = 0
		}
	}
	return x
}

// idle is what has not been used for so long, to be given back, and what is owed.
func (l *ledger) idle(now time.Time, since time.Duration) (questions []*unitQuestion) {
	for _, a := range l.all() {
		a.mu.Lock()
		for i := range a.periods {
			p := &a.periods[i]
			if p.key == "" {
				continue
			}
			give := int64(0)
			if now.Sub(a.used) >= since {
				give, p.held = p.held, 0
			}
			if give > 0 || p.owed != 0 {
				questions = append(questions, &unitQuestion{a: a, i: i, key: p.key, end: p.end, back: give, owed: p.owed})
				p.owed = 0
			}
		}
		a.mu.Unlock()
	}
	return questions
}

// unitQuestion asks for units of one period, or gives some back. What was granted
// without the store (owed) is counted first, whatever the limit says.
type unitQuestion struct {
	a           *account
	i           int
	key         string
	end         time.Time
	cost, extra int64
	limit       int64
	owed, back  int64
	// Of the part cost, guarded by the account's mu: whether it was granted, and
	// what became of the request.
	granted bool
	fate    fate
}

// fate is what a request has done with the units it asked for.
type fate uint8

const (
	waits   fate = iota
	spent        // it was let through by them
	unspent      // it was refused
	owed         // it was let through without, and they are owed
)

// settle puts granted units where they belong, once that is known. Holds the
// account's mu.
func (x *unitQuestion) settle() {
	p := &x.a.periods[x.i]
	if !x.granted || p.key != x.key {
		return
	}
	switch x.fate {
	case waits:
		return
	case unspent:
		p.held += x.cost
	case owed:
		p.owed -= x.cost
	case spent:
	}
	x.granted = false // once
}

func (x *unitQuestion) post() (*batch[store.Count, store.Counted], int) {
	counts := x.a.ledger.node.counts
	end := x.end.Add(grace)
	if net := x.owed - x.back; net != 0 {
		counts.post(store.Count{Key: x.key, N: net, End: end}, &debt{x.a, x.i, x.key, net, x.owed})
	}
	if x.cost+x.extra == 0 {
		return nil, 0
	}
	in, at, ok := counts.post(store.Count{
		Key: x.key, N: x.cost + x.extra, Limit: x.limit, AtLeast: max(1, x.cost), End: end,
	}, x)
	if !ok {
		x.answered(nil, nil, 0)
	}
	return in, at
}

// answered implements receiver.
func (x *unitQuestion) answered(_ *store.Count, c *store.Counted, _ time.Duration) {
	x.a.mu.Lock()
	defer x.a.mu.Unlock()
	p := &x.a.periods[x.i]
	if p.key != x.key {
		return // that period is over
	}
	if x.extra > 0 {
		p.asking = false
	}
	if c == nil {
		return
	}
	p.note(c.Sum)
	switch {
	case c.Added == 0:
		p.full = time.Now().Add(askAgain)
	case c.Added > x.cost:
		p.held += c.Added - x.cost
	}
	x.granted = x.cost > 0 && c.Added >= x.cost
	x.settle()
}

// note takes down the store's counter. Holds the account's mu.
func (p *period) note(sum int64) {
	p.sum = sum
	p.alone = 0 // by now it is in the sum, or owed
}

// debt waits for what the store has to add or take back without asking.
type debt struct {
	a    *account
	i    int
	key  string
	net  int64
	owed int64
}

func (x *debt) answered(_ *store.Count, c *store.Counted, _ time.Duration) {
	x.a.mu.Lock()
	defer x.a.mu.Unlock()
	p := &x.a.periods[x.i]
	switch {
	case p.key != x.key:
	case c == nil:
		p.owed += x.owed // what was to be given back lapses
	default:
		p.note(c.Sum)
	}
}
