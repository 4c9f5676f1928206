package limits

import (
	"slices"
	"sync"
	"time"
)

// forgetAfter is after what time without a request nothing is kept of an
// account: there may be any number of consumers over time, whoever an authority
// lets in. The store knows what they have used; this node had better know it too
// for some time, in case the store goes away.
const forgetAfter = 24 * time.Hour

// ledger counts for all quotas of one name on this node.
type ledger struct {
	node  *Limits
	name  string
	in    *time.Location
	space space

	mu       sync.RWMutex // guards accounts
	accounts map[string]*account
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
		return midnight(y, m, d, in), midnight(y, m, d+1, in)
	}
	return midnight(y, m, 1, in), midnight(y, m+1, 1, in)
}

// midnight is when a day begins. Where summer does so too, as in Santiago, clocks
// go from 24:00 to 01:00 at once, and what time.Date takes for midnight is 23:00.
func midnight(y int, m time.Month, d int, in *time.Location) time.Time {
	t := time.Date(y, m, d, 0, 0, 0, 0, in)
	if t.Hour() >= 12 {
		_, t = t.ZoneBounds()
	}
	return t
}

// ledger returns the one of a name, and of where days begin.
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

// enter returns the account of who, locked.
func (l *ledger) enter(who string) *account {
	a := l.account(who, nil)
	a.mu.Lock()
	for a.gone {
		a.mu.Unlock()
		a = l.account(who, a)
		a.mu.Lock()
	}
	return a
}

// account is who's, but not the one that is gone.
func (l *ledger) account(who string, gone *account) *account {
	l.mu.RLock()
	a := l.accounts[who]
	l.mu.RUnlock()
	if a != nil && a != gone {
		return a
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if a = l.accounts[who]; a == nil || a == gone {
		a = &account{ledger: l, who: who, key: l.space.key([]byte(who))}
		l.accounts[who] = a
	}
	return a
}

// all lists the accounts there are.
func (l *ledger) all() []*account {
	l.mu.RLock()
	defer l.mu.RUnlock()
	list := make([]*account, 0, len(l.accounts))
	for _, a := range l.accounts {
		list = append(list, a)
	}
	return list
}

// forget drops accounts that nobody uses. Requests wait for no more than a part
// of that.
func (l *ledger) forget(now time.Time) {
	var list []*account
	for _, a := range l.all() {
		a.mu.Lock()
		if a.gone = a.gone || a.idle(now); a.gone {
			list = append(list, a)
		}
		a.mu.Unlock()
	}
	for part := range slices.Chunk(list, 256) {
		l.mu.Lock()
		for _, a := range part {
			if l.accounts[a.who] == a {
				delete(l.accounts, a.who)
			}
		}
		l.mu.Unlock()
	}
}

// idle says that the store knows all there is to know. Holds a.mu.
func (a *account) idle(now time.Time) bool {
	for i := range a.periods {
		p := &a.periods[i]
		if p.held != 0 || p.owed != 0 || p.asking || p.alone != 0 && now.Before(p.end) {
			return false
		}
	}
	return !a.used.IsZero() && now.Sub(a.used) >= forgetAfter
}
