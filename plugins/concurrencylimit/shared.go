package concurrencylimit

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// shared is an instance whose places are the fleet's.
type shared struct {
	slots   ratelimit.Slots
	key     *attribute.Key // nil: one count for the route
	missing string
	retry   string
	scratch sync.Pool // of *[]byte

	allowed, refused, skipped prometheus.Counter
	inFlight                  prometheus.Gauge
	sources                   [ratelimit.Sources]prometheus.Counter
}

var _ exchange.Releaser = (*shared)(nil)

// maxPooledKey keeps one huge header from pinning memory.
const maxPooledKey = 8 << 10

func buildShared(c *Config, s plugins.Settings, fleet ratelimit.Fleet) (plugins.Instance, error) {
	count := s.Counter("gatehouse_concurrency_limit_requests_total",
		"Requests by what the concurrency limit decided.", "route", "result")
	by := s.Counter("gatehouse_concurrency_limit_decisions_total",
		"Requests that a concurrency limit of scope global was asked about, by who decided.", "route", "source")
	route := s.Route.Name
	p := &shared{
		missing: c.MissingKey, retry: strconv.FormatInt(int64((c.RetryAfter.D()+time.Second-1)/time.Second), 10),
		allowed:  count.WithLabelValues(route, "allowed"),
		refused:  count.WithLabelValues(route, "refused"),
		skipped:  count.WithLabelValues(route, "skipped"),
		inFlight: s.Gauge("gatehouse_concurrency_limit_in_flight", "Requests that hold a place.", "route").WithLabelValues(route),
	}
	s.Gauge("gatehouse_concurrency_limit_limit", "Requests allowed at once for a key.", "route").WithLabelValues(route).Set(float64(c.Limit))
	for i := range p.sources {
		p.sources[i] = by.WithLabelValues(route, ratelimit.Source(i).String())
	}
	p.scratch.New = func() any { return new([]byte) }
	if c.Key != "route" {
		var err error
		if p.key, err = attribute.NewKey(c.key()); err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
	}
	var err error
	p.slots, err = fleet.Slots(ratelimit.SlotsSettings{
		Name:  c.place(route),
		Limit: c.Limit, OnFailure: ratelimit.ParseOnFailure(c.OnStoreFailure),
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Start implements plugins.Instance.
func (p *shared) Start(context.Context) error { return nil }

// Close implements plugins.Instance. Places still held are given back later.
func (p *shared) Close(context.Context) error {
	p.slots.Close()
	return nil
}

// Handle implements plugins.Instance.
func (p *shared) Handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	room := p.scratch.Get().(*[]byte)
	key, complete := (*room)[:0], true
	if p.key != nil {
		key, complete = p.key.Append(key, c.Context(), e)
	}
	if !complete && p.missing != "share" {
		p.put(room, key)
		if p.missing == "skip" {
			p.skipped.Inc()
			return c.Next()
		}
		return p.refuse(c, reason.ConcurrencyLimited.Because("the request lacks a part of the key %s", p.key))
	}
	id, ok, from := p.slots.Enter(key)
	p.put(room, key)
	p.sources[from].Inc()
	switch {
	case ok:
		p.allowed.Inc()
		p.inFlight.Inc()
		e.Hold(p, id)
		return c.Next()
	case from == ratelimit.Closed:
		return p.refuse(c, reason.LimitUnavailable.Because("the store does not answer"))
	}
	return p.refuse(c, reason.ConcurrencyLimited)
}

func (p *shared) put(room *[]byte, key []byte) {
	if cap(key) <= maxPooledKey {
		*room = key
		p.scratch.Put(room)
	}
}

// Release implements exchange.Releaser.
func (p *shared) Release(_ *exchange.Exchange, id uint64) {
	p.inFlight.Dec()
	p.slots.Leave(id)
}

func (p *shared) refuse(c *fiber.Ctx, why error) error {
	p.refused.Inc()
	c.Response().Header.Set(fiber.HeaderRetryAfter, p.retry)
	return why
}
