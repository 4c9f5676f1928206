package clientcert

import (
	"slices"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// name is the plugin's, and the method of the identities it establishes.
const name = "client_certificate"

// Factory makes the plugin client_certificate.
func Factory() plugins.Factory { return plugins.Define(name, build).NeedsConsumers() }

type plugin struct {
	consumers     *plugins.Directory
	groups        []string
	anonymous     bool
	acceptUnknown bool

	accepted, missing, refused prometheus.Counter
}

func build(c *Config, s plugins.Settings) (plugins.Instance, error) {
	count := s.Counter("gatehouse_client_certificate_requests_total",
		"Requests by what became of their client certificate.", "route", "result")
	p := &plugin{
		consumers: s.Consumers, groups: c.Groups, anonymous: c.Anonymous, acceptUnknown: c.AcceptUnknown,
		accepted: count.WithLabelValues(s.Route.Name, "accepted"),
		missing:  count.WithLabelValues(s.Route.Name, "missing"),
		refused:  count.WithLabelValues(s.Route.Name, "refused"),
	}
	if p.consumers == nil {
		p.consumers = plugins.NewDirectory(nil)
	}
	return plugins.Stateless(p.handle), nil
}

func (p *plugin) handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	t := e.TLS
	if t == nil || t.Peer == nil {
		p.missing.Inc()
		if p.anonymous {
			return c.Next()
		}
		return reason.TLSClientCertificate.Because("no client certificate")
	}
	who := p.consumers.ByCertificate(t)
	switch {
	case who == nil && p.acceptUnknown:
		p.accepted.Inc()
		e.Identity = exchange.Identity{Method: name, Subject: subject(t)}
		return c.Next()
	case who == nil:
		p.refused.Inc()
		return reason.Forbidden.Because("no consumer lists the client certificate %q, sha256:%s", subject(t), t.Fingerprint)
	case len(p.groups) > 0 && !slices.ContainsFunc(who.Groups, p.allows):
		p.refused.Inc()
		return reason.Forbidden.Because("consumer %s is in none of the groups %v", who.Name, p.groups)
	}
	p.accepted.Inc()
	e.Identity = exchange.Identity{Consumer: &who.Consumer, Method: name, Subject: subject(t)}
	return c.Next()
}

func (p *plugin) allows(group string) bool { return slices.Contains(p.groups, group) }

// subject is what the certificate itself calls its owner.
func subject(t *exchange.TLS) string {
	if t.SPIFFEID != "" {
		return t.SPIFFEID
	}
	return t.Subject
}
