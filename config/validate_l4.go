package config

import (
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Values of listeners.*.protocol.
const (
	http = "http"
	tcp  = "tcp"
	tls  = "tls"
	udp  = "udp"
)

// protocolDefaults fills in what is another value for other protocols than
// http. given tells whether a path is in the config.
func (c *Config) protocolDefaults(given func(path string) bool) {
	for name, l := range c.Listeners {
		idle := time.Hour // Envoy's tcp_proxy idle_timeout
		switch l.Protocol {
		case tcp, tls:
		case udp:
			idle = time.Minute // Envoy's udp_proxy idle_timeout
		default:
			continue
		}
		if !given(problem.Join(problem.Join("listeners", name), "timeouts.idle")) {
			l.Timeouts.Idle = unit.Duration(idle)
			c.Listeners[name] = l
		}
	}
}

// listenerProtocol checks which keys make sense together with the protocol.
func (v *validator) listenerProtocol(l *Listener, p *problem.List) {
	a := &at{made: p}
	for name, s := range each(l.SNI) {
		key := problem.Join("sni", name)
		host := strings.TrimPrefix(name, "*.")
		p.Check(isHostname(host) && host == strings.ToLower(host), key, "must be a host name in lower case, or *. and one")
		v.streams(s.Backends, &at{made: p.Under(key)}, tls)
	}
	if l.Protocol != http {
		v.streams(l.Backends, a, l.Protocol)
		notHTTP(l, p)
	}
	switch l.Protocol {
	case http:
		p.Check(len(l.Backends) == 0, "backends", "are for protocol tcp, tls or udp; http goes by routes")
		p.Check(len(l.SNI) == 0 || l.TLS != nil, "sni", "needs tls (or protocol: tls): a name comes in a TLS handshake")
	case tcp:
		p.Check(len(l.Backends) > 0, "backends", "is required by protocol tcp")
		p.Check(len(l.SNI) == 0, "sni", "is for protocol tls, or for http with tls")
	case tls:
		p.Check(len(l.Backends) > 0 || len(l.SNI) > 0, "", "needs sni, backends or both: protocol tls passes connections on")
		p.Check(l.TLS == nil, "tls", "ends TLS, and protocol tls passes it on unopened; to end it here write protocol: tcp or http")
	case udp:
		p.Check(len(l.Backends) > 0, "backends", "is required by protocol udp")
		p.Check(len(l.SNI) == 0, "sni", "is for protocol tls, or for http with tls")
		p.Check(l.TLS == nil, "tls", "is not spoken over datagrams")
		p.Check(l.ProxyProtocol == nil, "proxy_protocol", "is not spoken over datagrams")
	}
	p.Check(l.UDP == nil || l.Protocol == udp, "udp", "is for protocol udp")
}

// notHTTP notes keys that only http knows, unless they have their defaults: a
// printed config has them all.
func notHTTP(l *Listener, p *problem.List) {
	const only = "is only for protocol http"
	p.Check(l.RedirectToHTTPS == nil, "redirect_to_https", only)
	p.Check(len(l.TrustedProxies) == 0, "trusted_proxies", only)
	var usual Listener
	_ = strict.Unmarshal([]byte("{}"), &usual) // its address is missing, and of no interest
	p.Check(l.ClientAddressFrom == usual.ClientAddressFrom, "client_address_from", only)
	p.Check(l.HTTP2 == usual.HTTP2, "http2", only)
	p.Check(l.Limits == usual.Limits, "limits", only)
	p.Check(l.Path == usual.Path, "path", only)
	p.Check(l.Timeouts.Head == usual.Timeouts.Head || l.Protocol == tls, "timeouts.head", "is only for protocol http or tls")
	p.Check(l.Timeouts.Body == usual.Timeouts.Body, "timeouts.body", only)
	p.Check(l.Timeouts.Write == usual.Timeouts.Write, "timeouts.write", only)
	p.Check(l.TLS == nil || slices.Equal(l.TLS.ALPN, []string{"h2", "http/1.1"}), "tls.alpn",
		"is only for protocol http: what is spoken inside is not known here, and no protocol is chosen")
}

// streams checks backends of connections that are passed on.
func (v *validator) streams(list []Backend, a *at, protocol string) {
	for i, b := range list {
		key := index("backends", i) + ".upstream"
		u, ok := v.c.Upstreams[b.Upstream]
		if !ok {
			v.undefined(a.p(), "upstream", key, b.Upstream)
			continue
		}
		if on := u.LoadBalancer.HashOn; on != "" && on != "client_ip" {
			a.p().Add(key, "%q hashes %s, and of a connection only client_ip is known; make another upstream", b.Upstream, on)
		}
		if u.LoadBalancer.Sticky != nil {
			a.p().Add(key, "%q is sticky by cookie, and connections have none; use ring_hash or maglev on client_ip", b.Upstream)
		}
		if protocol == tls && u.TLS != nil {
			a.p().Add(key, "%q is spoken to over TLS (tls), and what is passed on unopened is TLS already; make another upstream", b.Upstream)
		}
		if protocol != udp {
			continue
		}
		if u.ProxyProtocol != "" {
			a.p().Add(key, "%q is sent PROXY headers (proxy_protocol), which datagrams have no place for", b.Upstream)
		}
		if u.TLS != nil {
			a.p().Add(key, "%q speaks TLS, which is not spoken over datagrams", b.Upstream)
		}
		if h := u.HealthCheck; h != nil && h.Type != tcp {
			a.p().Add(key, "%q has a health check of type %s; of a service that speaks UDP only tcp can be checked", b.Upstream, h.Type)
		}
	}
	v.shares(list, a)
}
