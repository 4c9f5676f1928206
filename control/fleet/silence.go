package fleet

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/nodes"
)

const (
	// hushed is what tells a node that has gone without a word, and is listed for
	// nodes.TTL after it, from one that has said goodbye and is gone at once.
	// Nodes tell, and are listened to, every five seconds.
	hushed = 12 * time.Second
	// missed is how long a node that fell silent is an alert. After that it is
	// taken for one that was shut down for good.
	missed = time.Hour
)

// silence remembers the nodes that are not there any more and have not said that
// they stop: the store forgets them, and a fleet that has lost a node must not
// look well. Each node knows of those only that it has seen itself.
type silence struct {
	mu    sync.Mutex // guards all
	heard map[string]heard
	last  time.Time // when there was a list
	blind time.Time // when there was one again after a while without
}

type heard struct {
	told time.Time // its latest word, by its own clock
	at   time.Time // when that came, by ours
	gone bool
}

// listen is called with the live nodes every few seconds, unless the store is away.
func (s *silence) listen(list []nodes.Member, self string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard == nil {
		s.heard = map[string]heard{}
	}
	if !s.last.IsZero() && now.Sub(s.last) >= hushed {
		s.blind = now // nobody could be heard: all get their time again
		for name, h := range s.heard {
			if !h.gone {
				h.at = now
				s.heard[name] = h
			}
		}
	}
	s.last = now
	here := map[string]bool{}
	for i := range list {
		m := &list[i]
		if m.Instance == "" || m.Node == self {
			continue
		}
		here[m.Node] = true
		if h, known := s.heard[m.Node]; !known || h.gone || !h.told.Equal(m.Time) {
			s.heard[m.Node] = heard{told: m.Time, at: now}
		}
	}
	for name, h := range s.heard {
		quiet := now.Sub(h.at)
		switch {
		case here[name]:
		case h.gone && quiet >= missed:
			delete(s.heard, name)
		case quiet >= hushed:
			h.gone = true
			s.heard[name] = h
		case now.Sub(s.blind) >= nodes.TTL:
			delete(s.heard, name) // it has said goodbye
		}
	}
}

// alerts tells of those that fell silent, by name, but for who is in the list.
func (s *silence) alerts(list []nodes.Member, now time.Time) []Alert {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Alert
	for _, name := range slices.Sorted(maps.Keys(s.heard)) {
		h := s.heard[name]
		back := slices.ContainsFunc(list, func(m nodes.Member) bool { return m.Node == name })
		if h.gone && !back && now.Sub(h.at) < missed {
			out = append(out, Alert{name, "silent", h.at, "fell silent and has not said that it stops"})
		}
	}
	return out
}
