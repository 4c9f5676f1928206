package forwardauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

const id = "forward_auth"

// Factory makes the plugin forward_auth.
func Factory() plugins.Factory { return plugins.Define(id, build).NeedsConsumers() }

type plugin struct {
	cfg       *Config
	service   *service
	cache     *cache // nil: none
	consumers *plugins.Directory
	log       *slog.Logger

	allowed, cached, denied, unavailable, opened prometheus.Counter
}

func build(c *Config, s plugins.Settings) (plugins.Instance, error) {
	ca := c.CAFile
	if ca != "" && !filepath.IsAbs(ca) {
		ca = filepath.Join(s.Dir, ca)
	}
	service, err := newService(c, ca)
	if err != nil {
		return nil, err
	}
	count := s.Counter("gatehouse_forward_auth_requests_total", "Requests by what the service said.", "route", "result")
	p := &plugin{
		cfg: c, service: service, cache: newCache(c.Cache, c.RequestHeaders), consumers: s.Consumers, log: s.Log,
		allowed:     count.WithLabelValues(s.Route.Name, "allowed"),
		cached:      count.WithLabelValues(s.Route.Name, "allowed_cached"),
		denied:      count.WithLabelValues(s.Route.Name, "denied"),
		unavailable: count.WithLabelValues(s.Route.Name, "unavailable"),
		opened:      count.WithLabelValues(s.Route.Name, "failed_open"),
	}
	if p.consumers == nil {
		p.consumers = plugins.NewDirectory(nil)
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p, nil
}

// Start implements plugins.Instance.
func (p *plugin) Start(context.Context) error { return nil }

// Close implements plugins.Instance.
func (p *plugin) Close(context.Context) error {
	p.service.client.CloseIdleConnections()
	return nil
}

// Handle implements plugins.Instance.
func (p *plugin) Handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	var key [sha256.Size]byte
	if p.cache != nil {
		key = p.cache.key(e)
		if v := p.cache.get(key); v != nil {
			p.cached.Inc()
			p.enrich(e, v)
			return c.Next()
		}
	}
	v, err := p.service.ask(e)
	switch {
	case err != nil || v.status == 502 || v.status == 503 || v.status == 504:
		return p.failed(c, e, v, err)
	case v.ok():
		p.allowed.Inc()
		if p.cache != nil {
			p.cache.put(key, v)
		}
		p.enrich(e, v)
		return c.Next()
	case v.status < 300 || v.status == 304 || v.status >= 500:
		p.unavailable.Inc()
		return reason.AuthUnavailable.Because("%s answered with status %d", p.service.url.Host, v.status)
	default:
		p.denied.Inc()
		return p.deny(c, e, v)
	}
}

// failed is for a service that is away. A failure that the request itself may
// have caused, such as status 500, never opens.
func (p *plugin) failed(c *fiber.Ctx, e *exchange.Exchange, v *verdict, err error) error {
	if e.Context().Err() != nil && !errors.Is(e.Context().Err(), context.DeadlineExceeded) {
		return reason.ClientGone.Wrap(err)
	}
	var why error
	if err != nil {
		why = reason.AuthUnavailable.Because("%s: %v", p.service.url.Host, err)
	} else {
		why = reason.AuthUnavailable.Because("%s answered with status %d", p.service.url.Host, v.status)
	}
	if !p.cfg.FailOpen {
		p.unavailable.Inc()
		return why
	}
	p.opened.Inc()
	p.log.Warn("a request passes without authorization, as fail_open says", "error", why)
	p.strip(e)
	return c.Next()
}

// enrich gives the upstream what the service said, and nothing of that name
// from anybody else.
func (p *plugin) enrich(e *exchange.Exchange, v *verdict) {
	p.strip(e)
	h := &e.Ctx.Request.Header
	consumer := ""
	for _, f := range v.headers {
		if wire.SameName(f.name, p.cfg.ConsumerHeader) && consumer == "" {
			consumer = f.value
		}
		if forwards(p, f.name) {
			h.Add(f.name, f.value)
		}
	}
	if consumer == "" {
		return
	}
	e.Identity = exchange.Identity{Consumer: &exchange.Consumer{Name: consumer}, Method: id, Subject: consumer}
	if known := p.consumers.ByName(consumer); known != nil {
		e.Identity.Consumer = &known.Consumer
	}
}

func forwards[T string | []byte](p *plugin, name T) bool {
	for _, n := range p.cfg.UpstreamHeaders {
		if wire.SameName(name, n) {
			return true
		}
	}
	return false
}

// strip removes the client's own headers of the names that the service sets,
// also with underscores for dashes, which many applications take for the same.
func (p *plugin) strip(e *exchange.Exchange) {
	h := &e.Ctx.Request.Header
	var found []string
	for k := range h.All() {
		if forwards(p, k) || p.cfg.ConsumerHeader != "" && wire.SameName(k, p.cfg.ConsumerHeader) {
			found = append(found, string(k))
		}
	}
	for _, k := range found {
		h.Del(k)
	}
}

// deny passes the service's denial on. The exchange notes it as a refusal,
// but the reply is the service's own.
func (p *plugin) deny(c *fiber.Ctx, e *exchange.Exchange, v *verdict) error {
	why := reason.ExternalDenied.Because("%s answered with status %d", p.service.url.Host, v.status)
	why.Status = v.status
	resp := c.Response()
	ours := v.body == nil || e.RPC.Kind != grpc.None // a gRPC client reads no page
	for _, f := range v.headers {
		if !ours || !wire.SameName(f.name, fiber.HeaderContentType) {
			resp.Header.Add(f.name, f.value)
		}
	}
	if ours {
		return why
	}
	_ = e.Refuse(why) // noted, not answered: the reply is written here
	e.RefusedBy = id
	resp.SetStatusCode(v.status)
	resp.Header.Set(fiber.HeaderCacheControl, "no-store")
	resp.SetBodyRaw(v.body)
	return nil
}
