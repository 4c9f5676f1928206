package compile

import (
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/action"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/route"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

// listeners builds a route table for each listener.
func (b *build) listeners(routes map[string]*compiled, terminators map[string]*tlsterm.Terminator) map[string]*snapshot.Listener {
	names := slices.Sorted(maps.Keys(b.cfg.Routes))
	out := map[string]*snapshot.Listener{}
	for name, c := range b.cfg.Listeners {
		var entries []route.Entry[*exchange.Route]
		for _, n := range names {
			r := b.cfg.Routes[n]
			if routes[n] != nil && (len(r.Match.Listeners) == 0 || slices.Contains(r.Match.Listeners, name)) {
				entries = append(entries, route.Entry[*exchange.Route]{Name: n, Match: match(r.Match), Value: routes[n].route})
			}
		}
		table, err := route.New(entries)
		if err != nil {
			b.problems.Add("routes", "%v", err)
			continue
		}
		out[listenerKey(name, c.Address, c.Protocol)] = &snapshot.Listener{
			Name: name, Address: c.Address, Routes: table, NoRoute: routes[""].route,
			Protocol: protocols[c.Protocol], Streams: b.streams(name, &c), Replies: replies(c.UDP),
			Redirect: b.redirect(c.RedirectToHTTPS), Proxies: proxies(c.ProxyProtocol), TLS: terminators[name], HTTP3: http3(c.HTTP3),
			Rules: target.Rules{
				KeepEncodedSlashes: c.Path.EncodedSlashes == "keep", MergeSlashes: c.Path.MergeSlashes,
				RefusePathParams: c.Path.Parameters == "refuse",
			},
			Trust: target.NewTrust(target.TrustSettings{Proxies: c.TrustedProxies, Source: addressSources[c.ClientAddressFrom]}),
			Server: snapshot.ServerSettings{
				MaxConnections: c.MaxConnections, MaxPerClient: c.MaxConnectionsPerClient,
				HeadBytes: int(c.Limits.Head), HeadFields: c.Limits.Headers, URIBytes: int(c.Limits.URI),
				MaxBody:        int64(c.Limits.Body),
				PriorKnowledge: c.HTTP2.PriorKnowledge, WebSockets: c.HTTP2.WebSockets, MaxStreams: c.HTTP2.MaxConcurrentStreams,
				StreamWindow: int(c.HTTP2.StreamWindow), ConnectionWindow: int(c.HTTP2.ConnectionWindow),
				HeadTimeout: c.Timeouts.Head.D(), BodyTimeout: c.Timeouts.Body.D(),
				WriteTimeout: c.Timeouts.Write.D(), IdleTimeout: c.Timeouts.Idle.D(),
			},
		}
	}
	return out
}

// httpsRedirect names, in metrics and logs, what listeners themselves redirect.
const httpsRedirect = "redirect_to_https"

// redirect has no plugins: nothing of such a request is used.
func (b *build) redirect(c *config.HTTPSRedirect) *exchange.Route {
	if c == nil {
		return nil
	}
	return b.assemble(httpsRedirect, nil, httpsRedirect, action.NewHTTPS(c.Port, c.Status).Handle).route
}

func http3(c *config.HTTP3) *snapshot.HTTP3 {
	if !c.On() {
		return nil
	}
	return &snapshot.HTTP3{WebSockets: c.WebSockets, MaxStreams: c.MaxConcurrentStreams, AltSvcAge: c.AltSvcMaxAge.D(), AltSvcPort: c.AltSvcPort}
}

// listenerKey is the address, so that renaming a listener keeps its socket. Of
// port 0 there may be several, and one for datagrams beside one for streams.
func listenerKey(name, address, protocol string) string {
	if protocols[protocol] == snapshot.UDP {
		address = "udp " + address
	}
	if _, port, err := net.SplitHostPort(strings.TrimPrefix(address, "udp ")); err == nil && strings.Trim(port, "0") == "" {
		return address + " " + name
	}
	return address
}

// proxies is nil where the PROXY protocol is not spoken.
func proxies(c *config.ProxyProtocol) *proxyproto.Policy {
	if c == nil {
		return nil
	}
	return proxyproto.NewPolicy(c.From, c.Timeout.D())
}

var addressSources = map[string]target.Source{
	"x_forwarded_for":      target.XForwardedFor,
	"x_forwarded_for_only": target.XForwardedForOnly,
	"forwarded":            target.ForwardedOnly,
}

// unmatched is what runs when no route matches: the global plugins, so that
// probing for routes is limited, logged and inspected like anything else.
func (b *build) unmatched(global []instance) *compiled {
	return b.assemble(noRoute, global, "no_route", func(*fiber.Ctx) error { return reason.NoRoute })
}

func match(m config.Match) route.Match {
	return route.Match{
		Hosts:   m.Hosts,
		Path:    route.Path{Exact: m.Path.Exact, Prefix: m.Path.Prefix, Regex: m.Path.Regex},
		Methods: m.Methods,
		Headers: values(m.Headers), Query: values(m.Query), Cookies: values(m.Cookies),
	}
}

func values(m map[string]config.ValueMatch) []route.Value {
	var out []route.Value
	for _, name := range slices.Sorted(maps.Keys(m)) {
		v := route.Value{Name: name, Text: m[name].Exact}
		switch c := m[name]; {
		case c.Present != nil && *c.Present:
			v.Op = route.Present
		case c.Present != nil:
			v.Op = route.Absent
		case c.Prefix != "":
			v.Op, v.Text = route.Prefix, c.Prefix
		case c.Regex != "":
			v.Op, v.Text = route.Regex, c.Regex
		}
		out = append(out, v)
	}
	return out
}
