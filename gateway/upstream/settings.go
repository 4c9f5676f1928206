package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"
)

// Algorithm is how an endpoint is chosen. The values are the config's words.
type Algorithm string

// The algorithms. The empty string means LeastRequest.
const (
	// RoundRobin takes endpoints in turn; with unequal weights it is nginx's
	// smooth weighted round robin.
	RoundRobin Algorithm = "round_robin"
	// Random takes any, by weight.
	Random Algorithm = "random"
	// LeastRequest takes the less busy of two random endpoints.
	LeastRequest Algorithm = "least_request"
	// PeakEWMA takes the one of two random endpoints that is likely to answer first.
	PeakEWMA Algorithm = "peak_ewma"
	// RingHash keeps equal hashes on one endpoint (ketama).
	RingHash Algorithm = "ring_hash"
	// Maglev does the same with a smaller spread of load and a constant-time lookup.
	Maglev Algorithm = "maglev"
)

// Pool holds the connections to one endpoint. The proxy wants a transport.Pool.
type Pool interface {
	// Close closes idle connections now and busy ones when their request ends.
	// It does not block, and requests may still be in flight.
	Close()
}

// CountingPool is a Pool that counts its connections: those open, and those
// made and not made since it exists. Safe for concurrent use.
type CountingPool interface {
	Pool
	Counts() (open int, connects, failures uint64)
}

// Settings are what an Upstream is built from.
type Settings struct {
	// Name is the key under "upstreams" in the config.
	Name string
	// Endpoints are given addresses; exactly one of Endpoints and Source is set.
	Endpoints []EndpointSettings
	Source    Source
	// AllowEmpty lets the source take the last endpoint away. Otherwise an answer
	// without endpoints is one that failed.
	AllowEmpty bool

	Algorithm Algorithm
	// SlowStart is how long the share of a new or recovered endpoint grows;
	// 0: not at all. Endpoints known when the process starts begin at once, and
	// the hashing algorithms ignore it (as Envoy's do): moving keys twice would
	// hurt more than it helps.
	SlowStart time.Duration
	// PanicThreshold is the percentage of usable endpoints below which all are
	// used; 0 switches that off.
	PanicThreshold int
	// LocalZone is the zone of this node. Endpoints of this zone are preferred
	// to others of the same priority; empty: zones do not matter.
	LocalZone string

	// HealthCheck probes endpoints; nil: none.
	HealthCheck *HealthSettings
	// Dial connects for probes, TLS included; nil: plain TCP.
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Outlier OutlierSettings
	// Breaker limits what goes out at once; the zero value means Envoy's defaults.
	Breaker BreakerSettings

	// NewPool makes the connections of one endpoint; it opens none yet. The pool
	// asks b before it opens a connection or lets a request wait. nil: no pools.
	NewPool func(address string, b *Breaker) Pool
	// PoolKey tells apart what NewPool makes: a pool is taken over on reload only
	// if the key is the same. Typically a digest of the connection settings.
	PoolKey string

	// Log is for rare events; nil: silent.
	Log *slog.Logger
	// Events is told of every change, outside any lock. It must not block. May be nil.
	Events func(Event)
	// Observer counts. May be nil.
	Observer Observer
}

// EndpointSettings is one given address.
type EndpointSettings struct {
	// Address is HOST:PORT.
	Address string
	// Weight is the endpoint's relative share, 1 to 1000; 0 means 1.
	Weight int
	Zone   string
	// Priority: higher numbers get traffic only when lower ones fail, 0 to 15.
	Priority int
}

// HealthSettings are active probes.
type HealthSettings struct {
	// Type is "http", "tcp" or "grpc": the health service of gRPC
	// (grpc.health.v1.Health), which needs HTTP/2.
	Type string
	// Port is probed instead of the endpoint's; 0 means that.
	Port int
	// Path and Host of the HTTP probe. Host defaults to the endpoint's address.
	Path, Host string
	// Service that the gRPC probe asks about; empty: the server as a whole.
	Service string
	// HTTP2 has HTTP probes speak HTTP/2 where nothing else was agreed on by TLS.
	HTTP2 bool
	// Expect are the statuses that count as healthy; empty: 200 to 299.
	Expect []StatusRange
	// Interval and Timeout of a probe; 0 means 5 s and 1 s.
	Interval, Timeout time.Duration
	// Healthy and Unhealthy are how many results in a row change the state; 0
	// means 2 and 3.
	Healthy, Unhealthy int
	// Jitter is the random share added to the interval, in percent.
	Jitter int
}

// StatusRange is an inclusive range of status codes.
type StatusRange struct{ From, To int }

// OutlierSettings eject endpoints whose real requests fail.
// Zero durations and counts mean Envoy's defaults (config.cluster.v3.OutlierDetection):
// 5 in a row, 10 s, 30 s and 300 s.
type OutlierSettings struct {
	Enabled bool
	// ConsecutiveErrors in a row (5xx replies and tries without a reply) eject.
	ConsecutiveErrors int
	// Interval is how often ejections are reconsidered.
	Interval time.Duration
	// BaseEjection times the number of ejections, at most MaxEjection.
	BaseEjection, MaxEjection time.Duration
	// MaxEjectedPercent of the endpoints may be out at once (Envoy: 10); one
	// always may, also at 0.
	MaxEjectedPercent int
}

// BreakerSettings limit what goes to the upstream at once.
// The zero value means Envoy's defaults: 1024, 1024, 1024 and 3.
type BreakerSettings struct {
	MaxConnections, MaxRequests, MaxPending, MaxRetries int
}

// What an endpoint list can hold.
const (
	// MaxEndpoints is what a Maglev table's 16-bit entries can tell apart; nobody
	// should balance over more from one process.
	MaxEndpoints = 1 << 15
	// MaxWeight and MaxPriority of an endpoint.
	MaxWeight   = 1000
	MaxPriority = 15
)

// mistakes collects what is wrong with settings, by the path in the config.
type mistakes struct {
	upstream string
	errs     []error
}

func (m *mistakes) add(path, format string, args ...any) {
	m.errs = append(m.errs, fmt.Errorf("upstreams.%s.%s: %w", m.upstream, path, fmt.Errorf(format, args...)))
}

// withDefaults fills in what was left out and reports what cannot be.
func (s Settings) withDefaults() (Settings, error) {
	m := &mistakes{upstream: s.Name}
	setDefault(&s.Algorithm, LeastRequest)
	switch s.Algorithm {
	case RoundRobin, Random, LeastRequest, PeakEWMA, RingHash, Maglev:
	default:
		m.add("load_balancer.algorithm", "%q is not known", string(s.Algorithm))
	}
	if s.PanicThreshold < 0 || s.PanicThreshold > 100 {
		m.add("load_balancer.panic_threshold", "must be 0 to 100, got %d", s.PanicThreshold)
	}
	if (s.Source == nil) == (len(s.Endpoints) == 0) {
		m.add("endpoints", "exactly one of endpoints and a source of them is needed")
	}
	s.Endpoints = endpointDefaults(s.Endpoints, m)
	if s.HealthCheck != nil {
		h := *s.HealthCheck
		if err := h.setDefaults(); err != nil {
			m.add("health_check", "%w", err)
		}
		s.HealthCheck = &h
	}
	if s.Dial == nil {
		s.Dial = new(net.Dialer).DialContext
	}
	s.Outlier.setDefaults()
	setDefault(&s.Breaker, BreakerSettings{MaxConnections: 1024, MaxRequests: 1024, MaxPending: 1024, MaxRetries: 3})
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	s.Log = s.Log.With("upstream", s.Name)
	return s, errors.Join(m.errs...)
}

func endpointDefaults(given []EndpointSettings, m *mistakes) []EndpointSettings {
	if len(given) > MaxEndpoints {
		m.add("endpoints", "at most %d, got %d", MaxEndpoints, len(given))
	}
	list := append([]EndpointSettings(nil), given...)
	seen := make(map[string]bool, len(list))
	for i := range list {
		e := &list[i]
		path := fmt.Sprintf("endpoints[%d]", i)
		if err := checkAddress(e.Address); err != nil {
			m.add(path+".address", "%q: %w", e.Address, err)
		}
		if seen[e.Address] {
			m.add(path+".address", "%q is given twice", e.Address)
		}
		seen[e.Address] = true
		setDefault(&e.Weight, 1)
		if e.Weight < 0 || e.Weight > MaxWeight {
			m.add(path+".weight", "must be 1 to 1000, got %d", e.Weight)
		}
		if e.Priority < 0 || e.Priority > MaxPriority {
			m.add(path+".priority", "must be 0 to 15, got %d", e.Priority)
		}
	}
	return list
}

func (h *HealthSettings) setDefaults() error {
	setDefault(&h.Type, "http")
	setDefault(&h.Path, "/")
	setDefault(&h.Interval, 5*time.Second)
	setDefault(&h.Timeout, time.Second)
	setDefault(&h.Healthy, 2)
	setDefault(&h.Unhealthy, 3)
	if len(h.Expect) == 0 {
		h.Expect = []StatusRange{{From: 200, To: 299}}
	}
	switch h.Type {
	case "http", "tcp", "grpc":
	default:
		return fmt.Errorf("type %q is not http, tcp or grpc", h.Type)
	}
	return nil
}

func (o *OutlierSettings) setDefaults() {
	setDefault(&o.ConsecutiveErrors, 5)
	setDefault(&o.Interval, 10*time.Second)
	setDefault(&o.BaseEjection, 30*time.Second)
	setDefault(&o.MaxEjection, 300*time.Second)
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return errors.New("must be HOST:PORT")
	}
	if host == "" {
		return errors.New("the host is missing")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q must be 1 to 65535", port)
	}
	return nil
}
