package upstream

import (
	"context"
	"net"
	"slices"
	"time"
)

const (
	// resolveTimeout bounds one resolution, and with it how long Start waits.
	resolveTimeout = 5 * time.Second
	// maxTTL bounds how long a record's TTL can delay the next look.
	maxTTL = time.Hour
)

// dnsState is what is known of an upstream's name.
type dnsState struct {
	answered time.Time // the last good answer; zero: none yet
	failed   string    // why the last attempt failed; empty: it did not
	failures int       // in a row
}

// keepResolving closes first after the first attempt.
func (u *Upstream) keepResolving(ctx context.Context, first chan struct{}) {
	for {
		wait := u.refresh(ctx)
		if first != nil {
			close(first)
			first = nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// refresh resolves once and returns when to do so again: after the refresh time
// or the records' TTL, whichever is longer, sooner after a failure. A failure
// or an empty answer leaves the endpoints as they are: an old list that may
// still work is better than none.
func (u *Upstream) refresh(ctx context.Context) time.Duration {
	d := u.settings.DNS
	name, port, _ := net.SplitHostPort(d.Name) // New has checked it
	lookup, cancel := context.WithTimeout(ctx, resolveTimeout)
	addrs, ttl, err := u.resolve.lookup(lookup, name)
	cancel()

	now := time.Now()
	u.mu.Lock()
	if u.running == nil {
		u.mu.Unlock()
		return d.Refresh
	}
	var events []Event
	if err != nil {
		u.dns.failures++
		u.dns.failed = err.Error()
		wait := min(d.Refresh, time.Second<<min(u.dns.failures-1, 10))
		if u.dns.failures == 1 {
			events = append(events, u.event(ResolveFailed, "", d.Name+": "+u.dns.failed, now))
		}
		u.mu.Unlock()
		u.emit(events)
		return wait
	}
	if u.dns.failures > 0 {
		events = append(events, u.event(ResolveWorks, "", d.Name, now))
	}
	u.dns = dnsState{answered: now}
	list := make([]EndpointSettings, 0, len(addrs))
	for _, a := range addrs {
		list = append(list, EndpointSettings{Address: net.JoinHostPort(a.String(), port), Weight: 1})
	}
	if !slices.Equal(list, settingsOf(u.endpoints)) {
		events = append(events, u.setEndpoints(list, u, now)...)
		events = append(events, u.rebuild(now)...)
	}
	u.mu.Unlock()
	u.emit(events)
	return max(d.Refresh, min(ttl, maxTTL))
}
