package config

import (
	"encoding/base64"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// maxACMEHosts is how many names Let's Encrypt puts into one certificate.
const maxACMEHosts = 100

func (v *validator) acme(name string, a *ACME, taken map[string]string, p *problem.List) {
	p.Check(len(a.Hosts) > 0, "hosts", "needs at least one host")
	p.Check(len(a.Hosts) <= maxACMEHosts, "hosts", "may have at most %d hosts, has %d", maxACMEHosts, len(a.Hosts))
	for i, h := range a.Hosts {
		key := index("hosts", i)
		checkACMEHost(p, key, h)
		switch other, twice := taken[h]; {
		case twice && other == name:
			p.Add(key, "%q is there twice", h)
		case twice:
			p.Add(key, "%q is among the hosts of certificates.%s already", h, other)
		}
		taken[h] = name
	}
	if n := &v.c.Node; n.Store.Redis != nil && n.SecretKey == "" {
		p.Add("", "needs node.secret_key, the same on every node: with node.store.redis certificates are shared, encrypted with it")
	}
	p.Check(a.AcceptTerms, "accept_terms", "must be true: read the authority's terms of service, which its directory names, and agree to them")
	if a.Email != "" {
		m, err := mail.ParseAddress(a.Email)
		p.Check(err == nil && m.Address == a.Email, "email", "must be an e-mail address such as ops@example.com, got %q", a.Email)
	}
	checkDirectory(p, a.Directory)
	v.challenges(a, p)
	if x := a.ExternalAccount; x != nil {
		raw, err := DecodeHMACKey(x.HMACKey.Reveal())
		p.Check(err == nil && len(raw) >= 16, "external_account.hmac_key", "must be at least 16 bytes in base64url, as the authority shows it")
	}
}

// DecodeHMACKey reads the key of an external account: authorities differ in
// whether they pad it.
func DecodeHMACKey(s string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
}

func checkACMEHost(p *problem.List, key, h string) {
	_, err := netip.ParseAddr(strings.Trim(h, "[]"))
	switch {
	case strings.Contains(h, "*"):
		p.Add(key, "may not be a wildcard, got %q: authorities issue those by DNS-01 only, which is not supported; list the names, or use cert_file", h)
	case err == nil:
		p.Add(key, "must be a DNS name, got the address %q", h)
	case strings.ToLower(h) != h:
		p.Add(key, "must be in lower case, got %q", h)
	case !isHostname(h) || strings.Contains(h, "_"):
		p.Add(key, "must be a DNS name such as shop.example.com, got %q", h)
	}
}

// checkDirectory lets through plain http to this machine only: the authority's
// answers decide what is trusted.
func checkDirectory(p *problem.List, s string) {
	u, err := url.Parse(s)
	ok := err == nil && u.Host != "" && u.User == nil && (u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()))
	p.Check(ok, "directory", "must be https://HOST/PATH (http to this machine only), got %q", s)
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func (v *validator) challenges(a *ACME, p *problem.List) {
	p.Check(len(a.Challenges) > 0, "challenges", "needs at least one of tls-alpn-01 and http-01")
	for i, c := range a.Challenges {
		key := index("challenges", i)
		switch {
		case c == "dns-01":
			p.Add(key, "dns-01 is not supported; use tls-alpn-01 or http-01")
		case c != "tls-alpn-01" && c != "http-01":
			p.Add(key, "must be tls-alpn-01 or http-01, got %q", c)
		case slices.Contains(a.Challenges[:i], c):
			p.Add(key, "%q is there twice", c)
		}
	}
	secure := func(l Listener) bool { return l.TLS != nil }
	if slices.Equal(a.Challenges, []string{"tls-alpn-01"}) {
		p.Check(v.anyListener(secure), "challenges", "tls-alpn-01 needs a listener with tls, and there is none")
	}
}

func (v *validator) anyListener(is func(Listener) bool) bool {
	for _, l := range v.c.Listeners {
		if is(l) {
			return true
		}
	}
	return false
}
