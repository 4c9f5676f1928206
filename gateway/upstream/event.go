package upstream

import "time"

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
	ResolveFailed   EventKind = "resolve_failed" // DNS; the last list stays in use
	ResolveWorks    EventKind = "resolve_works"
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
