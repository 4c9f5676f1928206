package metrics

import (
	"maps"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Settings is what New needs to know.
type Settings struct {
	// Version of the binary, for gatehouse_build_info.
	Version string
	// Reasons are the names of all refusals. Others are counted as "other".
	Reasons []string
}

// Metrics is all that one node counts. Its methods are for concurrent use;
// those that return a handle are meant for compile time, handles for requests.
type Metrics struct {
	// InFlight counts requests being served: Inc at the head, Dec at the end.
	InFlight Gauge
	// Panics counts panics caught while serving.
	Panics Counter
	// Config tells about reloads.
	Config Config
	// Fleet tells about the config of many nodes; nothing unless a node has one.
	Fleet Fleet
	// Handovers counts changes of the process.
	Handovers Handovers

	version  string
	reasons  []string
	refusals map[string]*Counter // never changes; has "other"
	registry *prometheus.Registry
	plugins  *tracking

	mu        sync.Mutex // guards the maps below
	routes    map[string]*Route
	upstreams map[string]*Upstream
	listeners map[string]*Listener
	accessLog func() (written, dropped uint64)
	traces    func() (exported, dropped uint64)
	certs     func() []Certificate
	shared    func() Shared
	services  func() *RegistryCounts
	eureka    func() []EurekaCount
}

// New returns metrics with a registry of their own.
func New(s Settings) *Metrics {
	m := &Metrics{
		version:   s.Version,
		reasons:   slices.Clone(s.Reasons),
		refusals:  newRefusals(s.Reasons),
		registry:  prometheus.NewRegistry(),
		routes:    map[string]*Route{},
		upstreams: map[string]*Upstream{},
		listeners: map[string]*Listener{},
	}
	m.plugins = &tracking{registry: m.registry}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collector{m},
	)
	return m
}

func newRefusals(names []string) map[string]*Counter {
	out := make(map[string]*Counter, len(names)+1)
	for _, n := range names {
		out[n] = new(Counter)
	}
	out[unhandledRefusals] = new(Counter)
	return out
}

func count(in map[string]*Counter, name string) {
	c := in[name]
	if c == nil {
		c = in[unhandledRefusals]
	}
	c.Inc()
}

// Refusal counts a request that Gatehouse itself answered, by the reason's name.
func (m *Metrics) Refusal(name string) { count(m.refusals, name) }

// Registerer is where plugins register collectors of their own. Series of
// vectors registered here that carry a label "route" go when the route goes.
func (m *Metrics) Registerer() prometheus.Registerer { return m.plugins }

// Gatherer reads everything once.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Handler serves GET /metrics in the formats Prometheus asks for.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// AccessLog makes the access log's own count visible.
func (m *Metrics) AccessLog(stats func() (written, dropped uint64)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.accessLog = stats
}

// Traces makes the span exporter's own count visible.
func (m *Metrics) Traces(stats func() (exported, dropped uint64)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.traces = stats
}

// Certificate is what is to be known of one certificate.
type Certificate struct {
	Name string
	// NotAfter is zero while there is none to use.
	NotAfter time.Time
	// OCSP says that a response is to be stapled, OCSPUntil until when the one
	// stapled is valid; zero: none is.
	OCSP      bool
	OCSPUntil time.Time
	// Loaded counts contents put in use, Failed errors met since.
	Loaded, Failed uint64
	// Orders counts what became of orders by outcome, Ordered is when the last
	// one succeeded, Next when the authority is asked next. Orders is nil for
	// certificates from files.
	Orders        map[string]uint64
	Ordered, Next time.Time
}

// Certificates makes the certificates of the live config visible; list takes
// the place of the one given before.
func (m *Metrics) Certificates(list func() []Certificate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.certs = list
}

func (c *Certificate) collect(e *emit) {
	e.gauge(certNotAfter, seconds(c.NotAfter), c.Name)
	if c.OCSP {
		e.gauge(certOCSP, seconds(c.OCSPUntil), c.Name)
	}
	e.counter(certLoads, c.Loaded, c.Name, "success")
	e.counter(certLoads, c.Failed, c.Name, "failure")
	if c.Orders == nil {
		return
	}
	for outcome, n := range c.Orders {
		e.counter(certOrders, n, c.Name, outcome)
	}
	e.gauge(certOrdered, seconds(c.Ordered), c.Name)
	e.gauge(certNext, seconds(c.Next), c.Name)
}

// seconds since 1970; 0 for no time.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}

// Retain forgets the routes, upstreams and listeners that are not named: after
// a reload, successful or not, with those of the live config. Handles of
// forgotten ones still work for requests that are under way, but are no longer shown.
func (m *Metrics) Retain(routes, upstreams, listeners []string) {
	m.mu.Lock()
	gone := retain(m.routes, routes)
	retain(m.upstreams, upstreams)
	retain(m.listeners, listeners)
	m.mu.Unlock()
	for _, name := range gone {
		m.plugins.drop(name)
	}
}

func retain[V any](m map[string]V, names []string) (gone []string) {
	keep := make(map[string]bool, len(names))
	for _, n := range names {
		keep[n] = true
	}
	for n := range m {
		if !keep[n] {
			delete(m, n)
			gone = append(gone, n)
		}
	}
	return gone
}

// sorted is a copy of a map's values by key, taken under the lock.
func sorted[V any](m map[string]V) []V {
	out := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

// Config tells about reloads. Its methods are for concurrent use.
type Config struct {
	revision, ok, applied, took, broken atomic.Int64
	succeeded, failed                   Counter
}

// Applied notes that revision is live since now and took so long to apply;
// broken routes are those that do not work on this node.
func (c *Config) Applied(revision int64, now time.Time, took time.Duration, broken int) {
	c.revision.Store(revision)
	c.ok.Store(1)
	c.applied.Store(now.UnixNano())
	c.took.Store(int64(took))
	c.broken.Store(int64(broken))
	c.succeeded.Inc()
}

// Unchanged notes that the newest config is the running one, which ends an
// earlier failure.
func (c *Config) Unchanged() { c.ok.Store(1) }

// Failed notes that a reload changed nothing.
func (c *Config) Failed(took time.Duration) {
	c.ok.Store(0)
	c.took.Store(int64(took))
	c.failed.Inc()
}

func (c *Config) collect(e *emit) {
	e.gauge(configRevision, float64(c.revision.Load()))
	e.gauge(configOK, float64(c.ok.Load()))
	e.gauge(configTime, float64(c.applied.Load())/1e9)
	e.gauge(configTook, float64(c.took.Load())/1e9)
	e.gauge(configBroken, float64(c.broken.Load()))
	e.counter(configReloads, c.succeeded.Value(), "success")
	e.counter(configReloads, c.failed.Value(), "failure")
}

// collector shows m to a registry without making Collect part of m's own API.
type collector struct{ m *Metrics }

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, f := range families {
		out <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	m, e := c.m, &emit{out: out}
	m.mu.Lock()
	routes, ups, lis := sorted(m.routes), sorted(m.upstreams), sorted(m.listeners)
	accessLog, traces, certs := m.accessLog, m.traces, m.certs
	shared, services, eureka := m.shared, m.services, m.eureka
	m.mu.Unlock()

	e.gauge(buildInfo, 1, m.version, runtime.Version())
	e.gauge(inFlight, float64(m.InFlight.Value()))
	e.counter(panics, m.Panics.Value())
	for _, name := range append(slices.Clone(m.reasons), unhandledRefusals) {
		e.counter(refusals, m.refusals[name].Value(), name)
	}
	for _, r := range routes {
		r.collect(e)
	}
	for _, u := range ups {
		u.collect(e)
	}
	for _, l := range lis {
		l.collect(e)
	}
	m.Config.collect(e)
	m.Fleet.collect(e)
	if shared != nil {
		s := shared()
		s.collect(e)
	}
	m.Handovers.collect(e)
	if certs != nil {
		for _, c := range certs() {
			c.collect(e)
		}
	}
	if services != nil {
		services().collect(e)
	}
	if eureka != nil {
		for _, c := range eureka() {
			e.counter(eurekaRequests, c.Count, c.Operation, c.Result)
		}
	}
	if accessLog != nil {
		written, dropped := accessLog()
		e.counter(accessLogLines, written, "written")
		e.counter(accessLogLines, dropped, "dropped")
	}
	if traces != nil {
		exported, dropped := traces()
		e.counter(traceSpans, exported, "exported")
		e.counter(traceSpans, dropped, "dropped")
	}
}

type emit struct{ out chan<- prometheus.Metric }

func (e *emit) counter(f *family, n uint64, labels ...string) {
	e.out <- prometheus.MustNewConstMetric(f.desc, prometheus.CounterValue, float64(n), labels...)
}

func (e *emit) gauge(f *family, v float64, labels ...string) {
	e.out <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, v, labels...)
}

func (e *emit) histogram(f *family, t *total, labels ...string) {
	cumulative := make(map[float64]uint64, len(Bounds))
	var n uint64
	for i, b := range Bounds {
		n += t.buckets[i]
		cumulative[b] = n
	}
	e.out <- prometheus.MustNewConstHistogram(f.desc, t.count, t.sum.Seconds(), cumulative, labels...)
}

func (e *emit) codes(f *family, t *total, label string) {
	for i, n := range t.codes {
		if n > 0 {
			e.counter(f, n, label, codeNames[i])
		}
	}
}
