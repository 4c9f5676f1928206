package upstream

import (
	"context"
	"log/slog"
	"time"
)

// EventKind says what changed.
type EventKind string

// The kinds. Address is empty for those that concern the whole upstream.
const (
	EndpointAdded   EventKind = "endpoint_added"
	EndpointRemoved EventKind = "endpoint_removed"
	EndpointUp      EventKind = "endpoint_healthy"   // a health check brought it back
	EndpointDown    EventKind = "endpoint_unhealthy" // a health check took it out
	EndpointEjected EventKind = "endpoint_ejected"   // failing requests took it out
	EndpointBack    EventKind = "endpoint_uneject"   // its ejection is over
	PanicBegan      EventKind = "panic_began"        // too few usable: all endpoints of a priority are used
	PanicEnded      EventKind = "panic_ended"
	SourceFailed    EventKind = "discovery_failed" // the source of endpoints; the last list stays in use
	SourceWorks     EventKind = "discovery_works"
)

// Event is one change in an upstream.
type Event struct {
	Upstream string
	Kind     EventKind
	// Address is the endpoint's, empty for events of the whole upstream.
	Address string
	Time    time.Time
	// Detail says why: an error text, "5 errors in a row".
	Detail string
	// Until is when an ejection ends at the earliest.
	Until time.Time
}

// Outcome is how a Pick ended.
type Outcome uint8

// The outcomes of Pick.
const (
	Picked       Outcome = iota // an endpoint was chosen
	PickedSticky                // the preferred endpoint was
	PickedPanic                 // an endpoint was chosen regardless of health
	NoneUsable                  // reason.NoEndpoint
	Overflow                    // reason.UpstreamOverflow: too many requests at once
	NumOutcomes                 // how many outcomes there are
)

// String is the outcome as a metric label.
func (o Outcome) String() string {
	switch o {
	case Picked:
		return "picked"
	case PickedSticky:
		return "sticky"
	case PickedPanic:
		return "panic"
	case NoneUsable:
		return "no_endpoint"
	case Overflow:
		return "overflow"
	default:
		return "unknown"
	}
}

// Observer counts what an upstream does. Calls are concurrent and must be
// quick: Pick is on the hot path and must not allocate.
type Observer interface {
	// Pick is called once for every Upstream.Pick.
	Pick(Outcome)
	// Change is called for every Event, outside any lock.
	Change(Event)
}

// maxLogged is how many endpoints that come and go at once are logged one by one.
const maxLogged = 20

// emit tells of changes. u.mu must not be held.
func (u *Upstream) emit(events []Event) {
	var added, removed int
	for i := range events {
		switch events[i].Kind {
		case EndpointAdded:
			added++
		case EndpointRemoved:
			removed++
		}
	}
	many := added+removed > maxLogged
	if many {
		u.settings.Log.Info("endpoints_changed", "added", added, "removed", removed)
	}
	for _, e := range events {
		if !many || e.Kind != EndpointAdded && e.Kind != EndpointRemoved {
			u.log(&e)
		}
		if u.settings.Observer != nil {
			u.settings.Observer.Change(e)
		}
		if u.settings.Events != nil {
			u.settings.Events(e)
		}
	}
}

// log writes what takes endpoints away as a warning.
func (u *Upstream) log(e *Event) {
	level := slog.LevelInfo
	switch e.Kind {
	case EndpointDown, EndpointEjected, PanicBegan, SourceFailed:
		level = slog.LevelWarn
	}
	attrs := make([]any, 0, 4)
	if e.Address != "" {
		attrs = append(attrs, "endpoint", e.Address)
	}
	if e.Detail != "" {
		attrs = append(attrs, "detail", e.Detail)
	}
	u.settings.Log.Log(context.Background(), level, string(e.Kind), attrs...)
}
