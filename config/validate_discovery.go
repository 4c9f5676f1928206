package config

import (
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// sources checks where an upstream's endpoints come from.
func (u *Upstream) sources(p *problem.List) {
	keys := []string{"endpoints", "dns", "mesh"}
	oneOf(p, given(keys, len(u.Endpoints) > 0, u.DNS != nil, u.Mesh != nil), keys...)
	if u.DNS != nil {
		u.DNS.check(p.Under("dns"))
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
