package secrets

import (
	"slices"
	"strings"
	"time"
)

// Status is what one node knows of what the nodes share.
type Status struct {
	// Up says that the store answers, Since when it is so.
	Up    bool      `json:"up"`
	Since time.Time `json:"since,omitzero"`
	// Error is why nothing is shared: the store is away, or has another secret.
	Error string `json:"error,omitempty"`
	// Orders are the certificates that are being ordered, and by whom.
	Orders []LockStatus `json:"orders,omitempty"`
	// Tickets are the secrets behind session tickets, by how often they change.
	Tickets []TicketStatus `json:"tickets,omitempty"`
}

// LockStatus is a lock that somebody holds.
type LockStatus struct {
	Name string `json:"name"`
	Node string `json:"node"`
}

// TicketStatus is the state of one set of secrets.
type TicketStatus struct {
	// Rotate is how often they change.
	Rotate string `json:"rotate"`
	// Shared says that they are those of the fleet; else this node has its own,
	// and Error says why.
	Shared bool   `json:"shared"`
	Error  string `json:"error,omitempty"`
	// Generation counts the changes; 0 while not shared. Made is when the current
	// one was, by the clock of the node that made it.
	Generation uint64    `json:"generation,omitempty"`
	Made       time.Time `json:"made,omitzero"`
}

// Status is a copy of the current status.
func (s *Shared) Status() Status {
	s.mu.Lock()
	out := Status{Up: s.health.up, Since: s.health.since, Orders: slices.Clone(s.locks)}
	switch {
	case s.trust.other:
		out.Error = ErrOtherSecret.Error()
	case s.health.err != nil:
		out.Error = s.health.err.Error()
	}
	list := make([]*Tickets, 0, len(s.tickets))
	for t := range s.tickets {
		list = append(list, t)
	}
	s.mu.Unlock()
	for _, t := range list {
		out.Tickets = append(out.Tickets, t.status())
	}
	slices.SortFunc(out.Tickets, func(a, b TicketStatus) int { return strings.Compare(a.Rotate, b.Rotate) })
	out.Tickets = slices.CompactFunc(out.Tickets, func(a, b TicketStatus) bool { return a.Rotate == b.Rotate })
	return out
}
