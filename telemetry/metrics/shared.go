package metrics

import "time"

// Shared is what is to be known of the secrets that nodes share.
type Shared struct {
	// Up says that they are shared at present.
	Up      bool
	Tickets []SharedTickets
}

// SharedTickets is one set of secrets behind session tickets.
type SharedTickets struct {
	// Rotate is how often they change.
	Rotate string
	// Shared says that they are the fleet's; Made is when the current one was.
	Shared bool
	Made   time.Time
}

// Shared makes them visible.
func (m *Metrics) Shared(status func() Shared) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shared = status
}

func (s *Shared) collect(e *emit) {
	e.gauge(sharedUp, flag(s.Up))
	for _, t := range s.Tickets {
		e.gauge(ticketsShared, flag(t.Shared), t.Rotate)
		e.gauge(ticketsMade, seconds(t.Made), t.Rotate)
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
