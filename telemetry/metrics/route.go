package metrics

import (
	"strings"
	"sync/atomic"
	"time"
)

// Route counts the requests of one route: rate, errors, duration, bytes. It is
// the gateway's exchange.Recorder.
type Route struct {
	name  string
	cells cells
	calls calls
}

// Route returns the handle of a route, the same one for the same name. Call it
// when a config is compiled.
func (m *Metrics) Route(name string) *Route {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.routes[name]
	if r == nil {
		r = &Route{name: strings.Clone(name)}
		m.routes[r.name] = r
	}
	return r
}

// Record counts a finished request. It does not allocate.
func (r *Route) Record(status int, took time.Duration, bytesIn, bytesOut int64) {
	c := r.cells.any()
	c.record(status, took)
	if bytesIn != 0 {
		c.in.Add(bytesIn)
	}
	if bytesOut != 0 {
		c.out.Add(bytesOut)
	}
}

func (r *Route) collect(e *emit) {
	var t total
	if !r.cells.total(&t) {
		return // never asked for: ten thousand silent routes would be 200 000 series of zeros
	}
	e.codes(requests, &t, r.name)
	e.histogram(requestDuration, &t, r.name)
	e.counter(requestBytes, uint64(t.in), r.name)
	e.counter(replyBytes, uint64(t.out), r.name)
	r.calls.collect(e, r.name)
}

// Connections are a listener's own counts: open now, and since it was bound.
type Connections struct {
	Open                           int
	Accepted, Refused, AcceptFails uint64
	// Received from clients and Sent to them, of what is passed on unread.
	Received, Sent uint64
	// Protocols says what is spoken on those open: a handshake is none yet.
	Protocols []ProtocolConnections
}

// ProtocolConnections are the open connections of one protocol: h1, h2, h3 or tcp.
type ProtocolConnections struct {
	Protocol string
	Open     int
}

// Listener tells of the connections of one listener.
type Listener struct {
	name string
	// FullHandshakes and ResumedHandshakes count those of TLS that succeeded,
	// UnknownNames those that asked for a name no certificate is for.
	FullHandshakes, ResumedHandshakes, UnknownNames Counter

	protocol map[string]*Counter // never changes
	reasons  []string
	counts   atomic.Pointer[func() Connections]
}

// Listener returns the handle of a listener, the same one for the same name.
func (m *Metrics) Listener(name string) *Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.listeners[name]
	if l == nil {
		l = &Listener{name: strings.Clone(name), reasons: m.reasons, protocol: newRefusals(m.reasons)}
		m.listeners[l.name] = l
	}
	return l
}

// Watch has the listener's own counts asked for at every scrape; they only grow
// as long as its address stays.
func (l *Listener) Watch(counts func() Connections) { l.counts.Store(&counts) }

// ProtocolRefusal counts a request that never became one, by the reason's name.
func (l *Listener) ProtocolRefusal(name string) { count(l.protocol, name) }

func (l *Listener) collect(e *emit) {
	if counts := l.counts.Load(); counts != nil {
		c := (*counts)()
		e.gauge(listenerOpen, float64(c.Open), l.name)
		e.counter(listenerAccepted, c.Accepted, l.name)
		e.counter(listenerRefused, c.Refused, l.name)
		e.counter(acceptErrors, c.AcceptFails, l.name)
		if c.Received != 0 || c.Sent != 0 {
			e.counter(streamReceived, c.Received, l.name)
			e.counter(streamSent, c.Sent, l.name)
		}
		for _, p := range c.Protocols {
			e.gauge(listenerSpoken, float64(p.Open), l.name, p.Protocol)
		}
	}
	if full, resumed := l.FullHandshakes.Value(), l.ResumedHandshakes.Value(); full+resumed > 0 {
		e.counter(handshakes, full, l.name, "full")
		e.counter(handshakes, resumed, l.name, "resumed")
		e.counter(unknownNames, l.UnknownNames.Value(), l.name)
	}
	for _, name := range l.reasons {
		if n := l.protocol[name].Value(); n > 0 {
			e.counter(listenerRefusals, n, l.name, name)
		}
	}
	if n := l.protocol[unhandledRefusals].Value(); n > 0 {
		e.counter(listenerRefusals, n, l.name, unhandledRefusals)
	}
}
