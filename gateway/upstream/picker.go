package upstream

import (
	"math/bits"
	"slices"
	"time"
)

// policy chooses among the endpoints of one level. key is the request's hash, or
// random; attempt counts from 0 and is raised when the answer was one the
// request has tried already.
type policy interface {
	pick(key uint64, attempt int) *Endpoint
}

// candidate is an endpoint a policy may choose, with its share.
type candidate struct {
	ep     *Endpoint
	weight float64
}

// picker is everything Pick needs. It never changes.
type picker struct {
	levels []level
	sticky map[string]*Endpoint // usable endpoints of the levels in use, by ID
	hashes bool                 // the policies go by the key
	panics bool
}

// level is the endpoints of one priority (and zone) that get traffic.
type level struct {
	policy policy
	eps    []*Endpoint
	// upTo is the end of the level's share of traffic: the cumulative
	// percentage, scaled to 2^32.
	upTo   uint64
	panics bool
}

// choose returns nil if nothing is usable.
func (k *picker) choose(p *PickRequest, random func() uint64) (*Endpoint, Outcome) {
	if len(k.levels) == 0 {
		return nil, NoneUsable
	}
	if p.Prefer != "" {
		if e := k.sticky[p.Prefer]; e != nil && !slices.Contains(p.Exclude, e) {
			return e, PickedSticky
		}
	}
	key := p.Hash
	switch {
	case p.HasHash:
		key = mix(key) // nobody promised that it is well spread
	case k.hashes || len(k.levels) > 1:
		key = random()
	}
	at := 0
	if len(k.levels) > 1 {
		// A hash must always lead to the same level, but not so that the level
		// decides the place on its ring: hence other bits.
		for x := mix(key) >> 32; x >= k.levels[at].upTo; {
			at++
		}
	}
	lv := &k.levels[at]
	e := lv.policy.pick(key, 0)
	if len(p.Exclude) != 0 && slices.Contains(p.Exclude, e) {
		e, lv = k.other(p, key, at, e)
	}
	if lv.panics {
		return e, PickedPanic
	}
	return e, Picked
}

// tries is how often a policy is asked again before all endpoints are looked at.
const tries = 4

// other finds an endpoint that was not tried yet: by the policy, then any of the
// level, then any at all, else fallback again.
func (k *picker) other(p *PickRequest, key uint64, at int, fallback *Endpoint) (*Endpoint, *level) {
	lv := &k.levels[at]
	for attempt := 1; attempt <= tries; attempt++ {
		if e := lv.policy.pick(key, attempt); !slices.Contains(p.Exclude, e) {
			return e, lv
		}
	}
	for i := range k.levels {
		l := &k.levels[(at+i)%len(k.levels)]
		from, _ := bits.Mul64(mix(key+uint64(len(p.Exclude))), uint64(len(l.eps)))
		for j := range l.eps {
			if e := l.eps[(int(from)+j)%len(l.eps)]; !slices.Contains(p.Exclude, e) {
				return e, l
			}
		}
	}
	return fallback, lv
}

// group is the endpoints of one priority and zone, whether usable or not.
type group struct {
	order  int
	all    []*Endpoint
	usable []*Endpoint
	load   int // percent of the traffic
	panics bool
}

func newPicker(u *Upstream, now time.Time) *picker {
	groups := groupsOf(u.endpoints, u.settings.LocalZone)
	shareOut(groups, u.settings.PanicThreshold)
	k := &picker{
		sticky: map[string]*Endpoint{},
		hashes: u.settings.Algorithm == RingHash || u.settings.Algorithm == Maglev,
	}
	sum := 0
	for _, g := range groups {
		eps := g.usable
		if g.panics {
			eps = g.all
			k.panics = true
		}
		if g.load == 0 || len(eps) == 0 {
			continue
		}
		sum += g.load
		for _, e := range g.usable {
			k.sticky[e.id] = e
		}
		k.levels = append(k.levels, level{
			policy: newPolicy(u, eps, now),
			eps:    eps,
			upTo:   uint64(sum) << 32 / 100,
			panics: g.panics,
		})
	}
	return k
}

// groupsOf sorts endpoints into levels. Where a priority has endpoints in the
// local zone, they come before the others of that priority: traffic stays in the
// zone while 72 % of it is healthy and spills over by Envoy's priority rule
// beyond (as Istio's locality failover maps localities to priorities).
func groupsOf(endpoints []*Endpoint, localZone string) []*group {
	byOrder := map[int]*group{}
	var groups []*group
	for _, e := range endpoints {
		order := 2 * e.priority
		if localZone != "" && e.zone != localZone {
			order++
		}
		g := byOrder[order]
		if g == nil {
			g = &group{order: order}
			byOrder[order] = g
			groups = append(groups, g)
		}
		g.all = append(g.all, e)
		if e.usable() {
			g.usable = append(g.usable, e)
		}
	}
	slices.SortFunc(groups, func(a, b *group) int { return a.order - b.order })
	return groups
}

// shareOut gives each level its percentage of traffic and decides on panic, as
// Envoy does ("Priority levels" and "Panic threshold" in its load balancing
// manual; LoadBalancerBase::recalculatePerPriorityState): a level's health is
// its usable share times 1.4, at most 100; better levels take what they can,
// in order. If all levels together do not reach 100, levels below the panic
// threshold use all their endpoints; if all levels are below it, traffic is
// spread by their size.
func shareOut(groups []*group, panicThreshold int) {
	const overprovisioning = 140
	total, hosts := 0, 0
	healthOf := func(g *group) int { return min(100, overprovisioning*len(g.usable)/len(g.all)) }
	for _, g := range groups {
		total += healthOf(g)
		hosts += len(g.all)
	}
	total = min(100, total)
	if hosts == 0 {
		return
	}
	everywhere := true
	for _, g := range groups {
		g.panics = total < 100 && 100*len(g.usable)/len(g.all) < panicThreshold
		everywhere = everywhere && g.panics
	}
	left := 100
	for _, g := range groups {
		switch {
		case everywhere:
			g.load = 100 * len(g.all) / hosts
		case total > 0:
			g.load = min(left, healthOf(g)*100/total)
		}
		left -= g.load
	}
	for _, g := range groups { // what rounding left over, to the first in use
		if g.load > 0 {
			g.load += left
			return
		}
	}
}

func newPolicy(u *Upstream, eps []*Endpoint, now time.Time) policy {
	if len(eps) == 1 {
		return single{eps[0]}
	}
	cs := make([]candidate, len(eps))
	for i, e := range eps {
		cs[i] = candidate{ep: e, weight: e.share(now, u.settings.SlowStart)}
	}
	switch u.settings.Algorithm {
	case RoundRobin:
		return newRoundRobin(cs, u.turn)
	case Random:
		return newRandom(cs, u.random)
	case PeakEWMA:
		return &peakEWMA{pair: newPair(cs, u.random), now: &u.lastTick}
	case RingHash:
		return newRing(cs, pointsPerWeight(u.endpoints))
	case Maglev:
		return newMaglev(cs)
	default:
		return &leastRequest{newPair(cs, u.random)}
	}
}

// single is the policy where there is nothing to choose.
type single struct{ ep *Endpoint }

func (s single) pick(uint64, int) *Endpoint { return s.ep }
