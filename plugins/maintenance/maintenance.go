package maintenance

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/netip"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Factory makes maintenance instances.
func Factory() plugins.Factory {
	return plugins.Define("maintenance", func(c *Config, s plugins.Settings) (plugins.Instance, error) {
		v := s.Counter("gatehouse_maintenance_requests_total", "Requests during maintenance, by what became of them.", "route", "result")
		p := &plugin{
			enabled: c.Enabled, from: c.From, until: c.Until, header: c.Bypass.Header,
			refusal:  &reason.Refusal{Reason: reason.Maintenance, Status: c.Status},
			refused:  v.WithLabelValues(s.Route.Name, "refused"),
			bypassed: v.WithLabelValues(s.Route.Name, "bypassed"),
		}
		for _, n := range c.Bypass.Networks {
			p.networks = append(p.networks, unmap(n))
		}
		if secret := c.Bypass.Secret.Reveal(); secret != "" {
			p.secret, p.digest = true, sha256.Sum256([]byte(secret))
		}
		if d := c.RetryAfter.D(); d > 0 {
			p.retry = seconds(d)
		}
		return plugins.Stateless(p.handle), nil
	})
}

type plugin struct {
	enabled           bool
	from, until       time.Time
	retry             string // Retry-After without until, "" for none
	networks          []netip.Prefix
	header            string
	secret            bool
	digest            [sha256.Size]byte
	refusal           *reason.Refusal // shared by all requests, never changed
	refused, bypassed prometheus.Counter
}

// unmap makes a network of IPv4 addresses in IPv6 form one of IPv4.
func unmap(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// seconds is d as Retry-After has it, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

func (p *plugin) handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	known := p.knows(&c.Request().Header) // always, so that the secret never goes on
	if !p.enabled {
		return c.Next()
	}
	now := time.Now()
	if now.Before(p.from) || !p.until.IsZero() && !now.Before(p.until) {
		return c.Next()
	}
	if known || p.near(e.Client) {
		p.bypassed.Inc()
		return c.Next()
	}
	p.refused.Inc()
	h := &c.Response().Header
	switch {
	case !p.until.IsZero():
		h.Set(fasthttp.HeaderRetryAfter, seconds(p.until.Sub(now)))
	case p.retry != "":
		h.Set(fasthttp.HeaderRetryAfter, p.retry)
	}
	return p.refusal
}

// knows takes the secret out of the request. Comparing digests makes the time
// taken tell nothing, not even the length.
func (p *plugin) knows(q *fasthttp.RequestHeader) bool {
	if !p.secret {
		return false
	}
	sent := q.Peek(p.header)
	if len(sent) == 0 {
		return false
	}
	digest := sha256.Sum256(sent)
	q.Del(p.header)
	return subtle.ConstantTimeCompare(digest[:], p.digest[:]) == 1
}

func (p *plugin) near(client netip.Addr) bool {
	client = client.Unmap().WithZone("")
	for _, n := range p.networks {
		if n.Contains(client) {
			return true
		}
	}
	return false
}
