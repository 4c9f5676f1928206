package metrics

import (
	"strings"
	"sync"
	"sync/atomic"
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
	TLSFailure                    // a connection, but no TLS with an endpoint that is trusted
	Canceled                      // the client went away, or another try won
	numOutcomes
)

var outcomeNames = [numOutcomes]string{"ok", "server_error", "connect_failure", "reset", "timeout", "protocol_error", "tls_failure", "canceled"}

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
	NumLimits // how many there are
)

var limitNames = [NumLimits]string{"connections", "requests", "pending", "retries"}

// String is the label value.
func (l Limit) String() string { return limitNames[l] }

// Drop is why a copy was not sent to a mirror.
type Drop uint8

// The causes of a drop.
const (
	DropBusy        Drop = iota // too many were under way
	DropTooLong                 // the body
	DropUnavailable             // no endpoint, or no room
	numDrops
)

var dropNames = [numDrops]string{"busy", "too_long", "unavailable"}

// String is the label value.
func (d Drop) String() string { return dropNames[d] }

// Upstream counts what happens between the gateway and one upstream.
type Upstream struct {
	// Retries counts tries after the first; RetriesDenied those the budget did
	// not allow; Hedges second tries for slowness; Mirrored copies sent;
	// NoEndpoint picks that found nothing to use.
	Retries, RetriesDenied, Hedges, Mirrored, NoEndpoint Counter
	// PanicMode is 1 while all endpoints are used because few are healthy.
	PanicMode Gauge

	drops  [numDrops]Counter
	name   string
	cells  cells
	counts atomic.Pointer[func() UpstreamCounts]

	mu        sync.Mutex // guards endpoints
	endpoints map[string]*Endpoint
}

// UpstreamCounts are what an upstream counts itself.
type UpstreamCounts struct {
	// Refused is what each limit of the circuit breaker has refused.
	Refused   [NumLimits]uint64
	Endpoints []EndpointCounts
	// Source is what finds the endpoints; nil: they are given.
	Source *SourceCounts
}

// SourceCounts tell of what finds an upstream's endpoints.
type SourceCounts struct {
	Kind string
	// Age of the last good list; below 0: there was none.
	Age       time.Duration
	Failures  uint64
	Endpoints int
}

// EndpointCounts are what an upstream counts of one endpoint itself: tries
// under way and open connections, idle ones included, now; the rest since the
// endpoint, or its pool of connections, came to be.
type EndpointCounts struct {
	Address                    string // "host:port"
	Healthy                    bool
	Active, Open               int64
	Connects, ConnectFailures  uint64
	ChecksPassed, ChecksFailed uint64
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

// Watch has the upstream's own counts asked for at every scrape.
func (u *Upstream) Watch(counts func() UpstreamCounts) { u.counts.Store(&counts) }

// Endpoint returns the handle of one endpoint ("host:port"), the same one for
// the same address. Call it when an endpoint appears, not per request.
func (u *Upstream) Endpoint(address string) *Endpoint {
	u.mu.Lock()
	defer u.mu.Unlock()
	e := u.endpoints[address]
	if e == nil {
		e = &Endpoint{up: u, address: strings.Clone(address)}
		u.endpoints[e.address] = e
	}
	return e
}

// Forget drops the endpoint of an address.
func (u *Upstream) Forget(address string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.endpoints, address)
}

// Endpoint counts what happens between the gateway and one endpoint.
type Endpoint struct {
	// Ejections are those of outlier detection.
	Ejections Counter

	up      *Upstream
	address string
	tries   [numOutcomes]Counter
}

// Dropped counts a copy that was not sent to the upstream, a mirror.
func (u *Upstream) Dropped(why Drop) { u.drops[why].Inc() }

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
	for d := range numDrops {
		if n := u.drops[d].Value(); n > 0 {
			e.counter(mirrorDropped, n, u.name, d.String())
		}
	}
	e.counter(noEndpoint, u.NoEndpoint.Value(), u.name)
	e.gauge(panicMode, float64(u.PanicMode.Value()), u.name)
	if counts := u.counts.Load(); counts != nil {
		c := (*counts)()
		c.collect(e, u.name)
	}
	u.mu.Lock()
	list := sorted(u.endpoints)
	u.mu.Unlock()
	for _, p := range list {
		p.collect(e)
	}
}

func (c *UpstreamCounts) collect(e *emit, up string) {
	for l := range NumLimits {
		e.counter(overflow, c.Refused[l], up, l.String())
	}
	if s := c.Source; s != nil {
		if s.Age >= 0 {
			e.gauge(sourceAge, s.Age.Seconds(), up, s.Kind)
		}
		e.counter(sourceFailures, s.Failures, up, s.Kind)
		e.gauge(sourceEndpoints, float64(s.Endpoints), up, s.Kind)
	}
	for i := range c.Endpoints {
		p := &c.Endpoints[i]
		ok := 0.0
		if p.Healthy {
			ok = 1
		}
		e.gauge(healthy, ok, up, p.Address)
		e.gauge(upstreamActive, float64(p.Active), up, p.Address)
		e.gauge(upstreamOpen, float64(p.Open), up, p.Address)
		e.counter(upstreamConnects, p.Connects, up, p.Address)
		e.counter(connectFailures, p.ConnectFailures, up, p.Address)
		e.counter(probes, p.ChecksPassed, up, p.Address, "pass")
		e.counter(probes, p.ChecksFailed, up, p.Address, "fail")
	}
}

func (p *Endpoint) collect(e *emit) {
	up, at := p.up.name, p.address
	e.counter(ejections, p.Ejections.Value(), up, at)
	for o := range numOutcomes {
		if n := p.tries[o].Value(); n > 0 {
			e.counter(tries, n, up, at, o.String())
		}
	}
}
