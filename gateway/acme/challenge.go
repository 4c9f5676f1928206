package acme

import (
	"crypto/tls"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
)

// Kind is a way to prove that a host is ours.
type Kind string

// The kinds of challenges, by their names in the protocol.
const (
	HTTP01    Kind = "http-01"
	TLSALPN01 Kind = "tls-alpn-01"
)

// challengePath is below what HTTP-01 asks (RFC 8555, 8.3).
const challengePath = "/.well-known/acme-challenge/"

// Challenges are those pending on one node. Reading takes no lock: every
// request may ask.
type Challenges struct {
	mu   sync.Mutex                                  // for writers
	http atomic.Pointer[map[string]string]           // answer by token; nil: none is pending
	tls  atomic.Pointer[map[string]*tls.Certificate] // by host; nil: none is pending
}

// NewChallenges returns an empty set.
func NewChallenges() *Challenges { return &Challenges{} }

// HTTP is what to answer to a request for path. Without a pending challenge for
// exactly this token it is false, and the request is like any other.
func (c *Challenges) HTTP(path string) (answer string, ok bool) {
	pending := c.http.Load()
	if pending == nil {
		return "", false
	}
	token, below := strings.CutPrefix(path, challengePath)
	if !below {
		return "", false
	}
	answer, ok = (*pending)[token]
	return answer, ok
}

// TLS is the certificate that answers a challenge for host, in lower case; nil
// if none is pending.
func (c *Challenges) TLS(host string) *tls.Certificate {
	if pending := c.tls.Load(); pending != nil {
		return (*pending)[host]
	}
	return nil
}

// pending is a challenge and what answers it.
type pending struct {
	kind Kind
	// name is the token of HTTP-01, the host of TLS-ALPN-01.
	name   string
	answer string           // of HTTP-01
	cert   *tls.Certificate // of TLS-ALPN-01
}

// add has a challenge answered until done is called.
func (c *Challenges) add(p pending) (done func()) {
	if p.kind == HTTP01 {
		return addTo(c, &c.http, p.name, p.answer)
	}
	return addTo(c, &c.tls, p.name, p.cert)
}

func addTo[V comparable](c *Challenges, to *atomic.Pointer[map[string]V], key string, v V) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set(to, key, v)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		unset(to, key, v)
	}
}

func set[V any](p *atomic.Pointer[map[string]V], key string, v V) {
	next := map[string]V{}
	if old := p.Load(); old != nil {
		next = maps.Clone(*old)
	}
	next[key] = v
	p.Store(&next)
}

// unset leaves alone what somebody else has put in the key's place.
func unset[V comparable](p *atomic.Pointer[map[string]V], key string, v V) {
	old := p.Load()
	if old == nil || (*old)[key] != v {
		return
	}
	if len(*old) == 1 {
		p.Store(nil)
		return
	}
	next := maps.Clone(*old)
	delete(next, key)
	p.Store(&next)
}
