package limits

import (
	"context"
	"slices"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// Usage is what somebody has used of a quota in one period.
type Usage struct {
	// Used includes what other nodes have leased and not spent.
	Used int64
	// Reset is when the next period begins.
	Reset time.Time
}

// Usages are those of the day and the month.
type Usages [2]Usage

// part bounds one round trip about many.
const part = 256

// Used asks the store what each of many consumers has used of a quota.
func (n *Limits) Used(ctx context.Context, name string, in *time.Location, who []string) ([]Usages, error) {
	l, now := n.ledger(name, in), time.Now()
	out := make([]Usages, 0, len(who))
	for names := range slices.Chunk(who, part) {
		var counts []store.Count
		for _, w := range names {
			for i := range 2 {
				start, end := periodOf(i, now, l.in)
				counts = append(counts, store.Count{Key: l.space.key([]byte(w)) + start.Format(periodNames[i]), End: end.Add(grace)})
			}
		}
		got, err := n.s.Store.Count(ctx, counts)
		if err != nil {
			return nil, err
		}
		for j, w := range names {
			var u Usages
			for i := range u {
				_, end := periodOf(i, now, l.in)
				u[i] = Usage{max(0, got[2*j+i].Sum-l.unspent(w, i, counts[2*j+i].Key)), end}
			}
			out = append(out, u)
		}
	}
	return out, nil
}

// Forgive takes so many units of what somebody has used of a quota, in this day
// and this month, off its count; below 0: all.
func (n *Limits) Forgive(ctx context.Context, name string, in *time.Location, who string, units [2]int64) error {
	used, err := n.Used(ctx, name, in, []string{who})
	if err != nil {
		return err
	}
	l, now := n.ledger(name, in), time.Now()
	var counts []store.Count
	for i, u := range units {
		if most := used[0][i].Used; u < 0 || u > most {
			u = most
		}
		start, end := periodOf(i, now, l.in)
		counts = append(counts, store.Count{Key: l.space.key([]byte(who)) + start.Format(periodNames[i]), N: -u, End: end.Add(grace)})
	}
	got, err := n.s.Store.Count(ctx, counts)
	if err != nil {
		return err
	}
	l.mu.RLock()
	a := l.accounts[who]
	l.mu.RUnlock()
	if a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		for i := range a.periods {
			if p := &a.periods[i]; p.key == counts[i].Key {
				p.sum, p.full = got[i].Sum, time.Time{}
			}
		}
	}
	return nil
}

// Known calls f with everybody who has asked this node for a quota of late.
func (n *Limits) Known(name string, in *time.Location, f func(who string)) {
	l := n.ledger(name, in)
	l.mu.RLock()
	defer l.mu.RUnlock()
	for who := range l.accounts {
		f(who)
	}
}

// unspent is what of a counter in the store this node knows not to be used.
func (l *ledger) unspent(who string, i int, key string) int64 {
	l.mu.RLock()
	a := l.accounts[who]
	l.mu.RUnlock()
	if a == nil {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := &a.periods[i]; p.key == key {
		return p.held - p.owed
	}
	return 0
}
