package limits

import (
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
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

// Quota implements ratelimit.Fleet. Quotas of one name are one quota.
func (n *Limits) Quota(s ratelimit.QuotaSettings) (ratelimit.Quota, error) {
	return &quota{n.ledger(s.Name, s.Location), s.Leased, s.OnFailure}, nil
}

func (n *Limits) ledger(name string, in *time.Location) *ledger {
	if in == nil {
		in = time.UTC
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	full := name + "\x00" + in.String()
	l := n.ledgers[full]
	if l == nil {
		l = &ledger{node: n, name: name, in: in, space: newSpace("quota", full, nil), accounts: map[string]*account{}}
		n.ledgers[full] = l
	}
	return l
}

// ledger counts for all quotas of one name on this node.
type ledger struct {
	node  *Limits
	name  string
	in    *time.Location
	space space

	mu       sync.RWMutex // guards accounts
	accounts map[string]*account
}

type quota struct {
	*ledger
	leased bool
	how    ratelimit.OnFailure
}

// account is one consumer's.
type account struct {
	ledger *ledger
	who    string
	key    string

	mu      sync.Mutex // guards all below
	gone    bool       // forgotten: another one is in its place, or will be
	used    time.Time  // when it was last asked for
	periods [2]period  // day, month
}

// period is what the node holds and knows of one day or month.
type period struct {
	key   string
	start time.Time
	end   time.Time
	// sum is the store's counter as it last was: what all have spent or leased.
	sum  int64
	held int64 // leased and not spent
	size int64 // of the last lease
	at   time.Time
	// asking: a lease has been asked for; full: until then no more can be had.
	asking bool
	full   time.Time
	// alone is what this node has granted by itself since the store went away, owed
	// what of it the store does not know yet.
	alone, owed int64
}

// roll begins new periods where the old ones are over. Holds a.mu.
func (a *account) roll(now time.Time) {
	for i := range a.periods {
		p := &a.periods[i]
		if now.Before(p.end) && !now.Before(p.start) {
			continue
		}
		start, end := periodOf(i, now, a.ledger.in)
		*p = period{start: start, end: end, key: a.key + start.Format(periodNames[i])}
	}
}

// periodNames make the day's and the month's counter of a key, by their beginning.
var periodNames = [2]string{".d20060102", ".m200601"}

// periodOf is the day, or the month, that now is in.
func periodOf(i int, now time.Time, in *time.Location) (start, end time.Time) {
	y, m, d := now.In(in).Date()
	if i == 0 {
		return time.Date(y, m, d, 0, 0, 0, 0, in), time.Date(y, m, d+1, 0, 0, 0, 0, in)
	}
	return time.Date(y, m, 1, 0, 0, 0, 0, in), time.Date(y, m+1, 1, 0, 0, 0, 0, in)
}

// Take implements ratelimit.Quota.
func (q *quota) Take(who string, allow ratelimit.Allowance, cost uint32, u *ratelimit.Used) {
	now, n := time.Now(), int64(cost)
	limits := [2]int64{allow.Day, allow.Month}
	a := q.enter(who)
	a.used = now
	a.roll(now)
	enough, refused := true, false
	for i := range a.periods {
		p, limit := &a.periods[i], limits[i]
		if limit > 0 && p.held < n {
			enough = false
			refused = refused || n > limit || now.Before(p.full) && p.sum+n > limit
		}
	}
	if enough || refused {
		for i := range a.periods {
			if enough && limits[i] > 0 {
				a.periods[i].held -= n
			}
		}
		a.describe(limits, n, now, enough, ratelimit.Lease, u)
		more := a.refill(q, limits, now, enough)
		a.mu.Unlock()
		for _, x := range more {
			x.post()
		}
		return
	}
	if q.node.health.away() {
		q.instead(a, limits, n, now, u)
		a.mu.Unlock()
		return
	}
	var asked [2]*unitQuestion
	for i := range a.periods {
		if limits[i] > 0 {
			asked[i] = a.ask(q, i, n, limits[i], now)
		}
	}
	a.mu.Unlock()
	got := q.collect(&asked)
	a.mu.Lock()
	defer a.mu.Unlock()
	fate := spent
	switch got {
	case everything:
		a.describe(limits, n, now, true, ratelimit.Store, u)
	case notAll:
		fate = unspent
		a.describe(limits, n, now, false, ratelimit.Store, u)
	case nobody:
		fate = unspent
		if q.instead(a, limits, n, now, u) {
			fate = owed
		}
	}
	for _, x := range asked {
		if x != nil {
			x.fate = fate
			x.settle()
		}
	}
}

// What became of the questions of one request.
const (
	nobody = iota // did not answer
	notAll
	everything
)

func (q *quota) collect(asked *[2]*unitQuestion) int {
	var in [2]*batch[store.Count, store.Counted]
	var at [2]int
	for i, x := range asked {
		if x != nil {
			in[i], at[i] = x.post()
		}
	}
	result := everything
	for i, x := range asked {
		if x == nil {
			continue
		}
		var answer *store.Counted
		if in[i] != nil {
			answer = in[i].wait(at[i])
		}
		switch {
		case answer == nil:
			result = nobody
		case answer.Added < x.cost:
			result = min(result, notAll)
		}
	}
	return result
}

// instead decides without the store. What it grants is owed to that. Holds a.mu.
func (q *quota) instead(a *account, limits [2]int64, n int64, now time.Time, u *ratelimit.Used) bool {
	allowed, from := true, ratelimit.Share
	switch q.how {
	case ratelimit.LetPass:
		from = ratelimit.Open
	case ratelimit.RefuseAll:
		allowed, from = false, ratelimit.Closed
	default:
		for i := range a.periods {
			p := &a.periods[i]
			// Of what is not known to be spent, this node's part, at least one.
			part := max(1, (limits[i]-p.sum)/int64(q.node.live()))
			if limits[i] > 0 && (p.sum >= limits[i] || p.alone+n > part+p.held) {
				allowed = false
			}
		}
	}
	for i := range a.periods {
		if p := &a.periods[i]; allowed && limits[i] > 0 {
			own := min(n, p.held)
			p.held -= own
			p.alone += n - own
			p.owed += n - own
		}
	}
	a.describe(limits, n, now, allowed, from, u)
	return allowed
}

// describe writes what is known. Holds a.mu.
func (a *account) describe(limits [2]int64, n int64, now time.Time, allowed bool, from ratelimit.Source, u *ratelimit.Used) {
	*u = ratelimit.Used{Allowed: allowed, Source: from}
	least := 2.0
	for i := range a.periods {
		p, limit := &a.periods[i], limits[i]
		if limit == 0 {
			continue
		}
		left := max(0, limit-p.sum-p.owed+p.held)
		part := float64(left) / float64(limit)
		if !allowed {
			part = 0
			if left >= n {
				part = 1
			}
		}
		if part < least || part == least && !allowed {
			least = part
			u.Month, u.Limit, u.Remaining, u.Reset = i == 1, limit, left, p.end.Sub(now)
		}
	}
}

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
