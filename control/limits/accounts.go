package limits

import (
	"slices"
	"time"
)

// forgetAfter is after what time without a request nothing is kept of an
// account: there may be any number of consumers over time, whoever an authority
// lets in. The store knows what they have used; this node had better know it too
// for some time, in case the store goes away.
const forgetAfter = 24 * time.Hour

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
