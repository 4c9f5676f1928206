package config

import "github.com/gatehouse-proxy/gatehouse/config/problem"

func (v *validator) certificates(p *problem.List) {
	for name := range each(v.c.Certificates) {
		under(p, "certificates", name).Check(isName(name), "", "a certificate's name %s", nameRule)
	}
}

func (v *validator) listenerTLS(t *ListenerTLS, lp *problem.List) {
	if t == nil {
		return
	}
	p := lp.Under("tls")
	p.Check(len(t.Certificates) > 0, "certificates", "needs at least one certificate")
	for i, name := range t.Certificates {
		if !v.exists("certificate", name) {
			v.undefined(p, "certificate", index("certificates", i), name)
		}
	}
	for i := range repeats(t.Certificates) {
		p.Add(index("certificates", i), "%q is there twice", t.Certificates[i])
	}
	p.Check(len(t.ALPN) > 0, "alpn", "needs at least one protocol")
	for i := range repeats(t.ALPN) {
		p.Add(index("alpn", i), "%q is there twice", t.ALPN[i])
	}
}
