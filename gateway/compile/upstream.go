package compile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http1"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
)

const upstreamKey = "upstream/"

func (b *build) upstreams() {
	for _, name := range slices.Sorted(maps.Keys(b.cfg.Upstreams)) {
		c := b.cfg.Upstreams[name]
		key := upstreamKey + name
		b.paths[key] = "upstreams." + name
		sum := digest(c, b.settings.Zone, b.dirOf(c.TLS))
		b.upstreamDigests[name] = sum
		d, taken, err := b.dialer(name, c)
		if err != nil {
			b.fail(key, err)
			continue
		}
		if taken {
			if _, same := b.units.Reuse(b.prev, key, sum); same {
				continue
			}
		}
		before, _ := b.prev.Lookup(key).(*upstream.Upstream)
		u, err := upstream.New(b.upstreamSettings(name, c, d), before)
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
	if d := c.DNS; d != nil {
		s.DNS = &upstream.DNSSettings{Name: d.Name, Refresh: d.Refresh.D(), Server: d.Server}
	}
	if h := c.HealthCheck; h != nil {
		s.HealthCheck = &upstream.HealthSettings{
			Type: h.Type, Path: h.Path, Host: h.Host, Service: h.Service, HTTP2: c.Protocol == "h2c", Expect: statusRanges(h.Expect),
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
	s.NewPool = b.pools(name, c, d)
	s.Observer = b.observer(name)
	return s
}

// pools makes the connections of endpoints by what these speak.
func (b *build) pools(name string, u config.Upstream, d *dial.Dialer) func(string, *upstream.Breaker) upstream.Pool {
	c := u.Connection
	if u.Protocol == "h2c" {
		manager := b.http2
		return func(address string, breaker *upstream.Breaker) upstream.Pool {
			return http2.NewPool(http2.Settings{
				Address: address, DialTimeout: c.Timeout.D(), IdleTimeout: c.Idle.D(), KeepNone: c.MaxIdle == 0,
				Limiter: breaker, Manager: manager,
			})
		}
	}
	log, manager := b.settings.Log, b.http1
	return func(address string, breaker *upstream.Breaker) upstream.Pool {
		maxIdle := c.MaxIdle
		if maxIdle == 0 {
			maxIdle = -1
		}
		return http1.NewPool(http1.Settings{
			Address: address, DialTimeout: c.Timeout.D(), IdleTimeout: c.Idle.D(), MaxIdle: maxIdle,
			Limiter: breaker, Manager: manager, Dial: d.Dial,
			OnIdleClosed: func(idle time.Duration) {
				log.Debug("an upstream closed an idle connection before we did", "upstream", name, "endpoint", address,
					"idle", idle.Round(time.Millisecond), "hint", fmt.Sprintf("set upstreams.%s.connection.idle below it", name))
			},
		})
	}
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
