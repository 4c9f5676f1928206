package upstream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// startWait is how long Start waits for a source's first word.
const startWait = 5 * time.Second

// Source finds an upstream's endpoints, again and again: a DNS name, a
// registry, a file. Making one opens nothing and asks nobody.
type Source interface {
	// Name tells the kind, by the config's word for it ("dns"), and what is
	// looked for ("users.internal:8080"). What one source found is good enough for
	// another one of the same name to begin with.
	Name() (kind, target string)
	// Run calls report for every answer and every failure until ctx ends, one
	// call at a time, and then returns. It tries again by itself, later and later
	// while it fails, and reports something within seconds of its start.
	Run(ctx context.Context, report func(Report))
}

// Report is a source's word on the endpoints.
type Report struct {
	// Endpoints are all there are, in any order; a weight of 0 means 1. What
	// cannot be is left out, weights are scaled to 1000, repeats are one. Nobody
	// may change it afterwards: the same slice again says that the list is still
	// right, which costs next to nothing.
	Endpoints []EndpointSettings
	// Note says what of the answer could not be used; empty: all of it could.
	Note string
	// Err is why there is no answer. Endpoints may then be what was known at AsOf,
	// before this process: they are used if nothing better is known.
	Err  error
	AsOf time.Time
}

// sourceState is what is known of an upstream's source.
type sourceState struct {
	answered time.Time          // the last good answer; zero: none yet
	kept     bool               // the list is from before this process
	list     []EndpointSettings // the list in use
	failed   string             // why the last attempt failed; empty: it did not
	note     string
	inRow    int // failures
	failures uint64
}

// errEmpty is what an answer without endpoints counts as.
var errEmpty = errors.New("the answer has no endpoints")

// startSource runs the source and returns what Start has to wait for, if
// anything. u.mu is held.
func (u *Upstream) startSource(ctx context.Context) (wait <-chan struct{}) {
	if u.settings.Source == nil {
		return nil
	}
	heard := make(chan struct{})
	first := true
	u.wg.Go(func() {
		u.settings.Source.Run(ctx, func(r Report) {
			u.report(&r)
			if first {
				first = false
				close(heard)
			}
		})
	})
	if len(u.endpoints) > 0 {
		return nil // the list of the upstream before will do until then
	}
	return heard
}

func sameName(a, b Source) bool {
	kindA, targetA := a.Name()
	kindB, targetB := b.Name()
	return kindA == kindB && targetA == targetB
}

// report takes a source's word. A failure or an empty answer leaves the
// endpoints as they are: an old list that may still work is better than none.
func (u *Upstream) report(r *Report) {
	if u.confirm(r) {
		return
	}
	list, note, err := tidy(r.Endpoints)
	if r.Note != "" {
		note = strings.TrimSuffix(r.Note+"; "+note, "; ")
	}
	if r.Err != nil {
		err = r.Err
	} else if err == nil && len(list) == 0 && !u.settings.AllowEmpty {
		err = errEmpty
		if note != "" {
			err = fmt.Errorf("%w that can be used: %s", errEmpty, note)
		}
	}
	now := time.Now()
	u.mu.Lock()
	if u.running == nil {
		u.mu.Unlock()
		return
	}
	var events []Event
	_, target := u.settings.Source.Name()
	s := &u.source
	u.latest = nil
	switch {
	case err == nil:
		u.latest = r.Endpoints
		if s.inRow > 0 {
			events = append(events, u.event(SourceWorks, "", target, now))
		}
		s.answered, s.kept, s.failed, s.inRow, s.note = now, false, "", 0, note
		events = append(events, u.follow(list, now)...)
	default:
		s.failures++
		s.inRow++
		s.failed = err.Error()
		if s.inRow == 1 {
			events = append(events, u.event(SourceFailed, "", target+": "+s.failed, now))
		}
		if r.Err != nil && len(list) > 0 && s.answered.IsZero() {
			s.answered, s.kept = r.AsOf, true
			events = append(events, u.follow(list, now)...)
		}
	}
	u.mu.Unlock()
	u.emit(events)
}

// confirm takes the short way for the answer that was the last one too.
func (u *Upstream) confirm(r *Report) bool {
	if n := len(r.Endpoints); r.Err != nil || n == 0 || n != len(u.latest) || &r.Endpoints[0] != &u.latest[0] {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.source.answered = time.Now()
	return true
}

// follow makes list the endpoints unless they are already. u.mu is held.
func (u *Upstream) follow(list []EndpointSettings, now time.Time) []Event {
	if slices.Equal(list, u.source.list) {
		return nil
	}
	u.source.list = list
	events := u.setEndpoints(list, u, now)
	return append(events, u.rebuild(now)...)
}

// tidy makes of what others say something that can be used, in a fixed order:
// no address that is none, none twice, weights from 1 to MaxWeight. note says
// what was left out.
func tidy(list []EndpointSettings) (tidied []EndpointSettings, note string, err error) {
	if len(list) > MaxEndpoints {
		return nil, "", fmt.Errorf("the answer has %d endpoints, at most %d can be used", len(list), MaxEndpoints)
	}
	heaviest, left := MaxWeight, 0
	tidied = make([]EndpointSettings, 0, len(list))
	for _, e := range list {
		if why := checkForeign(e.Address); why != nil {
			if left++; left == 1 {
				note = fmt.Sprintf("%.100q: %v", e.Address, why)
			}
			continue
		}
		e.Weight = max(e.Weight, 1)
		heaviest = max(heaviest, e.Weight)
		e.Priority = min(max(e.Priority, 0), MaxPriority)
		if !isLabel(e.Zone) {
			e.Zone = ""
		}
		tidied = append(tidied, e)
	}
	if left > 1 {
		note = fmt.Sprintf("%s, and %d more", note, left-1)
	}
	if heaviest > MaxWeight {
		for i := range tidied {
			w := float64(tidied[i].Weight) / float64(heaviest) * MaxWeight
			tidied[i].Weight = max(1, int(math.Round(w)))
		}
	}
	slices.SortFunc(tidied, compareEndpoints)
	return slices.CompactFunc(tidied, func(a, b EndpointSettings) bool { return a.Address == b.Address }), note, nil
}

// compareEndpoints puts what shall be kept of repeats first.
func compareEndpoints(a, b EndpointSettings) int {
	if c := strings.Compare(a.Address, b.Address); c != 0 {
		return c
	}
	if a.Priority != b.Priority {
		return a.Priority - b.Priority
	}
	if a.Weight != b.Weight {
		return b.Weight - a.Weight
	}
	return strings.Compare(a.Zone, b.Zone)
}

// checkForeign is checkAddress for what was not written by whoever runs us.
func checkForeign(address string) error {
	if len(address) > 300 {
		return errors.New("is too long")
	}
	if err := checkAddress(address); err != nil {
		return err
	}
	host := address[:strings.LastIndexByte(address, ':')]
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		if ip.IsUnspecified() || ip.IsMulticast() {
			return errors.New("is no address of a host")
		}
		if ip.IsLinkLocalUnicast() { // where clouds tell machines their credentials
			return errors.New("is a link-local address, which endpoints that are found cannot have")
		}
		return nil
	}
	for i := range len(host) {
		c := host[i]
		if c != '-' && c != '.' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return errors.New("the host is neither an address nor a name")
		}
	}
	return nil
}

// isLabel reports whether s can be a zone: short, and fit to be shown.
func isLabel(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return len(s) <= 100
}
