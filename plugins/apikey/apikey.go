package apikey

import (
	"slices"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/credential"
)

// Factory makes the plugin api_key.
func Factory() plugins.Factory { return plugins.Define("api_key", build).NeedsConsumers() }

// maxKey bounds what is hashed for a stranger; generated keys have 20 to 100 bytes.
const maxKey = 4096

type plugin struct {
	source    *credential.Source
	consumers *plugins.Directory
	groups    []string
	anonymous bool
	forward   bool
	challenge string

	accepted, missing, refused prometheus.Counter
}

func build(c *Config, s plugins.Settings) (plugins.Instance, error) {
	count := s.Counter("gatehouse_api_key_requests_total",
		"Requests by what became of their API key.", "route", "result")
	p := &plugin{
		source:    credential.New(c.header(), c.Scheme, c.Query, c.Cookie),
		consumers: s.Consumers, groups: c.Groups, anonymous: c.Anonymous, forward: c.Forward,
		challenge: challenge(c),
		accepted:  count.WithLabelValues(s.Route.Name, "accepted"),
		missing:   count.WithLabelValues(s.Route.Name, "missing"),
		refused:   count.WithLabelValues(s.Route.Name, "refused"),
	}
	if p.consumers == nil {
		p.consumers = plugins.NewDirectory(nil)
	}
	return plugins.Stateless(p.handle), nil
}

// challenge names a scheme, as RFC 9110 11.6.1 asks of every 401. There is no
// registered one for API keys.
func challenge(c *Config) string {
	scheme := c.Scheme
	if scheme == "" {
		scheme = "ApiKey"
	}
	return scheme + ` realm="` + c.Realm + `"`
}

func (p *plugin) handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	key, err := p.source.Find(e)
	switch {
	case err != nil:
		p.refused.Inc()
		return p.refuse(c, reason.Unauthenticated.Wrap(err))
	case len(key) == 0 && p.anonymous:
		p.missing.Inc()
		if !p.forward {
			p.source.Remove(e)
		}
		return c.Next()
	case len(key) == 0:
		p.missing.Inc()
		return p.refuse(c, reason.Unauthenticated.Because("no API key"))
	case len(key) > maxKey:
		p.refused.Inc()
		return p.refuse(c, reason.Unauthenticated.Because("API key of %d bytes", len(key)))
	}
	who := p.consumers.ByAPIKey(key)
	if who == nil {
		p.refused.Inc()
		return p.refuse(c, reason.Unauthenticated.Because("unknown API key"))
	}
	if len(p.groups) > 0 && !slices.ContainsFunc(who.Groups, p.allows) {
		p.refused.Inc()
		return reason.Forbidden.Because("consumer %s is in none of the groups %v", who.Name, p.groups)
	}
	p.accepted.Inc()
	e.Identity = exchange.Identity{Consumer: &who.Consumer, Method: "api_key", Subject: who.Name}
	if !p.forward {
		p.source.Remove(e)
	}
	return c.Next()
}

func (p *plugin) allows(group string) bool { return slices.Contains(p.groups, group) }

func (p *plugin) refuse(c *fiber.Ctx, why error) error {
	c.Response().Header.Set(fiber.HeaderWWWAuthenticate, p.challenge)
	return why
}
