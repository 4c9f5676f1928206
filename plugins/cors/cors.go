package cors

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/origin"
)

// Factory makes cors instances.
func Factory() plugins.Factory {
	return plugins.Define("cors", func(c *Config, s plugins.Settings) (plugins.Instance, error) {
		set, err := origin.Parse(c.Origins)
		if err != nil {
			return nil, fmt.Errorf("origins%w", err)
		}
		if err := set.AddRegex(c.OriginRegex); err != nil {
			return nil, fmt.Errorf("origin_regex%w", err)
		}
		v := s.Counter("gatehouse_cors_requests_total", "Requests from other origins, by what became of them.", "route", "result")
		p := &plugin{
			origins: set, credentials: c.Credentials, private: c.PrivateNetwork, refuse: c.Refuse,
			anyMethod: slices.Contains(c.Methods, "*"), anyHeader: slices.Contains(c.Headers, "*"),
			methods: strings.Join(c.Methods, ", "), headers: strings.Join(c.Headers, ", "), expose: strings.Join(c.Expose, ", "),
			maxAge:    strconv.Itoa(int(c.MaxAge.D() / time.Second)),
			preflight: v.WithLabelValues(s.Route.Name, "preflight"),
			allowed:   v.WithLabelValues(s.Route.Name, "allowed"),
			denied:    v.WithLabelValues(s.Route.Name, "denied"),
		}
		return plugins.Stateless(p.handle), nil
	})
}

type plugin struct {
	origins                          *origin.Set
	credentials, private, refuse     bool
	anyMethod, anyHeader             bool
	methods, headers, expose, maxAge string
	preflight, allowed, denied       prometheus.Counter
}

// The fields of this protocol, in the form fasthttp keeps them.
const (
	reqMethod    = "Access-Control-Request-Method"
	reqHeaders   = "Access-Control-Request-Headers"
	reqPrivate   = "Access-Control-Request-Private-Network"
	allowOrigin  = "Access-Control-Allow-Origin"
	allowCreds   = "Access-Control-Allow-Credentials"
	allowMethods = "Access-Control-Allow-Methods"
	allowHeaders = "Access-Control-Allow-Headers"
	allowPrivate = "Access-Control-Allow-Private-Network"
	exposed      = "Access-Control-Expose-Headers"
	maxAge       = "Access-Control-Max-Age"
)

func (p *plugin) handle(c *fiber.Ctx) error {
	q := &c.Request().Header
	sent := q.PeekAll(fasthttp.HeaderOrigin)
	switch {
	case len(sent) == 0:
		err := c.Next()
		p.own(&c.Response().Header, nil)
		return err
	case q.IsOptions() && len(q.Peek(reqMethod)) > 0:
		return p.answer(c, sent)
	}
	ok := p.permits(sent)
	if !ok && p.refuse {
		p.denied.Inc()
		p.own(&c.Response().Header, nil)
		return reason.CORSDenied.Because("origin %q", sent[0])
	}
	var granted []byte
	if ok {
		granted = keep(exchange.From(c), sent[0]) // who comes next may change the request's header
	}
	err := c.Next()
	if ok {
		p.allowed.Inc()
		p.own(&c.Response().Header, granted)
	} else {
		p.denied.Inc()
		p.own(&c.Response().Header, nil)
	}
	return err
}

// keep copies b into the request's own memory.
func keep(e *exchange.Exchange, b []byte) []byte {
	at := len(e.Scratch)
	e.Scratch = append(e.Scratch, b...)
	return e.Scratch[at:len(e.Scratch):len(e.Scratch)]
}

// permits is true for one Origin header that the config has.
func (p *plugin) permits(sent [][]byte) bool { return len(sent) == 1 && p.origins.Has(sent[0]) }

// answer answers a preflight; the upstream is not asked.
func (p *plugin) answer(c *fiber.Ctx, sent [][]byte) error {
	h := &c.Response().Header
	vary(h, reqMethod)
	vary(h, reqHeaders)
	if p.private {
		vary(h, reqPrivate)
	}
	if !p.permits(sent) {
		p.denied.Inc()
		p.own(h, nil)
		return reason.CORSDenied.Because("preflight of origin %q", sent[0])
	}
	p.preflight.Inc()
	p.own(h, sent[0])
	h.Del(exposed)
	q := &c.Request().Header
	p.echo(h, allowMethods, p.methods, q.Peek(reqMethod), p.anyMethod)
	p.echo(h, allowHeaders, p.headers, q.Peek(reqHeaders), p.anyHeader)
	if p.private && string(q.Peek(reqPrivate)) == "true" {
		h.Set(allowPrivate, "true")
	}
	h.Set(maxAge, p.maxAge)
	c.Response().SetStatusCode(fiber.StatusNoContent)
	return nil
}

// echo grants the configured list, or what was asked for where anything goes:
// a literal * would not cover Authorization and requests with credentials.
func (p *plugin) echo(h *fasthttp.ResponseHeader, name, list string, asked []byte, anything bool) {
	switch {
	case !anything:
		if list != "" {
			h.Set(name, list)
		}
	case len(asked) > 0 && tokens(asked):
		h.SetBytesV(name, asked)
	}
}

// tokens reports whether b is a list of header names and nothing else.
func tokens(b []byte) bool {
	for len(b) > 0 {
		var t []byte
		if i := bytes.IndexByte(b, ','); i >= 0 {
			t, b = b[:i], b[i+1:]
		} else {
			t, b = b, nil
		}
		if t = bytes.Trim(t, " \t"); len(t) == 0 {
			return false
		}
		for _, c := range t {
			if !httpguts.IsTokenRune(rune(c)) {
				return false
			}
		}
	}
	return true
}

// own makes the reply say what this policy says and nothing else: an
// upstream's own words beside ours would make two answers. granted is the
// origin that may read the reply, nil for none.
func (p *plugin) own(h *fasthttp.ResponseHeader, granted []byte) {
	for _, n := range [...]string{allowOrigin, allowCreds, allowMethods, allowHeaders, allowPrivate, exposed, maxAge} {
		h.Del(n)
	}
	anybody := p.origins.Any && !p.credentials
	if !anybody {
		vary(h, fasthttp.HeaderOrigin) // also without Origin: a cache must not give this reply to others
	}
	if granted == nil {
		return
	}
	if anybody {
		h.Set(allowOrigin, "*")
	} else {
		h.SetBytesV(allowOrigin, granted)
	}
	if p.credentials {
		h.Set(allowCreds, "true")
	}
	if p.expose != "" {
		h.Set(exposed, p.expose)
	}
}

// vary adds name to Vary unless it is there.
func vary(h *fasthttp.ResponseHeader, name string) {
	for _, line := range h.PeekAll(fasthttp.HeaderVary) {
		for len(line) > 0 {
			var t []byte
			if i := bytes.IndexByte(line, ','); i >= 0 {
				t, line = line[:i], line[i+1:]
			} else {
				t, line = line, nil
			}
			t = bytes.Trim(t, " \t")
			if len(t) == 1 && t[0] == '*' || strings.EqualFold(string(t), name) {
				return
			}
		}
	}
	h.Add(fasthttp.HeaderVary, name)
}
