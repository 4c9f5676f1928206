package config

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// sources checks where an upstream's endpoints come from.
func (u *Upstream) sources(p *problem.List) {
	keys := []string{"endpoints", "dns", "file", "consul", "eureka", "kubernetes", "mesh"}
	oneOf(p, given(keys, len(u.Endpoints) > 0, u.DNS != nil, u.File != nil, u.Consul != nil, u.Eureka != nil, u.Kubernetes != nil, u.Mesh != nil), keys...)
	if u.DNS != nil {
		u.DNS.check(p.Under("dns"))
	}
	if u.Consul != nil {
		u.Consul.check(p.Under("consul"))
	}
	if u.Eureka != nil {
		u.Eureka.check(p.Under("eureka"))
	}
	if u.Kubernetes != nil {
		u.Kubernetes.check(p.Under("kubernetes"))
	}
	if u.Mesh != nil {
		p.Check(isName(u.Mesh.Service), "mesh.service", "%s, got %q", nameRule, u.Mesh.Service)
	}
}

func (d *DNS) check(p *problem.List) {
	if d.Type == "srv" {
		p.Check(isHostname(strings.TrimSuffix(d.Name, ".")), "name",
			"must be the name of SRV records such as _http._tcp.users.internal, without a port, since they tell it; got %q", d.Name)
	} else {
		checkPeerAddress(p, "name", d.Name)
	}
	if d.Server != "" {
		checkPeerAddress(p, "server", d.Server)
	}
	p.Check(d.MinTTL <= d.MaxTTL, "min_ttl", "must be at most max_ttl (%s), got %s", d.MaxTTL, d.MinTTL)
}

func (c *Consul) check(p *problem.List) {
	checkServer(p, "address", c.Address)
	c.TLS.check(p.Under("tls"), c.Address)
	for i, tag := range c.Tags {
		p.Check(tag != "", index("tags", i), "must not be empty")
	}
}

func (e *Eureka) check(p *problem.List) {
	for i, s := range e.Servers {
		checkServer(p, index("servers", i), s)
	}
	for i := range repeats(e.Servers) {
		p.Add(index("servers", i), "%q is there twice", e.Servers[i])
	}
	e.TLS.check(p.Under("tls"), e.Servers...)
	p.Check((e.Username == "") == (e.Password == ""), "username", "and password belong together: give both or neither")
	p.Check(!strings.Contains(e.Username, ":"), "username", "must have no colon, which ends it in basic authentication; got %q", e.Username)
}

func (k *Kubernetes) check(p *problem.List) {
	p.Check(isLabelName(k.Service), "service", "must be the name of a Kubernetes service: lower-case letters, digits and -, at most 63; got %q", k.Service)
	p.Check(k.Namespace == "" || isLabelName(k.Namespace), "namespace", "must be the name of a Kubernetes namespace: lower-case letters, digits and -, at most 63; got %q", k.Namespace)
	if n, err := strconv.Atoi(k.Port); err == nil {
		p.Check(n >= 1 && n <= 65535, "port", "must be from 1 to 65535, got %q", k.Port)
	} else {
		p.Check(k.Port == "" || isLabelName(k.Port), "port", "must be the name or number of a port, got %q", k.Port)
	}
	if k.Server == "" {
		p.Check(k.TLS == SourceTLS{}, "tls", "is used with server only; in a pod the authority is that of its service account")
		return
	}
	if checkServer(p, "server", k.Server) && k.TokenFile != "" {
		u, _ := url.Parse(k.Server)
		p.Check(u.Scheme == "https" || isLoopback(u.Hostname()), "server", "must be https: token_file would be sent to it in clear text; got %q", k.Server)
	}
	k.TLS.check(p.Under("tls"), k.Server)
}

func (t *SourceTLS) check(p *problem.List, servers ...string) {
	p.Check((t.CertFile == "") == (t.KeyFile == ""), "", "needs both cert_file and key_file, or neither")
	p.Check(t.ServerName == "" || isHostname(t.ServerName) || isAddress(t.ServerName), "server_name", "must be a host name or an address, got %q", t.ServerName)
	if *t == (SourceTLS{}) {
		return
	}
	for _, s := range servers {
		if strings.HasPrefix(s, "http://") {
			p.Add("", "is not used by %s; write https", s)
			return
		}
	}
}

// checkServer notes what is wrong with the URL of a server.
func checkServer(p *problem.List, key, s string) bool {
	u, err := url.Parse(s)
	ok := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.RawQuery == "" && !u.ForceQuery && u.Fragment == ""
	if ok {
		host, port, why := splitAddress(u.Host)
		if u.Port() == "" {
			host, port, why = splitAddress(u.Host + ":80")
		}
		ok = why == "" && host != "" && port > 0
	}
	switch {
	case !ok:
		p.Add(key, "must be http://HOST:PORT or https://HOST:PORT, with a path if there is one, got %q", withoutUser(s))
	case u.User != nil:
		p.Add(key, "must have no user and password in it, where they would be logged")
		return false
	}
	return ok
}

// withoutUser is s without what may be a password.
func withoutUser(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if at := strings.LastIndexByte(rest, '@'); ok && at >= 0 {
		return scheme + "://…" + rest[at:]
	}
	return s
}

// isLabelName is a label of RFC 1123 in lower case, as Kubernetes has them.
func isLabelName(s string) bool {
	return isHostname(s+".x") && !strings.ContainsAny(s, "._") && strings.ToLower(s) == s
}
