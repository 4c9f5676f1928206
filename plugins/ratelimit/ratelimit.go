package ratelimit

import (
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/cost"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// Factory makes the plugin rate_limit. fleet makes limits of scope global; nil
// makes them local ones, for commands that run no traffic.
func Factory(fleet ratelimit.Fleet) plugins.Factory {
	return plugins.Define("rate_limit", func(c *Config, s plugins.Settings) (plugins.Instance, error) { return build(c, s, fleet) })
}

var (
	headerRateLimit = []byte("RateLimit")
	headerPolicy    = []byte("RateLimit-Policy")
	headerRetry     = []byte(fasthttp.HeaderRetryAfter)
)

type plugin struct {
	limiter ratelimit.Limiter
	key     *attribute.Key
	missing string
	cost    *cost.Cost
	headers bool
	dryRun  bool
	// policy is the whole RateLimit-Policy value, names the quoted name of
	// each window.
	policy  []byte
	names   [][]byte
	scratch sync.Pool // of *scratch

	allowed, refused, dry, skipped prometheus.Counter
	overflow                       prometheus.Counter                     // of decisions without a bucket of the key's own
	sources                        *[ratelimit.Sources]prometheus.Counter // nil: scope local
}

// scratch is what one check needs beyond the stack.
type scratch struct {
	key      []byte
	decision ratelimit.Decision
}

const maxPooledKey = 8 << 10

func build(c *Config, s plugins.Settings, fleet ratelimit.Fleet) (plugins.Instance, error) {
	key, err := attribute.NewKey(c.key())
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	price, err := cost.New(c.Cost, c.CostFrom, c.most())
	if err != nil {
		return nil, fmt.Errorf("cost_from.expression: %w", err)
	}
	windows := c.windows()
	var limiter ratelimit.Limiter
	if c.Scope == "global" && fleet != nil {
		limiter, err = fleet.Limiter(ratelimit.SharedSettings{
			Name: c.place(s.Route.Name), Windows: windows, Leased: c.Mode == "leased", OnFailure: ratelimit.ParseOnFailure(c.OnStoreFailure), MaxKeys: c.MaxKeys,
		})
	} else {
		limiter, err = ratelimit.NewLocal(ratelimit.Settings{Windows: windows, MaxKeys: c.MaxKeys})
	}
	if err != nil {
		return nil, err
	}
	return newPlugin(c, s, key, limiter, price, windows), nil
}

func newPlugin(c *Config, s plugins.Settings, key *attribute.Key, l ratelimit.Limiter, price *cost.Cost, windows []ratelimit.Window) plugins.Instance {
	count := s.Counter("gatehouse_rate_limit_requests_total",
		"Requests by what the rate limit decided.", "route", "policy", "result")
	p := &plugin{
		limiter: l, key: key, missing: c.MissingKey, cost: price, headers: c.Headers, dryRun: c.DryRun,
		allowed: count.WithLabelValues(s.Route.Name, c.Name, "allowed"),
		refused: count.WithLabelValues(s.Route.Name, c.Name, "refused"),
		dry:     count.WithLabelValues(s.Route.Name, c.Name, "dry_run"),
		skipped: count.WithLabelValues(s.Route.Name, c.Name, "skipped"),
		overflow: s.Counter("gatehouse_rate_limit_overflow_total",
			"Decisions on buckets that keys share because max_keys others have one.", "route", "policy").WithLabelValues(s.Route.Name, c.Name),
	}
	if c.Scope == "global" {
		by := s.Counter("gatehouse_rate_limit_decisions_total",
			"Requests that a rate limit of scope global was asked about, by who decided.", "route", "policy", "source")
		p.sources = new([ratelimit.Sources]prometheus.Counter)
		for i := range p.sources {
			p.sources[i] = by.WithLabelValues(s.Route.Name, c.Name, ratelimit.Source(i).String())
		}
	}
	for i, w := range windows {
		name := c.Name
		if i > 0 {
			name += "-" + strconv.Itoa(i+1)
		}
		p.names = append(p.names, []byte(`"`+name+`"`))
		if i > 0 {
			p.policy = append(p.policy, ", "...)
		}
		p.policy = fmt.Appendf(p.policy, `"%s";q=%d;w=%d`, name, w.Limit, seconds(w.Per))
	}
	p.scratch.New = func() any { return &scratch{key: make([]byte, 0, 128)} }
	return plugins.Stateless(p.handle)
}

// seconds rounds up: a client told to wait must not come too early.
func seconds(d time.Duration) int64 {
	if d == ratelimit.Never {
		return math.MaxInt32
	}
	return int64((d + time.Second - 1) / time.Second)
}

func (p *plugin) handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	ctx := c.Context()
	s := p.scratch.Get().(*scratch)
	var complete bool
	s.key, complete = p.key.Append(s.key[:0], ctx, e)
	if !complete && p.missing != "share" {
		p.put(s)
		return p.noKey(c)
	}
	err := p.limiter.Take(s.key, p.cost.Of(ctx, e), &s.decision)
	d := s.decision
	p.put(s)
	if err != nil {
		return reason.LimitUnavailable.Wrap(err)
	}
	if p.sources != nil {
		p.sources[d.Source].Inc()
	}
	if d.Squeezed {
		p.overflow.Inc()
	}
	switch {
	case d.Allowed:
		p.allowed.Inc()
	case p.dryRun:
		p.dry.Inc()
	case d.Source == ratelimit.Closed:
		p.refused.Inc()
		return reason.LimitUnavailable.Because("the store does not answer")
	default:
		p.refused.Inc()
		p.tell(ctx, &d)
		p.retryAfter(ctx, &d)
		return reason.RateLimited
	}
	if !p.headers || d.Source == ratelimit.Open || d.Source == ratelimit.Closed {
		return c.Next() // and there is nothing to tell
	}
	err = c.Next()
	p.tell(ctx, &d)
	return err
}

// noKey deals with a request that lacks an attribute of the key.
func (p *plugin) noKey(c *fiber.Ctx) error {
	if p.missing == "skip" {
		p.skipped.Inc()
		return c.Next()
	}
	if p.dryRun {
		p.dry.Inc()
		return c.Next()
	}
	p.refused.Inc()
	return reason.RateLimited.Because("the request lacks a part of the key %s", p.key)
}

func (p *plugin) put(s *scratch) {
	if cap(s.key) <= maxPooledKey { // one huge header must not pin memory
		p.scratch.Put(s)
	}
}

// tell adds the fields of draft-ietf-httpapi-ratelimit-headers-10: what the
// policy is, and how much of the window nearest its end is left (r) until more
// comes (t). Added, not set, so that several limits and the upstream's own
// make one list.
func (p *plugin) tell(ctx *fasthttp.RequestCtx, d *ratelimit.Decision) {
	if !p.headers {
		return
	}
	var room [96]byte
	v := append(room[:0], p.names[d.Window]...)
	v = append(v, ";r="...)
	v = strconv.AppendInt(v, d.Remaining, 10)
	if d.Next > 0 {
		v = append(v, ";t="...)
		v = strconv.AppendInt(v, seconds(d.Next), 10)
	}
	h := &ctx.Response.Header
	h.AddBytesKV(headerPolicy, p.policy)
	h.AddBytesKV(headerRateLimit, v)
}

func (p *plugin) retryAfter(ctx *fasthttp.RequestCtx, d *ratelimit.Decision) {
	var room [20]byte
	ctx.Response.Header.SetCanonical(headerRetry, strconv.AppendInt(room[:0], seconds(d.RetryAfter), 10))
}
