package upstream

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// startProbe begins to check e, if u checks at all and runs. u.mu is held.
func (u *Upstream) startProbe(e *Endpoint) {
	if u.probe == nil || u.running == nil {
		return
	}
	ctx, cancel := context.WithCancel(u.running)
	e.stopProbe = cancel
	var delay time.Duration
	if e.health != unknown { // taken over: no hurry, and no storm of probes after each reload
		delay = time.Duration(float64(u.settings.HealthCheck.Interval) * u.fraction())
	}
	u.wg.Go(func() {
		defer cancel()
		u.keepProbing(ctx, e, delay)
	})
}

func (u *Upstream) keepProbing(ctx context.Context, e *Endpoint, delay time.Duration) {
	h := u.settings.HealthCheck
	address := h.address(e.Address)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		try, cancel := context.WithTimeout(ctx, h.Timeout)
		err := u.probe.probe(try, address)
		cancel()
		if reason.OwnFault(err) { // it says nothing of the endpoint
			u.settings.Log.Warn("an endpoint could not be probed", "endpoint", e.Address, "error", err)
		} else {
			u.probed(ctx, e, err)
		}
		timer.Reset(h.Interval + time.Duration(float64(h.Interval)*float64(h.Jitter)/100*u.fraction()))
	}
}

// address is what is probed of an endpoint.
func (h *HealthSettings) address(endpoint string) string {
	host, _, err := net.SplitHostPort(endpoint)
	if h.Port == 0 || err != nil {
		return endpoint
	}
	return net.JoinHostPort(host, strconv.Itoa(h.Port))
}

// probed takes the result of a probe into account. Until its first result an
// endpoint counts as healthy, so that a start or a new endpoint never leaves
// requests without any; the first result then decides alone, the later ones by
// thresholds. (Envoy begins the other way round, with nobody healthy.)
func (u *Upstream) probed(ctx context.Context, e *Endpoint, err error) {
	h := u.settings.HealthCheck
	now := time.Now()
	u.mu.Lock()
	if ctx.Err() != nil { // ended meanwhile: the error may be ours
		u.mu.Unlock()
		return
	}
	was := e.health
	e.probed = now
	var events []Event
	if err == nil {
		e.checksPassed++
		e.passes, e.fails, e.probeError = e.passes+1, 0, ""
		if was == unknown || was == down && e.passes >= h.Healthy {
			e.health = up
		}
		if was == down && e.health == up {
			// Probes saw it go and come back: whatever it was ejected for is over.
			e.ejectedUntil = time.Time{}
			u.comeBack(e, now)
			events = append(events, u.event(EndpointUp, e.Address, "", now))
		}
	} else {
		e.checksFailed++
		e.passes, e.fails, e.probeError = 0, e.fails+1, err.Error()
		if was == unknown || was == up && e.fails >= h.Unhealthy {
			e.health = down
			events = append(events, u.event(EndpointDown, e.Address, e.probeError, now))
		}
	}
	if len(events) > 0 {
		events = append(events, u.rebuild(now)...)
	}
	u.mu.Unlock()
	u.emit(events)
}
