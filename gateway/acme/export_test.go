package acme

import (
	"context"
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

// Issue puts a certificate on a node's disk as if it had been ordered with these
// settings.
func Issue(n *Node, s Settings, cert *tls.Certificate) error {
	st, err := n.opened()
	if err != nil {
		return err
	}
	return st.putCertificate(context.Background(), s.Name, &stored{cert: cert, directory: s.Directory, hosts: s.wanted()})
}

// Entry is the name of a certificate among what nodes share, NoteEntry that of a
// failure.
func (s *Source) Entry() string     { return s.sharedEntry() }
func (s *Source) NoteEntry() string { return s.sharedNoteEntry() }

// Note is what a node tells the others of a failure.
func (s *Source) Note(node string, at, next time.Time, asked bool) []byte {
	n := note{failures: 1, at: at, next: next, asked: asked, node: node, text: "because"}
	return n.encode(s.s.want())
}

// Renew does what the worker does when it is time to.
func (s *Source) Renew(ctx context.Context) error {
	done, err := s.renew(ctx)
	done()
	return err
}
