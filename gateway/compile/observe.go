package compile

import (
	"slices"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
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

func (o *observer) addresses() (all []string) {
	o.endpoints.Range(func(address, _ any) bool {
		all = append(all, address.(string))
		return true
	})
	return all
}

// Pick implements upstream.Observer.
func (o *observer) Pick(how upstream.Outcome) {
	switch how {
	case upstream.NoneUsable:
		o.m.NoEndpoint.Inc()
	case upstream.Overflow:
		o.m.Overflow(metrics.LimitRequests)
	default: // Picked and its kin are counted as tries
	}
}

// Change implements upstream.Observer.
func (o *observer) Change(e upstream.Event) {
	switch e.Kind {
	case upstream.EndpointUp, upstream.EndpointBack, upstream.EndpointAdded:
		o.endpoint(e.Address).Healthy.Set(1)
	case upstream.EndpointDown:
		o.endpoint(e.Address).Healthy.Set(0)
	case upstream.EndpointEjected:
		o.endpoint(e.Address).Healthy.Set(0)
		o.endpoint(e.Address).Ejections.Inc()
	case upstream.EndpointRemoved:
		o.endpoints.Delete(e.Address)
		o.m.RetainEndpoints(o.addresses())
	case upstream.PanicBegan:
		o.m.PanicMode.Set(1)
	case upstream.PanicEnded:
		o.m.PanicMode.Set(0)
	default: // resolving is in the log
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
	if x.Number > 1 {
		o.m.Retries.Inc()
	}
	if x.Endpoint != "" {
		o.endpoint(x.Endpoint).Try(outcome(x), x.Status, x.Latency)
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

// Retain forgets what was counted for upstreams that are not named.
func (c *Compiler) Retain(upstreams []string) {
	c.observers.Range(func(name, _ any) bool {
		if !slices.Contains(upstreams, name.(string)) {
			c.observers.Delete(name)
		}
		return true
	})
}
