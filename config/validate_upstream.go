package config

import (
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

func (v *validator) upstream(name string, u Upstream, p *problem.List) {
	p.Check(isName(name), "", "an upstream's name %s", nameRule)
	u.sources(p)
	checkEndpoints("endpoints", u.Endpoints, p)
	p.Check(u.TLS == nil || u.Protocol != "h2c", "tls", "is not used by h2c, which is HTTP/2 in clear text")
	p.Check(u.TLS != nil || u.Protocol != "h2", "protocol", "h2 is spoken over TLS and needs tls: {}; HTTP/2 in clear text is h2c")
	p.Check(u.TLS != nil || u.Protocol != "auto", "protocol", "auto is what endpoints choose over TLS and needs tls: {}")
	checkUpstreamTLS(u.TLS, p)
	checkBalancer(u.LoadBalancer, p.Under("load_balancer"))
	if u.HealthCheck != nil {
		checkHealth(u.HealthCheck, p.Under("health_check"))
	}
	o := u.OutlierDetection
	p.Check(o.BaseEjection <= o.MaxEjection, "outlier_detection.base_ejection",
		"must be at most max_ejection (%s), got %s", o.MaxEjection, o.BaseEjection)
}

func checkBalancer(b LoadBalancer, p *problem.List) {
	hashes := b.Algorithm == "ring_hash" || b.Algorithm == "maglev"
	switch {
	case hashes && b.HashOn == "":
		p.Add("hash_on", "is required by %s; write client_ip, header.NAME, cookie.NAME, query.NAME or the like", b.Algorithm)
	case !hashes && b.HashOn != "":
		p.Add("hash_on", "is only used by ring_hash and maglev, and algorithm is %s", b.Algorithm)
	case hashes:
		p.Check(isAttribute(b.HashOn), "hash_on", "must be %s, got %q", attributes, b.HashOn)
	}
	if s := b.Sticky; s != nil {
		p.Check(isToken(s.Cookie), "sticky.cookie", "must be a cookie name, got %q", s.Cookie)
		atLeast(p, "sticky.secret", s.Secret.Reveal(), 16)
	}
}

func checkHealth(h *HealthCheck, p *problem.List) {
	if h.Type == "http" {
		if !strings.HasPrefix(h.Path, "/") || strings.ContainsAny(h.Path, " \t\r\n#") {
			p.Add("path", "must begin with / and have no spaces, got %q", h.Path)
		}
		checkStatuses(p, "expect", h.Expect)
	}
	if h.Type != "http" { // what is as by default may have been printed
		p.Check(h.Path == "/", "path", "is only used by http, and type is %s", h.Type)
		p.Check(h.Expect == "200-299", "expect", "is only used by http, and type is %s", h.Type)
	}
	p.Check(h.Host == "" || h.Type != "tcp", "host", "is not used by tcp, which says nothing")
	p.Check(h.Service == "" || h.Type == "grpc", "service", "is only used by grpc, and type is %s", h.Type)
	if h.Host != "" {
		host, _, why := splitAddress(h.Host)
		ok := isHostname(h.Host) || isAddress(h.Host) || why == "" && host != ""
		p.Check(ok, "host", "must be a host or HOST:PORT, got %q", h.Host)
	}
	p.Check(h.Timeout <= h.Interval, "timeout", "must be at most interval (%s), got %s; the default is 1s", h.Interval, h.Timeout)
}

// attributes are the parts of a request that may be hashed.
const attributes = "client_ip, method, scheme, host, path, query, route, listener, consumer, subject, request_id, trace_id, " +
	"tls.version, tls.cipher, tls.server_name, tls.client.subject, tls.client.spiffe_id, tls.client.fingerprint, " +
	"header.NAME, cookie.NAME, query.NAME or claim.NAME"

func isAttribute(s string) bool {
	for a := range strings.SplitSeq(attributes, ", ") {
		if a == s && !strings.HasSuffix(a, ".NAME") {
			return true
		}
	}
	switch kind, name, _ := strings.Cut(s, "."); kind {
	case "header", "cookie":
		return isToken(name)
	case "query", "claim":
		return name != ""
	}
	return false
}
