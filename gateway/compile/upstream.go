package compile

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
)

const upstreamKey = "upstream/"

func (b *build) upstreams() {
	for _, name := range slices.Sorted(maps.Keys(b.cfg.Upstreams)) {
		c := b.cfg.Upstreams[name]
		key := upstreamKey + name
		b.paths[key] = "upstreams." + name
		sum := digest(c, b.settings.Zone, b.dirOf(c.TLS), b.sourceDir(c))
		b.upstreamDigests[name] = sum
		d, taken, err := b.dialer(name, c)
		if err != nil {
			b.fail(key, err)
			continue
		}
		b.dialers[name] = d
		trust, same := b.sourceTrust(name, c)
		if taken && same {
			if _, same := b.units.Reuse(b.prev, key, sum); same {
				continue
			}
		}
		before, _ := b.prev.Lookup(key).(*upstream.Upstream)
		s := b.upstreamSettings(name, c, d)
		if s.Source, s.AllowEmpty, err = b.source(name, c, trust); err != nil {
			b.fail(key, err)
			continue
		}
		u, err := upstream.New(s, before)
		if err != nil {
			b.fail(key, err)
			continue
		}
		b.units.Add(key, sum, u)
	}
}

// upstream finds a built upstream; nil if it is broken.
func (b *build) upstream(name string) *upstream.Upstream {
	u, _ := b.units.Lookup(upstreamKey + name).(*upstream.Upstream)
	return u
}

func (b *build) upstreamSettings(name string, c config.Upstream, d *dial.Dialer) upstream.Settings {
	s := upstream.Settings{
		Name: name, Algorithm: upstream.Algorithm(c.LoadBalancer.Algorithm),
		SlowStart: c.LoadBalancer.SlowStart.D(), PanicThreshold: c.LoadBalancer.PanicThreshold,
		LocalZone: b.settings.Zone,
		Outlier: upstream.OutlierSettings{
			Enabled: c.OutlierDetection.Enabled, ConsecutiveErrors: c.OutlierDetection.ConsecutiveErrors,
			Interval: c.OutlierDetection.Interval.D(), BaseEjection: c.OutlierDetection.BaseEjection.D(),
			MaxEjection: c.OutlierDetection.MaxEjection.D(), MaxEjectedPercent: c.OutlierDetection.MaxEjectedPercent,
		},
		Breaker: upstream.BreakerSettings{
			MaxConnections: c.CircuitBreaker.MaxConnections, MaxRequests: c.CircuitBreaker.MaxRequests,
			MaxPending: c.CircuitBreaker.MaxPending, MaxRetries: c.CircuitBreaker.MaxRetries,
		},
		PoolKey: digest(c.Connection, c.Protocol, b.dialerDigest(c)),
		Log:     b.settings.Log, Dial: d.Dial,
	}
	for _, e := range c.Endpoints {
		s.Endpoints = append(s.Endpoints, upstream.EndpointSettings{Address: e.Address, Weight: e.Weight, Zone: e.Zone, Priority: e.Priority})
	}
	if h := c.HealthCheck; h != nil {
		s.HealthCheck = &upstream.HealthSettings{
			Type: h.Type, Port: h.Port, Path: h.Path, Host: h.Host, Service: h.Service, HTTP2: c.Protocol == "h2c", Expect: statusRanges(h.Expect),
			Interval: h.Interval.D(), Timeout: h.Timeout.D(), Healthy: h.Healthy, Unhealthy: h.Unhealthy, Jitter: h.Jitter,
		}
	}
	if h := s.HealthCheck; h != nil && c.TLS != nil {
		if h.Host == "" {
			h.Host = serverName(c)
		}
		if h.Type == "grpc" {
			s.Dial = d.Offering("h2").Dial
		}
	}
	s.NewPool = b.pools(name, c, d).of
	s.Observer = b.observer(name)
	return s
}

// statusRanges reads "200,204-299", which validation has checked.
func statusRanges(s string) []upstream.StatusRange {
	var out []upstream.StatusRange
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.Atoi(from)
		z, errZ := strconv.Atoi(to)
		if errA == nil && errZ == nil {
			out = append(out, upstream.StatusRange{From: a, To: z})
		}
	}
	return out
}

// UpstreamStatus is the state of every upstream of a snapshot, by name.
func UpstreamStatus(s *snapshot.Snapshot) map[string]upstream.Status {
	out := map[string]upstream.Status{}
	s.Units.Each(func(key string, u snapshot.Unit) {
		if up, ok := u.(*upstream.Upstream); ok {
			out[strings.TrimPrefix(key, upstreamKey)] = up.Status()
		}
	})
	return out
}
