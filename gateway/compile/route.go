package compile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/action"
	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// routes compiles every route; "" stands for no match.
func (b *build) routes() map[string]*compiled {
	global := b.chain("plugins", b.cfg.Plugins, plugins.Route{Name: "*"})
	out := make(map[string]*compiled, 1+len(b.cfg.Routes))
	out[""] = b.unmatched(global)
	for _, name := range slices.Sorted(maps.Keys(b.cfg.Routes)) {
		r := b.cfg.Routes[name]
		path := "routes." + name
		facts := plugins.Route{Name: name, Methods: r.Match.Methods, Hosts: r.Match.Hosts, Path: pathText(r.Match.Path)}
		var list []instance
		if !r.SkipGlobalPlugins {
			list = append(list, global...)
		}
		list = append(list, b.chain(path+".plugins", r.Plugins, facts)...)
		last, err := b.action(name, r)
		if err != nil {
			b.problems.Add(path, "%v", err)
			continue
		}
		c := b.assemble(name, list, last.kind, last.handler)
		c.needs = append(c.needs, last.needs...)
		c.route.HTTP1 = b.mayUseHTTP1(last.needs)
		b.result.Plans[name] = plan(c, last.text, last.upstreams)
		out[name] = c
	}
	return out
}

// mayUseHTTP1 is true if any of these upstreams may be spoken to in HTTP/1. One
// that chooses for itself (auto) may.
func (b *build) mayUseHTTP1(upstreams []string) bool {
	return slices.ContainsFunc(upstreams, func(key string) bool {
		protocol := b.cfg.Upstreams[strings.TrimPrefix(key, upstreamKey)].Protocol
		return protocol != "h2" && protocol != "h2c"
	})
}

func pathText(m config.PathMatch) string {
	switch {
	case m.Exact != "":
		return m.Exact
	case m.Prefix != "":
		return m.Prefix + "*"
	default:
		return m.Regex
	}
}

// last is what answers at the end of a chain.
type last struct {
	kind      string // "proxy", "redirect", "respond": the name in traces
	text      string // for people
	handler   fiber.Handler
	needs     []string
	upstreams []string
}

func (b *build) action(name string, r config.Route) (last, error) {
	switch {
	case r.Redirect != nil:
		return redirect(r)
	case r.Respond != nil:
		return respond(r)
	default:
		return b.forward(name, r)
	}
}

func (b *build) forward(name string, r config.Route) (last, error) {
	out := last{kind: "proxy"}
	s := proxy.Settings{
		Route: name, Via: "gatehouse", Observer: &tries{b.Compiler},
		Timeouts: proxy.Timeouts{Request: r.Timeouts.Request.D(), Idle: r.Timeouts.Idle.D(), PerTry: r.Retries.PerTry.D()},
	}
	on, err := proxy.ParseRetryOn(r.Retries.On)
	if err != nil {
		return out, fmt.Errorf("retries.on: %w", err)
	}
	s.Retries = proxy.RetrySettings{
		Attempts: r.Retries.Attempts, On: on, BudgetPercent: r.Retries.BudgetPercent,
		Backoff: r.Retries.Backoff.D(), BufferBody: int(r.Retries.BufferBody), NonIdempotent: r.Retries.NonIdempotent,
	}
	rewriting, err := rewrite(r, &s)
	if err != nil {
		return out, err
	}
	if r.Hedge != nil {
		s.Hedge = r.Hedge.After.D()
	}
	if f := r.Fault; f != nil {
		s.Fault = fault(f)
	}
	var parts []string
	for _, bk := range r.Backends {
		out.needs = append(out.needs, upstreamKey+bk.Upstream)
		out.upstreams = append(out.upstreams, bk.Upstream)
		parts = append(parts, fmt.Sprintf("%s (weight %d)", bk.Upstream, bk.Weight))
	}
	out.text = "forward to " + strings.Join(parts, ", ")
	if r.Mirror != nil {
		out.needs = append(out.needs, upstreamKey+r.Mirror.Upstream)
	}
	if slices.ContainsFunc(out.needs, func(key string) bool { return b.broken[key] != "" || b.units.Lookup(key) == nil }) {
		return out, nil // markBroken closes the route, or the upstream's problem is reported
	}
	out, err = b.finishProxy(name, r, s, out)
	if err == nil {
		out.handler = rewriting.Guard(out.handler)
	}
	return out, err
}

// finishProxy needs every upstream of the route to be there.
func (b *build) finishProxy(name string, r config.Route, s proxy.Settings, out last) (last, error) {
	inputs := []any{name, r.Backends, r.Rewrite, r.Match.Path, r.Timeouts, r.Retries, r.Hedge, r.Mirror, r.Fault}
	for _, bk := range r.Backends {
		up, err := b.backend(bk)
		if err != nil {
			return out, err
		}
		s.Backends = append(s.Backends, up)
		inputs = append(inputs, b.upstreamDigests[bk.Upstream])
	}
	if m := r.Mirror; m != nil {
		s.Mirror = &proxy.MirrorSettings{Upstream: b.upstream(m.Upstream), Percent: m.Percent, MaxBody: int(m.MaxBody)}
		inputs = append(inputs, b.upstreamDigests[m.Upstream])
	}
	key := "proxy/" + name
	b.paths[key] = "routes." + name
	sum := b.digester.digest(inputs...)
	if b.sameUpstreams(out.needs) {
		if u, same := b.units.Reuse(b.prev, key, sum); same {
			out.handler = u.(*proxy.Proxy).Handle
			return out, nil
		}
	}
	p, err := proxy.New(s)
	if err != nil {
		return out, err
	}
	b.units.Add(key, sum, p)
	out.handler = p.Handle
	return out, nil
}

// sameUpstreams reports whether all upstreams have been taken over. One that
// could not be started is made anew although its settings are the same.
func (b *build) sameUpstreams(keys []string) bool {
	return !slices.ContainsFunc(keys, func(key string) bool { return b.prev.Lookup(key) != b.units.Lookup(key) })
}

func (b *build) backend(bk config.Backend) (proxy.Backend, error) {
	c := b.cfg.Upstreams[bk.Upstream].LoadBalancer
	out := proxy.Backend{Upstream: b.upstream(bk.Upstream), Weight: bk.Weight}
	if c.HashOn != "" {
		a, err := attribute.Parse(c.HashOn)
		if err != nil {
			return out, fmt.Errorf("upstreams.%s.load_balancer.hash_on: %w", bk.Upstream, err)
		}
		out.HashOn = func(dst []byte, ctx *fasthttp.RequestCtx, e *exchange.Exchange) []byte {
			dst, _ = a.Append(dst, ctx, e)
			return dst
		}
	}
	if s := c.Sticky; s != nil {
		out.Sticky = &proxy.StickySettings{Cookie: s.Cookie, TTL: s.TTL.D(), Secret: []byte(s.Secret.Reveal()), Secure: s.Secure}
	}
	return out, nil
}

func fault(f *config.Fault) *proxy.FaultSettings {
	s := &proxy.FaultSettings{}
	if d := f.Delay; d != nil {
		s.DelayPercent, s.Delay = d.Percent, d.Duration.D()
	}
	if a := f.Abort; a != nil {
		s.AbortPercent, s.AbortStatus = a.Percent, a.Status
	}
	return s
}

// rewrite sets what s asks the upstream for; nil if that is not changed.
func rewrite(r config.Route, s *proxy.Settings) (*action.Rewrite, error) {
	c := r.Rewrite
	s.Rewrite = (*action.Rewrite)(nil) // keeps the request's own path and query
	if c == nil {
		return nil, nil
	}
	switch c.Host {
	case "":
	case "upstream":
		s.HostMode = proxy.HostEndpoint
	default:
		s.HostMode, s.Host = proxy.HostFixed, c.Host
	}
	if c.Prefix == "" && c.Regex == nil {
		return nil, nil
	}
	settings := action.RewriteSettings{Prefix: c.Prefix, Matched: r.Match.Path.Prefix}
	if c.Regex != nil {
		settings.Pattern, settings.With = c.Regex.Pattern, c.Regex.With
	}
	made, err := action.NewRewrite(settings)
	if err != nil {
		return nil, fmt.Errorf("rewrite: %w", err)
	}
	s.Rewrite = made
	return made, nil
}

func redirect(r config.Route) (last, error) {
	c := r.Redirect
	made, err := action.NewRedirect(action.RedirectSettings{
		Scheme: c.Scheme, Host: c.Host, Port: c.Port, Path: c.Path, Prefix: c.Prefix,
		Matched: r.Match.Path.Prefix, Status: c.Status, Query: c.Query,
	})
	if err != nil {
		return last{}, fmt.Errorf("redirect: %w", err)
	}
	return last{kind: "redirect", text: fmt.Sprintf("redirect with %d", c.Status), handler: made.Handle}, nil
}

func respond(r config.Route) (last, error) {
	c := r.Respond
	made, err := action.NewRespond(action.RespondSettings{Status: c.Status, Body: c.Body, ContentType: c.ContentType, Headers: c.Headers})
	if err != nil {
		return last{}, fmt.Errorf("respond: %w", err)
	}
	return last{kind: "respond", text: fmt.Sprintf("answer with %d", c.Status), handler: made.Handle}, nil
}
