package config

import (
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

func (v *validator) registry(r *Registry, p *problem.List) {
	e := r.Eureka
	if e == nil {
		return
	}
	p = p.Under("eureka")
	checkListenAddress(p, "address", e.Address)
	p.Check(e.Address != v.c.Node.Admin.Address || strings.HasSuffix(e.Address, ":0"), "address", "is node.admin.address already")
	switch {
	case e.Auth == "none":
		p.Check(len(e.Users) == 0, "users", "are not asked for, since auth is none")
	case len(e.Users) == 0:
		p.Add("users", `needs a user and a password, which clients send as http://USER:PASSWORD@HOST; or write "auth: none" to let in everybody`)
	}
	for name, password := range each(e.Users) {
		u := p.Under("users").Under(name)
		ok := name != "" && len(name) <= 100 && !slices.ContainsFunc([]byte(name), func(c byte) bool { return c <= ' ' || c >= 0x7f || c == ':' })
		u.Check(ok, "", "a user's name must be 1 to 100 printable ASCII letters without spaces and colons")
		atLeast(u, "", password.Reveal(), 16)
	}
}
