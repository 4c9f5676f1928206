package upstream

import (
	"fmt"
	"time"
)

// Status is a snapshot for operators.
type Status struct {
	Name      string    `json:"name"`
	Algorithm Algorithm `json:"algorithm"`
	// Panic says that endpoints are used regardless of health.
	Panic     bool             `json:"panic"`
	Requests  int64            `json:"requests"`
	Conns     int64            `json:"connections"`
	Pending   int64            `json:"pending"`
	Retries   int64            `json:"retries"`
	Refused   Refusals         `json:"-"`
	Source    *SourceStatus    `json:"source,omitempty"`
	Endpoints []EndpointStatus `json:"endpoints"`
}

// SourceStatus is how far the endpoint list can be trusted.
type SourceStatus struct {
	// Kind is the config's word ("dns"), Target what is looked for.
	Kind   string `json:"kind"`
	Target string `json:"target"`
	// Answered is when the list was last confirmed; zero: never.
	Answered time.Time `json:"answered,omitzero"`
	// Age is for how long it has not been, in nanoseconds.
	Age time.Duration `json:"age"`
	// FromDisk says that the list is from before this process.
	FromDisk bool `json:"from_disk,omitempty"`
	// Error is why the last attempt failed; empty: it worked.
	Error string `json:"error,omitempty"`
	// Note is what of the last answer could not be used.
	Note string `json:"note,omitempty"`
	// Failures count attempts, over reloads too.
	Failures uint64 `json:"failures"`
	// Endpoints in the list.
	Endpoints int `json:"endpoints"`
}

// EndpointStatus is one endpoint's.
type EndpointStatus struct {
	Address  string `json:"address"`
	ID       string `json:"id"`
	Weight   int    `json:"weight"`
	Zone     string `json:"zone,omitempty"`
	Priority int    `json:"priority"`
	// Usable says that it may be picked outside of panic: neither unhealthy nor ejected.
	Usable bool `json:"usable"`
	// Health is "unknown" (not probed), "healthy" or "unhealthy".
	Health string `json:"health"`
	// Probed is when; ProbeError why the last probe failed.
	Probed     time.Time `json:"probed,omitzero"`
	ProbeError string    `json:"probe_error,omitempty"`
	// EjectedUntil is zero if it is not ejected; Ejections counts towards the next one's length.
	EjectedUntil time.Time `json:"ejected_until,omitzero"`
	Ejections    int       `json:"ejections"`
	// SlowStart is the share of its weight it gets, 1 outside of slow start.
	SlowStart float64 `json:"slow_start"`
	// ChecksPassed and ChecksFailed count probes.
	ChecksPassed uint64 `json:"checks_passed"`
	ChecksFailed uint64 `json:"checks_failed"`
	// Conns is how many connections are open, idle ones included; Connects and
	// ConnectFailures count since the pool was made.
	Conns           int    `json:"connections"`
	Connects        uint64 `json:"connects"`
	ConnectFailures uint64 `json:"connect_failures"`
	// Active is how many requests are there now, Done how many have ended.
	Active int64  `json:"active"`
	Done   uint64 `json:"done"`
	// Latency is the peak-sensitive average; 0 unless the algorithm is peak_ewma.
	Latency time.Duration `json:"latency"`
	// LastError and LastErrorAt are of the last request that counted against it.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

func (h health) String() string {
	switch h {
	case up:
		return "healthy"
	case down:
		return "unhealthy"
	default:
		return "unknown"
	}
}

// lastError describes the last bad result; empty: there was none.
func (e *Endpoint) lastError() string {
	v := e.lastFailure.Load()
	switch failure, status := Failure(v>>16), v&0xffff; {
	case v == 0:
		return ""
	case failure != NoFailure:
		return failure.String()
	default:
		return fmt.Sprintf("status %d", status)
	}
}

// Status is a consistent snapshot of the slow state and a momentary look at the
// counters.
func (u *Upstream) Status() Status {
	now := time.Now()
	tick := uint32(now.Sub(u.epoch) >> tickShift)
	u.mu.Lock()
	defer u.mu.Unlock()
	s := Status{
		Name:      u.settings.Name,
		Algorithm: u.settings.Algorithm,
		Panic:     u.picker.Load().panics,
		Requests:  u.breaker.Requests(),
		Conns:     u.breaker.Connections(),
		Pending:   u.breaker.Pending(),
		Retries:   u.breaker.Retries(),
		Refused:   u.breaker.Refused(),
		Endpoints: make([]EndpointStatus, 0, len(u.endpoints)),
	}
	s.Source = u.sourceStatus(now)
	for _, e := range u.endpoints {
		es := EndpointStatus{
			Address: e.Address, ID: e.id, Weight: e.weight, Zone: e.zone, Priority: e.priority,
			Usable: e.usable(), Health: e.health.String(), Probed: e.probed, ProbeError: e.probeError,
			EjectedUntil: e.ejectedUntil, Ejections: e.ejections,
			SlowStart: e.share(now, u.settings.SlowStart) / float64(e.weight),
			Active:    e.Active(), Done: e.ended.Load(),
			Latency:   time.Duration(e.host.ewma.at(tick)),
			LastError: e.lastError(), ChecksPassed: e.checksPassed, ChecksFailed: e.checksFailed,
		}
		if p, ok := e.Pool.(CountingPool); ok {
			es.Conns, es.Connects, es.ConnectFailures = p.Counts()
		}
		if at := e.failedAt.Load(); at != 0 {
			es.LastErrorAt = time.Unix(0, at)
		}
		s.Endpoints = append(s.Endpoints, es)
	}
	return s
}

// sourceStatus is nil without a source. u.mu is held.
func (u *Upstream) sourceStatus(now time.Time) *SourceStatus {
	if u.settings.Source == nil {
		return nil
	}
	s := &SourceStatus{
		Answered: u.source.answered, FromDisk: u.source.kept, Error: u.source.failed, Note: u.source.note,
		Failures: u.source.failures, Endpoints: len(u.source.list),
	}
	s.Kind, s.Target = u.settings.Source.Name()
	if !s.Answered.IsZero() {
		s.Age = max(0, now.Sub(s.Answered))
	}
	return s
}
