package compile

import (
	"slices"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/gateway/l4"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// observer counts what one upstream and the proxies in front of it do. It
// lives as long as the compiler, so that counters survive reloads.
type observer struct {
	m         *metrics.Upstream
	endpoints sync.Map // address → *metrics.Endpoint: read per try, written per endpoint
}

var (
	_ upstream.Observer = (*observer)(nil)
	_ proxy.Observer    = (*tries)(nil)
)

func (o *observer) endpoint(address string) *metrics.Endpoint {
	if e, ok := o.endpoints.Load(address); ok {
		return e.(*metrics.Endpoint)
	}
	e, _ := o.endpoints.LoadOrStore(address, o.m.Endpoint(address))
	return e.(*metrics.Endpoint)
}

// Pick implements upstream.Observer.
func (o *observer) Pick(how upstream.Outcome) {
	switch how {
	case upstream.NoneUsable:
		o.m.NoEndpoint.Inc()
	default: // Picked and its kin are counted as tries, Overflow by the breaker
	}
}

// Change implements upstream.Observer.
func (o *observer) Change(e upstream.Event) {
	switch e.Kind {
	case upstream.EndpointEjected:
		o.endpoint(e.Address).Ejections.Inc()
	case upstream.EndpointRemoved:
		o.endpoints.Delete(e.Address)
		o.m.Forget(e.Address)
	case upstream.PanicBegan:
		o.m.PanicMode.Set(1)
	case upstream.PanicEnded:
		o.m.PanicMode.Set(0)
	default: // health is looked up, see counts; so is the source
	}
}

// tries hands each try to the observer of its upstream.
type tries struct{ c *Compiler }

// Tried implements proxy.Observer.
func (t *tries) Tried(x *proxy.Try) {
	o := t.c.observer(x.Upstream)
	if x.Mirror {
		o.m.Mirrored.Inc()
	}
	switch {
	case x.Hedge:
		o.m.Hedges.Inc()
	case x.Number > 1:
		o.m.Retries.Inc()
	}
	if x.Endpoint != "" {
		o.endpoint(x.Endpoint).Try(outcome(x), x.Status, x.Latency)
	}
}

// connected counts the tries of connections that are passed on.
func (t *tries) connected(x *l4.Try) {
	o := t.c.observer(x.Upstream)
	if x.Number > 1 {
		o.m.Retries.Inc()
	}
	o.endpoint(x.Endpoint).Try(outcome(&proxy.Try{Failure: x.Failure}), 0, x.Took)
}

// RetryDenied implements proxy.Observer.
func (t *tries) RetryDenied(upstream string) { t.c.observer(upstream).m.RetriesDenied.Inc() }

// Dropped implements proxy.Observer.
func (t *tries) Dropped(upstream string, why proxy.Drop) {
	o := t.c.observer(upstream)
	switch why {
	case proxy.DropBusy:
		o.m.Dropped(metrics.DropBusy)
	case proxy.DropTooLong:
		o.m.Dropped(metrics.DropTooLong)
	case proxy.DropUnavailable:
		o.m.Dropped(metrics.DropUnavailable)
	}
}

func outcome(x *proxy.Try) metrics.Outcome {
	switch x.Failure {
	case upstream.NoFailure:
		if x.Status >= 500 {
			return metrics.ServerError
		}
		return metrics.OK
	case upstream.FailedConnect:
		return metrics.ConnectFailure
	case upstream.FailedTLS:
		return metrics.TLSFailure
	case upstream.FailedTimeout:
		return metrics.Timeout
	case upstream.FailedProtocol:
		return metrics.ProtocolError
	case upstream.NotTried:
		return metrics.Canceled
	default:
		return metrics.Reset
	}
}

// observer returns an upstream's observer, the same one for the same name.
func (c *Compiler) observer(name string) *observer {
	if o, ok := c.observers.Load(name); ok {
		return o.(*observer)
	}
	o, _ := c.observers.LoadOrStore(name, &observer{m: c.settings.Metrics.Upstream(name)})
	return o.(*observer)
}

// Live is told that a result has become the running snapshot: its upstreams
// are counted from now on, those that it does not have are forgotten, and units
// that need the node to be reachable begin their work.
func (c *Compiler) Live(r *Result) {
	c.observers.Range(func(name, _ any) bool {
		if !slices.Contains(r.Upstreams, name.(string)) {
			c.observers.Delete(name)
		}
		return true
	})
	c.pruneKept(r.Snapshot.Units)
	c.watchCertificates(r.Snapshot.Units)
	r.Snapshot.Units.Each(func(_ string, u snapshot.Unit) {
		if l, ok := u.(interface{ Live() }); ok {
			l.Live()
		}
		if up, ok := u.(*upstream.Upstream); ok {
			c.observer(up.Name()).m.Watch(func() metrics.UpstreamCounts { return counts(up) })
		}
	})
}

// counts are what an upstream has counted itself.
func counts(up *upstream.Upstream) metrics.UpstreamCounts {
	s := up.Status()
	c := metrics.UpstreamCounts{Endpoints: make([]metrics.EndpointCounts, len(s.Endpoints))}
	c.Refused[metrics.LimitRequests] = s.Refused.Requests
	c.Refused[metrics.LimitConnections] = s.Refused.Connections
	c.Refused[metrics.LimitPending] = s.Refused.Pending
	c.Refused[metrics.LimitRetries] = s.Refused.Retries
	if from := s.Source; from != nil {
		c.Source = &metrics.SourceCounts{Kind: from.Kind, Age: from.Age, Failures: from.Failures, Endpoints: from.Endpoints}
		if from.Answered.IsZero() {
			c.Source.Age = -1
		}
	}
	for i, e := range s.Endpoints {
		c.Endpoints[i] = metrics.EndpointCounts{
			Address: e.Address, Healthy: e.Usable, Active: e.Active, Open: int64(e.Conns),
			Connects: e.Connects, ConnectFailures: e.ConnectFailures,
			ChecksPassed: e.ChecksPassed, ChecksFailed: e.ChecksFailed,
		}
	}
	return c
}
