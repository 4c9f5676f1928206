package csrf

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/origin"
)

// Factory makes csrf instances.
func Factory() plugins.Factory {
	return plugins.Define("csrf", func(c *Config, s plugins.Settings) (plugins.Instance, error) {
		set, err := origin.Parse(c.TrustedOrigins)
		if err != nil {
			return nil, fmt.Errorf("trusted_origins%w", err)
		}
		p := &plugin{
			trusted: set, sameSite: c.SameSite, websocket: c.WebSocket, exact: map[string]struct{}{},
			refused: s.Counter("gatehouse_csrf_refused_total", "Requests refused because a foreign site sent them.", "route").WithLabelValues(s.Route.Name),
		}
		for _, path := range c.Exempt {
			if prefix, ok := strings.CutSuffix(path, "/*"); ok {
				p.prefixes = append(p.prefixes, prefix)
			} else {
				p.exact[path] = struct{}{}
			}
		}
		return plugins.Stateless(p.handle), nil
	})
}

type plugin struct {
	trusted             *origin.Set
	sameSite, websocket bool
	exact               map[string]struct{}
	prefixes            []string
	refused             prometheus.Counter
}

func (p *plugin) handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	q := &c.Request().Header
	if p.harmless(q, e) || p.exempt(e.Path) {
		return c.Next()
	}
	if why := p.foreign(q); why != "" {
		p.refused.Inc()
		return reason.CSRF.Because("%s: Sec-Fetch-Site %q, Origin %q", why, q.Peek("Sec-Fetch-Site"), q.Peek(fasthttp.HeaderOrigin))
	}
	return c.Next()
}

// harmless methods must not change anything (RFC 9110, 9.2.1).
func (p *plugin) harmless(q *fasthttp.RequestHeader, e *exchange.Exchange) bool {
	if !q.IsGet() && !q.IsHead() && !q.IsOptions() {
		return false
	}
	if !p.websocket {
		return true
	}
	_, upgrade := e.Front.WantsUpgrade()
	return !upgrade
}

// exempt looks at the normalised path, as routing does.
func (p *plugin) exempt(path string) bool {
	if _, ok := p.exact[path]; ok {
		return true
	}
	for _, prefix := range p.prefixes {
		if rest, ok := strings.CutPrefix(path, prefix); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// foreign says why a request counts as sent by a foreign site, "" if it does
// not. Browsers send Sec-Fetch-Site since 2023 and Origin with every POST
// since 2020; a request with neither comes from no browser, and then nobody's
// cookies were borrowed.
func (p *plugin) foreign(q *fasthttp.RequestHeader) (why string) {
	site, one := single(q, "Sec-Fetch-Site")
	sent, also := single(q, fasthttp.HeaderOrigin)
	if !one || !also {
		return "repeated header"
	}
	if len(site) > 0 {
		switch s := string(site); {
		case s == "same-origin" || s == "none" || s == "same-site" && p.sameSite:
			return ""
		case len(sent) > 0 && p.trusted.Has(sent):
			return ""
		}
		return "cross-site"
	}
	switch {
	case len(sent) == 0 || p.trusted.Has(sent):
		return ""
	case bytes.EqualFold(origin.Host(sent), q.Host()) && len(q.Host()) > 0:
		return "" // the scheme is not compared: TLS may end before us
	}
	return "cross-origin"
}

// single is the value of a header that must not be repeated. fasthttp reuses
// the list that PeekAll returns, so it must not outlive the next call.
func single(q *fasthttp.RequestHeader, name string) (value []byte, ok bool) {
	all := q.PeekAll(name)
	if len(all) == 0 {
		return nil, true
	}
	return all[0], len(all) == 1
}
