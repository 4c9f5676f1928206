package tlsterm

import (
	"crypto/tls"
	"errors"
	"strings"
)

// CertSource is where a certificate comes from: files, or an authority that is
// asked for it. Its methods are safe for concurrent use and do not wait.
type CertSource interface {
	// Current is the certificate to show, with its Leaf, which nobody may
	// change; nil: there is none yet. A source counts Settings.Changes up after
	// it has another.
	Current() *tls.Certificate
	Stats() Stats
}

var _ CertSource = (*Certificate)(nil)

// table finds certificates by the name that a client asks for. It never changes.
type table struct {
	changes uint64                        // the count it was made at
	exact   map[string][]*tls.Certificate // by name
	below   map[string][]*tls.Certificate // of *.NAME, by NAME
	first   *tls.Certificate              // nil: none is usable
}

var errNoCertificate = errors.New("no certificate of this listener is usable")

// table is made anew after certificates have changed. Two handshakes may do so
// at once; an older one that is stored last is found to be old by the next.
func (t *Terminator) table() *table {
	n := t.s.Changes.Load() // before the certificates are read
	if tb := t.names.Load(); tb != nil && tb.changes == n {
		return tb
	}
	tb := &table{changes: n, exact: map[string][]*tls.Certificate{}, below: map[string][]*tls.Certificate{}}
	for _, c := range t.s.Certificates {
		if l := c.Current(); l != nil {
			tb.add(l)
		}
	}
	t.names.Store(tb)
	return tb
}

func (tb *table) add(c *tls.Certificate) {
	if tb.first == nil {
		tb.first = c
	}
	for _, name := range c.Leaf.DNSNames {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if rest, ok := strings.CutPrefix(name, "*."); ok {
			tb.below[rest] = append(tb.below[rest], c)
		} else {
			tb.exact[name] = append(tb.exact[name], c)
		}
	}
}

// certify is tls.Config.GetCertificate. In TLS 1.3 it is asked only if no
// session is resumed.
func (t *Terminator) certify(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if offersSession(hello) && !t.charge(hello.Conn, fullCost-resumedCost) {
		return nil, errTooMany
	}
	c, known := t.choose(hello)
	if !known {
		if a := attemptOf(hello); a != nil {
			a.unknownName = true
		}
		if t.s.StrictNames {
			return nil, nil // which makes crypto/tls send unrecognized_name
		}
	}
	if c == nil {
		return nil, errNoCertificate
	}
	return c, nil
}

// choose finds a certificate for exactly the name, then by a wildcard for its
// first label, then the first of all, which is for nobody known.
func (t *Terminator) choose(hello *tls.ClientHelloInfo) (c *tls.Certificate, known bool) {
	tb := t.table()
	name := strings.ToLower(hello.ServerName)
	if c := best(tb.exact[name], hello); c != nil {
		return c, true
	}
	if label, rest, ok := strings.Cut(name, "."); ok && label != "" {
		if c := best(tb.below[rest], hello); c != nil {
			return c, true
		}
	}
	return tb.first, false
}

// Knows reports whether there is a certificate for a name that a client asks for.
func (t *Terminator) Knows(name string) bool {
	_, known := t.choose(&tls.ClientHelloInfo{ServerName: name})
	return known
}

// best is the first that the client's algorithms suit: of one name there may be
// an ECDSA and an RSA certificate. If none does, the handshake fails by the first.
func best(list []*tls.Certificate, hello *tls.ClientHelloInfo) *tls.Certificate {
	if len(list) > 1 {
		for _, c := range list {
			if hello.SupportsCertificate(c) == nil {
				return c
			}
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[0]
}
