package quota

import (
	"fmt"
	"math"
	"strconv"
	"time"
	_ "time/tzdata" // a node in a scratch image has no other

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/cost"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// Factory makes the plugin quota. fleet counts; with nil, for commands that run
// no traffic, everything is refused.
func Factory(fleet ratelimit.Fleet) plugins.Factory {
	return plugins.Define("quota", func(c *Config, s plugins.Settings) (plugins.Instance, error) { return build(c, s, fleet) })
}

var (
	headerRateLimit = []byte("RateLimit")
	headerPolicy    = []byte("RateLimit-Policy")
)

type plugin struct {
	quota    ratelimit.Quota
	plans    map[string]*plan
	fallback *plan // of consumers without a plan of ours; nil: they are refused
	skip     bool  // who is nobody
	cost     *cost.Cost
	headers  bool
	name     string
	sources  [ratelimit.Sources]prometheus.Counter
	allowed  prometheus.Counter
	refused  prometheus.Counter
	skipped  prometheus.Counter
}

// plan is an allowance and what clients are told of it.
type plan struct {
	ratelimit.Allowance
	policy []byte
}

func build(c *Config, s plugins.Settings, fleet ratelimit.Fleet) (plugins.Instance, error) {
	in, err := time.LoadLocation(c.TimeZone)
	if err != nil {
		return nil, fmt.Errorf("time_zone: %w", err)
	}
	least := int64(math.MaxInt64)
	p := &plugin{plans: map[string]*plan{}, skip: c.Anonymous == "skip", headers: c.Headers, name: c.Name}
	for name, x := range c.Plans {
		p.plans[name] = newPlan(c.Name, ratelimit.Allowance{Day: x.Day, Month: x.Month})
		for _, n := range []int64{x.Day, x.Month} {
			if n > 0 {
				least = min(least, n)
			}
		}
	}
	p.fallback = p.plans[c.DefaultPlan]
	if p.cost, err = cost.New(c.Cost, c.CostFrom, least); err != nil {
		return nil, fmt.Errorf("cost_from.expression: %w", err)
	}
	p.quota = none{}
	if fleet != nil {
		p.quota, err = fleet.Quota(ratelimit.QuotaSettings{Name: c.Name, Location: in, Leased: c.Mode == "leased", OnFailure: ratelimit.ParseOnFailure(c.OnStoreFailure)})
		if err != nil {
			return nil, err
		}
	}
	p.count(c, s)
	return plugins.Stateless(p.handle), nil
}

func (p *plugin) count(c *Config, s plugins.Settings) {
	requests := s.Counter("gatehouse_quota_requests_total", "Requests by what the quota decided.", "route", "quota", "result")
	by := s.Counter("gatehouse_quota_decisions_total", "Requests that a quota was asked about, by who decided.", "route", "quota", "source")
	p.allowed = requests.WithLabelValues(s.Route.Name, c.Name, "allowed")
	p.refused = requests.WithLabelValues(s.Route.Name, c.Name, "refused")
	p.skipped = requests.WithLabelValues(s.Route.Name, c.Name, "skipped")
	for i := range p.sources {
		p.sources[i] = by.WithLabelValues(s.Route.Name, c.Name, ratelimit.Source(i).String())
	}
}

// none refuses.
type none struct{}

func (none) Take(_ string, _ ratelimit.Allowance, _ uint32, u *ratelimit.Used) {
	*u = ratelimit.Used{Source: ratelimit.Closed}
}

// month is how long a month is said to be; the real one is told by t.
const day, month = 24 * 60 * 60, 30 * day

func newPlan(name string, a ratelimit.Allowance) *plan {
	p := &plan{Allowance: a}
	for _, x := range []struct {
		kind  string
		limit int64
		w     int
	}{{"day", a.Day, day}, {"month", a.Month, month}} {
		if x.limit > 0 {
			if p.policy != nil {
				p.policy = append(p.policy, ", "...)
			}
			p.policy = fmt.Appendf(p.policy, `"%s-%s";q=%d;w=%d`, name, x.kind, x.limit, x.w)
		}
	}
	return p
}

func (p *plugin) handle(c *fiber.Ctx) error {
	e, ctx := exchange.From(c), c.Context()
	who := e.Identity.Consumer
	if who == nil {
		if p.skip {
			p.skipped.Inc()
			return c.Next()
		}
		p.refused.Inc()
		return reason.QuotaExceeded.Because("the request is nobody's: no plugin before this one has found a consumer")
	}
	has := p.plans[who.Plan]
	if has == nil {
		if has = p.fallback; has == nil {
			p.refused.Inc()
			return reason.QuotaExceeded.Because("consumer %s has plan %q, which is not one of quota %s", who.Name, who.Plan, p.name)
		}
	}
	var u ratelimit.Used
	p.quota.Take(who.Name, has.Allowance, p.cost.Of(ctx, e), &u)
	p.sources[u.Source].Inc()
	switch {
	case u.Allowed:
		p.allowed.Inc()
	case u.Source == ratelimit.Closed:
		p.refused.Inc()
		return reason.LimitUnavailable.Because("the store does not answer")
	default:
		p.refused.Inc()
		p.tell(ctx, has, &u)
		ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, strconv.FormatInt(seconds(u.Reset), 10))
		return reason.QuotaExceeded
	}
	if !p.headers || u.Source == ratelimit.Open {
		return c.Next()
	}
	err := c.Next()
	p.tell(ctx, has, &u)
	return err
}

// seconds rounds up: a client told to wait must not come too early.
func seconds(d time.Duration) int64 { return max(1, int64((d+time.Second-1)/time.Second)) }

// tell adds the fields of draft-ietf-httpapi-ratelimit-headers-10, as rate_limit
// does: r is what is left of the period nearest its end, t when that begins anew.
func (p *plugin) tell(ctx *fasthttp.RequestCtx, has *plan, u *ratelimit.Used) {
	if !p.headers {
		return
	}
	var room [128]byte
	v := append(append(room[:0], '"'), p.name...)
	if u.Month {
		v = append(v, "-month"...)
	} else {
		v = append(v, "-day"...)
	}
	v = strconv.AppendInt(append(v, `";r=`...), u.Remaining, 10)
	v = strconv.AppendInt(append(v, ";t="...), seconds(u.Reset), 10)
	ctx.Response.Header.AddBytesKV(headerPolicy, has.policy)
	ctx.Response.Header.AddBytesKV(headerRateLimit, v)
}
