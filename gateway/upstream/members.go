package upstream

import "time"

// health is what probes say of an endpoint.
type health uint8

const (
	unknown health = iota // not probed yet, or never: treated as healthy
	up
	down
)

// state is an endpoint's slow side. The hot path sees only pickers made of it.
type state struct {
	weight, priority int
	zone             string

	health       health
	passes       int // probes passed in a row
	fails        int // probes failed in a row
	probed       time.Time
	probeError   string
	checksPassed uint64
	checksFailed uint64
	ejectedUntil time.Time // zero: not ejected
	ejections    int       // how often in a row; multiplies the time
	warmFrom     time.Time // zero: full share
	stopProbe    func()
	gone         bool // no longer one of the upstream's endpoints
}

// usable says whether the endpoint may be picked outside of panic.
func (s *state) usable() bool { return s.health != down && s.ejectedUntil.IsZero() }

// share is the endpoint's weight, reduced while it is warming up: linearly, from
// 10 % on (Envoy's min_weight_percent), so that it gets any traffic at all.
func (s *state) share(now time.Time, window time.Duration) float64 {
	w := float64(s.weight)
	if s.warmFrom.IsZero() || window <= 0 {
		return w
	}
	return w * min(1, max(0.1, float64(now.Sub(s.warmFrom))/float64(window)))
}

// setEndpoints makes list the endpoints of u: known addresses keep everything,
// those of from (may be nil, or u itself) are taken over. from.mu is held, and
// u.mu unless nobody knows u yet; rebuild must follow.
func (u *Upstream) setEndpoints(list []EndpointSettings, from *Upstream, now time.Time) []Event {
	known := map[string]*Endpoint{}
	if from != nil {
		for _, e := range from.endpoints {
			known[e.Address] = e
		}
	}
	var events []Event
	next := make([]*Endpoint, 0, len(list))
	for _, s := range list {
		old := known[s.Address]
		delete(known, s.Address)
		switch {
		case old == nil:
			e := u.newEndpoint(s, nil)
			if !u.first {
				e.warmFrom = u.warmSince(now)
				events = append(events, u.event(EndpointAdded, s.Address, "", now))
			}
			u.startProbe(e)
			next = append(next, e)
		case from == u:
			old.weight, old.zone, old.priority = s.Weight, s.Zone, s.Priority
			next = append(next, old)
		default:
			e := u.newEndpoint(s, old)
			if e.usable() && !old.usable() {
				events = append(events, u.event(EndpointUp, s.Address, "no longer checked", now))
			}
			next = append(next, e)
		}
	}
	for _, e := range known {
		events = append(events, u.event(EndpointRemoved, e.Address, "", now))
		if from != u {
			continue // still in use by the other revision
		}
		e.gone = true
		if e.stopProbe != nil {
			e.stopProbe()
		}
		e.host.release()
	}
	u.endpoints = next
	u.first = u.first && len(next) == 0
	return events
}

// newEndpoint makes u's view of an address, with what old knows of it.
func (u *Upstream) newEndpoint(s EndpointSettings, old *Endpoint) *Endpoint {
	e := &Endpoint{Address: s.Address, id: endpointID(u.settings.Name, s.Address), up: u}
	if old != nil {
		e.errorsInRow.Store(old.errorsInRow.Load())
		e.lastFailure.Store(old.lastFailure.Load())
		e.failedAt.Store(old.failedAt.Load())
		e.ended.Store(old.ended.Load())
		e.state = old.state
		e.stopProbe = nil
		if u.settings.HealthCheck == nil {
			e.health, e.passes, e.fails, e.probeError = unknown, 0, 0, ""
		}
		if !u.settings.Outlier.Enabled {
			e.ejectedUntil, e.ejections = time.Time{}, 0
		}
		if !e.warmFrom.IsZero() && u.warmSince(e.warmFrom).IsZero() {
			e.warmFrom = time.Time{}
		}
	}
	e.weight, e.zone, e.priority = s.Weight, s.Zone, s.Priority
	if old != nil && old.host.poolKey == u.settings.PoolKey && old.host.hold() {
		e.host = old.host
	} else {
		e.host = &host{poolKey: u.settings.PoolKey}
		if old != nil {
			e.host.ewma.bits.Store(old.host.ewma.bits.Load())
		}
		if u.settings.NewPool != nil {
			e.host.pool = u.settings.NewPool(s.Address, u.breaker)
		}
		e.host.refs.Store(1)
	}
	e.Pool = e.host.pool
	return e
}

// warmSince begins slow start, if there is any.
func (u *Upstream) warmSince(now time.Time) time.Time {
	if u.settings.SlowStart <= 0 || u.settings.Algorithm == RingHash || u.settings.Algorithm == Maglev {
		return time.Time{}
	}
	select {
	case u.warm <- struct{}{}:
	default: // the keeper already knows
	}
	return now
}

// rebuild publishes a picker for the endpoints as they are now. u.mu is held;
// the caller emits the events after unlocking.
func (u *Upstream) rebuild(now time.Time) []Event {
	next := newPicker(u, now)
	last := u.picker.Swap(next)
	switch {
	case next.panics && !last.panics:
		return []Event{u.event(PanicBegan, "", "too few usable endpoints", now)}
	case !next.panics && last.panics:
		return []Event{u.event(PanicEnded, "", "", now)}
	}
	return nil
}
