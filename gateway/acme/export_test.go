package acme

import (
	"net/http"
	"time"
)

// Hurry shortens the pauses of a source: first after a failure, and the least
// from one order to the next.
func (s *Source) Hurry(first, least time.Duration) {
	s.whileRefused, s.whileUnreachable = pauses{first, first}, pauses{first, first}
	s.shortest = least
}

// Through has a source speak to its authority by rt.
func (s *Source) Through(rt http.RoundTripper) { s.transport = rt }

// What the tests outside this package need of it.
var (
	AddHTTP = (*Challenges).addHTTP
	AddTLS  = (*Challenges).addTLS
	Renewal = renewal
)

// Outcome is the kind of a failure, and the pause that was asked for.
func Outcome(err error) (string, time.Duration) {
	f := classify(err)
	return f.kind, f.wait
}
