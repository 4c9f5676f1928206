package upstream

import (
	"context"
	"fmt"
	"time"
)

// ejectionJitter is the random share added to the time of an ejection, so that
// nodes do not send their first requests back all at the same moment.
const ejectionJitter = 0.1

// eject takes e out after n errors in a row, unless too many are out already.
// As in Envoy's outlier detection: base time × number of ejections, capped; one
// endpoint may always be out, whatever MaxEjectedPercent says.
func (u *Upstream) eject(e *Endpoint, n int) {
	o := &u.settings.Outlier
	now := time.Now()
	u.mu.Lock()
	if u.running == nil || e.gone || !e.ejectedUntil.IsZero() {
		u.mu.Unlock()
		return
	}
	out := 0
	for _, other := range u.endpoints {
		if !other.ejectedUntil.IsZero() {
			out++
		}
	}
	if out > 0 && 100*(out+1) > o.MaxEjectedPercent*len(u.endpoints) {
		u.mu.Unlock()
		return
	}
	e.ejections++
	limit := max(o.BaseEjection, o.MaxEjection)
	length := limit
	if n := time.Duration(e.ejections); n < limit/o.BaseEjection {
		length = n * o.BaseEjection
	}
	length += time.Duration(float64(length) * ejectionJitter * u.fraction())
	e.ejectedUntil = now.Add(length)
	ev := u.event(EndpointEjected, e.Address, fmt.Sprintf("%d errors in a row, the last: %s", n, e.lastError()), now)
	ev.Until = e.ejectedUntil
	events := append([]Event{ev}, u.rebuild(now)...)
	u.mu.Unlock()
	u.emit(events)
}

// fraction is random in [0, 1).
func (u *Upstream) fraction() float64 { return float64(u.random()>>11) / (1 << 53) }

// comeBack forgets what was bad about e: its latency from then would keep
// peak_ewma away, and requests that failed meanwhile say nothing new.
func (u *Upstream) comeBack(e *Endpoint, now time.Time) {
	e.errorsInRow.Store(0)
	e.host.ewma.bits.Store(0)
	e.warmFrom = u.warmSince(now)
}

// sweep brings back endpoints whose ejection is over, and forgives earlier
// ejections one by one. A probe that passes does not end an ejection, since it
// rarely goes the way that failed (Envoy's successful_active_health_check_uneject_host
// is off here), unless probes had taken the endpoint out as well.
func (u *Upstream) sweep(now time.Time) {
	var events []Event
	u.mu.Lock()
	for _, e := range u.endpoints {
		switch {
		case e.ejectedUntil.IsZero():
			e.ejections = max(0, e.ejections-1)
		case !now.Before(e.ejectedUntil):
			e.ejectedUntil = time.Time{}
			u.comeBack(e, now)
			events = append(events, u.event(EndpointBack, e.Address, "", now))
		}
	}
	if len(events) > 0 {
		events = append(events, u.rebuild(now)...)
	}
	u.mu.Unlock()
	u.emit(events)
}

// keep does what only time brings about: ends of ejections, slow start.
func (u *Upstream) keep(ctx context.Context) {
	var sweep, grow <-chan time.Time
	if u.settings.Outlier.Enabled {
		t := time.NewTicker(u.settings.Outlier.Interval)
		defer t.Stop()
		sweep = t.C
	}
	var warming *time.Ticker
	for {
		select {
		case <-ctx.Done():
			if warming != nil {
				warming.Stop()
			}
			return
		case <-sweep:
			u.sweep(time.Now())
		case <-u.warm:
			if warming == nil {
				warming = time.NewTicker(max(u.settings.SlowStart/50, 20*time.Millisecond))
				grow = warming.C
			}
		case <-grow:
			if !u.grow(time.Now()) {
				warming.Stop()
				warming, grow = nil, nil
			}
		}
	}
}

// grow raises the shares of endpoints in slow start. It returns false when there
// are none left.
func (u *Upstream) grow(now time.Time) bool {
	u.mu.Lock()
	more := false
	for _, e := range u.endpoints {
		if e.warmFrom.IsZero() {
			continue
		}
		if now.Sub(e.warmFrom) >= u.settings.SlowStart {
			e.warmFrom = time.Time{}
		} else {
			more = true
		}
	}
	events := u.rebuild(now)
	u.mu.Unlock()
	u.emit(events)
	return more
}
