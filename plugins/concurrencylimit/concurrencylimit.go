package concurrencylimit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// Factory makes the plugin concurrency_limit. fleet makes limits of scope global;
// nil makes them local ones, for commands that run no traffic.
func Factory(fleet ratelimit.Fleet) plugins.Factory {
	return plugins.Define("concurrency_limit", func(c *Config, s plugins.Settings) (plugins.Instance, error) {
		if c.Scope == "global" && fleet != nil {
			return buildShared(c, s, fleet)
		}
		return build(c, s)
	})
}

type plugin struct {
	gates   *gates
	limit   atomic.Int64
	key     *attribute.Key // nil: one count for the route
	missing string
	retry   string
	learn   *gradient // nil: the limit is fixed
	base    time.Time

	allowed, waited, refused, skipped prometheus.Counter
	limitNow, inFlight                prometheus.Gauge
}

var _ exchange.Releaser = (*plugin)(nil)

func build(c *Config, s plugins.Settings) (plugins.Instance, error) {
	count := s.Counter("gatehouse_concurrency_limit_requests_total",
		"Requests by what the concurrency limit decided.", "route", "result")
	route := s.Route.Name
	p := &plugin{
		missing: c.MissingKey, base: time.Now(),
		retry:    strconv.FormatInt(int64((c.RetryAfter.D()+time.Second-1)/time.Second), 10),
		allowed:  count.WithLabelValues(route, "allowed"),
		waited:   count.WithLabelValues(route, "allowed_after_wait"),
		refused:  count.WithLabelValues(route, "refused"),
		skipped:  count.WithLabelValues(route, "skipped"),
		limitNow: s.Gauge("gatehouse_concurrency_limit_limit", "Requests allowed at once for a key.", "route").WithLabelValues(route),
		inFlight: s.Gauge("gatehouse_concurrency_limit_in_flight", "Requests that hold a place.", "route").WithLabelValues(route),
	}
	p.limit.Store(int64(c.Limit))
	p.limitNow.Set(float64(c.Limit))
	if c.Key != "route" {
		settings := c.key()
		settings.Seed = rand.Uint64() // clients must not be able to choose keys that collide
		key, err := attribute.NewKey(settings)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		p.key = key
	}
	p.gates = newGates(&p.limit, c.Queue, c.MaxWait.D(), p.key != nil)
	if c.Adaptive != nil {
		p.learn = newGradient(&p.limit, *c.Adaptive)
	}
	return p, nil
}

// Start implements plugins.Instance.
func (p *plugin) Start(context.Context) error { return nil }

// Close implements plugins.Instance. Places still held are given back later.
func (p *plugin) Close(context.Context) error { return nil }

// Handle implements plugins.Instance.
func (p *plugin) Handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	var key uint64
	if p.key != nil {
		var complete bool
		key, complete = p.key.Hash(c.Context(), e)
		if !complete && p.missing == "skip" {
			p.skipped.Inc()
			return c.Next()
		}
		if !complete && p.missing == "refuse" {
			return p.refuse(c, reason.ConcurrencyLimited.Because("the request lacks a part of the key %s", p.key))
		}
	}
	switch p.gates.enter(e, key) {
	case entered:
		p.allowed.Inc()
	case enteredLate:
		p.waited.Inc()
	case full:
		return p.refuse(c, reason.ConcurrencyLimited)
	case tooLate:
		return p.refuse(c, reason.ConcurrencyLimited.Because("waited %v in the queue", p.gates.wait))
	case gone:
		if errors.Is(e.Context().Err(), context.DeadlineExceeded) {
			return p.refuse(c, reason.RequestTimeout.Because("while waiting in the queue"))
		}
		return p.refuse(c, reason.ClientGone.Because("while waiting in the queue"))
	}
	p.inFlight.Inc()
	e.Hold(p, key)
	if p.learn == nil {
		return c.Next()
	}
	began := time.Since(p.base)
	err := c.Next()
	p.observe(e, began)
	return err
}

// observe learns from the time to the reply's head, which does not depend on
// how fast the client reads or how long a stream lasts. Failures that answer
// at once say nothing; a timeout does.
func (p *plugin) observe(e *exchange.Exchange, began time.Duration) {
	slow := e.Refusal != nil && (e.Refusal.Reason == reason.UpstreamTimeout || e.Refusal.Reason == reason.RequestTimeout)
	if e.Upstream.Status == 0 && !slow {
		return
	}
	now := time.Since(p.base)
	p.learn.observe(int64(now), now-began, p.gates.inFlight(0))
	p.limitNow.Set(float64(p.limit.Load()))
}

// Release implements exchange.Releaser.
func (p *plugin) Release(_ *exchange.Exchange, key uint64) {
	p.inFlight.Dec()
	p.gates.leave(key)
}

func (p *plugin) refuse(c *fiber.Ctx, why error) error {
	p.refused.Inc()
	c.Response().Header.Set(fiber.HeaderRetryAfter, p.retry)
	return why
}
