package l4

import (
	"strings"
	"time"
)

// Table says what a listener does with connections. It never changes.
type Table struct {
	// Names are routes by the name in a TLS ClientHello, with those for *.REST
	// under ".REST". Names are in lower case.
	Names map[string]*Route
	// Default is for connections without a name, or with one that is not there;
	// nil: they are refused, or somebody else's.
	Default *Route
	// Idle is how long nothing may come either way; 0: for ever.
	Idle time.Duration
	// HelloTimeout is how long a ClientHello may take.
	HelloTimeout time.Duration
}

// Find returns the route for exactly that name, else for the longest *.REST
// that covers it, whatever number of labels the star stands for; nil if there
// is none. It does not allocate for a name in lower case.
func (t *Table) Find(name string) *Route {
	name = strings.ToLower(name)
	if name == "" || name[0] == '.' { // else it would find what stands for others
		return nil
	}
	if r := t.Names[name]; r != nil {
		return r
	}
	for i := 1; i < len(name); i++ { // what the star stands for is not empty
		if name[i] == '.' {
			if r := t.Names[name[i:]]; r != nil {
				return r
			}
		}
	}
	return nil
}
