package metrics

import (
	"strings"
	"sync"
	"time"
)

// Outcome is how one try ended.
type Outcome uint8

// The outcomes of a try.
const (
	OK             Outcome = iota // a reply with a status below 500
	ServerError                   // a reply with a status of 500 or more
	ConnectFailure                // no connection
	Reset                         // the connection broke before the reply head
	Timeout                       // no reply head in time
	ProtocolError                 // a reply that is not HTTP
	Canceled                      // the client went away, or another try won
	numOutcomes
)

var outcomeNames = [numOutcomes]string{"ok", "server_error", "connect_failure", "reset", "timeout", "protocol_error", "canceled"}

// String is the label value.
func (o Outcome) String() string { return outcomeNames[o] }

// Limit is a circuit breaker's limit.
type Limit uint8

// The limits of a circuit breaker.
const (
	LimitConnections Limit = iota
	LimitRequests
	LimitPending
	LimitRetries
	numLimits
)

var limitNames = [numLimits]string{"connections", "requests", "pending", "retries"}

// String is the label value.
func (l Limit) String() string { return limitNames[l] }

// Upstream counts what happens between the gateway and one upstream.
type Upstream struct {
	// Retries counts tries after the first; RetriesDenied those the budget did
	// not allow; Hedges second tries for slowness; Mirrored copies sent;
	// NoEndpoint picks that found nothing to use.
	Retries, RetriesDenied, Hedges, Mirrored, NoEndpoint Counter
	// PanicMode is 1 while all endpoints are used because few are healthy.
	PanicMode Gauge

	name     string
	cells    cells
	overflow [numLimits]Counter

	mu        sync.Mutex // guards endpoints
	endpoints map[string]*Endpoint
}

// Upstream returns the handle of an upstream, the same one for the same name.
func (m *Metrics) Upstream(name string) *Upstream {
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.upstreams[name]
	if u == nil {
		u = &Upstream{name: strings.Clone(name), endpoints: map[string]*Endpoint{}}
		m.upstreams[u.name] = u
	}
	return u
}

// Overflow counts a request that a circuit breaker refused.
func (u *Upstream) Overflow(l Limit) { u.overflow[l].Inc() }

// Endpoint returns the handle of one endpoint ("host:port"), the same one for
// the same address. Call it when an endpoint appears, not per request.
func (u *Upstream) Endpoint(address string) *Endpoint {
	u.mu.Lock()
	defer u.mu.Unlock()
	e := u.endpoints[address]
	if e == nil {
		e = &Endpoint{up: u, address: strings.Clone(address)}
		e.Healthy.Set(1)
		u.endpoints[e.address] = e
	}
	return e
}

// RetainEndpoints forgets the endpoints that are not named.
func (u *Upstream) RetainEndpoints(addresses []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	retain(u.endpoints, addresses)
}

// Endpoint counts what happens between the gateway and one endpoint.
type Endpoint struct {
	// Active are tries under way; Open are connections, idle ones included.
	Active, Open Gauge
	// Healthy is 1 or 0.
	Healthy Gauge
	// Connects and ConnectFailures count connections; Ejections outlier
	// detection's; ChecksPassed and ChecksFailed health checks.
	Connects, ConnectFailures, Ejections, ChecksPassed, ChecksFailed Counter

	up      *Upstream
	address string
	tries   [numOutcomes]Counter
}

// Try counts one try: how it ended, the status of the reply (0 without one)
// and how long it took. It does not allocate.
func (e *Endpoint) Try(o Outcome, status int, took time.Duration) {
	e.tries[o].Inc()
	c := e.up.cells.any()
	c.buckets[bucket(int64(took))].Add(1)
	c.sumNanos.Add(int64(took))
	if status != 0 {
		c.codes[codeSlot(status)].Add(1)
	}
}

func (u *Upstream) collect(e *emit) {
	var t total
	if u.cells.total(&t) {
		e.codes(replies, &t, u.name)
		e.histogram(tryDuration, &t, u.name)
	}
	e.counter(retries, u.Retries.Value(), u.name)
	e.counter(retriesDenied, u.RetriesDenied.Value(), u.name)
	e.counter(hedges, u.Hedges.Value(), u.name)
	e.counter(mirrors, u.Mirrored.Value(), u.name)
	e.counter(noEndpoint, u.NoEndpoint.Value(), u.name)
	e.gauge(panicMode, float64(u.PanicMode.Value()), u.name)
	for l := range numLimits {
		e.counter(overflow, u.overflow[l].Value(), u.name, l.String())
	}
	u.mu.Lock()
	list := sorted(u.endpoints)
	u.mu.Unlock()
	for _, p := range list {
		p.collect(e)
	}
}

func (p *Endpoint) collect(e *emit) {
	up, at := p.up.name, p.address
	e.gauge(healthy, float64(p.Healthy.Value()), up, at)
	e.gauge(upstreamActive, float64(p.Active.Value()), up, at)
	e.gauge(upstreamOpen, float64(p.Open.Value()), up, at)
	e.counter(upstreamConnects, p.Connects.Value(), up, at)
	e.counter(connectFailures, p.ConnectFailures.Value(), up, at)
	e.counter(ejections, p.Ejections.Value(), up, at)
	e.counter(probes, p.ChecksPassed.Value(), up, at, "pass")
	e.counter(probes, p.ChecksFailed.Value(), up, at, "fail")
	for o := range numOutcomes {
		if n := p.tries[o].Value(); n > 0 {
			e.counter(tries, n, up, at, o.String())
		}
	}
}
