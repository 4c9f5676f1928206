package acme

import (
	"crypto/tls"
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
	Renewal    = renewal
	LastResort = lastResort
)

// AddHTTP has a token answered.
func AddHTTP(c *Challenges, token, answer string) (done func()) {
	return c.add(pending{kind: HTTP01, name: token, answer: answer})
}

// AddTLS has handshakes for a host answered.
func AddTLS(c *Challenges, host string, cert *tls.Certificate) (done func()) {
	return c.add(pending{kind: TLSALPN01, name: host, cert: cert})
}

// ParseChallenge reads what nodes tell each other of a challenge, and writes it again.
func ParseChallenge(plain []byte) ([]byte, error) {
	p, err := parsePending(plain)
	if err != nil {
		return nil, err
	}
	return p.encode()
}

// Outcome is the kind of a failure, and the pause that was asked for.
func Outcome(err error) (string, time.Duration) {
	f := classify(err)
	return f.kind, f.wait
}
