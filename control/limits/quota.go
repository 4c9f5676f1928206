package limits

import (
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// Quota implements ratelimit.Fleet. Quotas of one name are one quota.
func (n *Limits) Quota(s ratelimit.QuotaSettings) (ratelimit.Quota, error) {
	return &quota{n.ledger(s.Name, s.Location), s.Leased, s.OnFailure}, nil
}

// quota decides about requests: by units that the node holds, else by asking the
// store, else by itself.
type quota struct {
	*ledger
	leased bool
	how    ratelimit.OnFailure
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
