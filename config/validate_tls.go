package config

import (
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

func (v *validator) certificates(p *problem.List) {
	taken := map[string]string{} // the ACME certificate of a host
	for name, c := range each(v.c.Certificates) {
		cp := under(p, "certificates", name)
		cp.Check(isName(name), "", "a certificate's name %s", nameRule)
		files := c.CertFile != "" || c.KeyFile != ""
		if !oneOf(cp, given([]string{"cert_file", "acme"}, files, c.ACME != nil), "cert_file", "acme") {
			continue
		}
		if files {
			cp.Check(c.CertFile != "", "cert_file", "is required")
			cp.Check(c.KeyFile != "", "key_file", "is required")
			continue
		}
		cp.Check(c.OCSPFile == "", "ocsp_file", "goes with cert_file only")
		v.acme(name, c.ACME, taken, cp.Under("acme"))
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

func checkUpstreamTLS(t *UpstreamTLS, up *problem.List) {
	if t == nil {
		return
	}
	p := up.Under("tls")
	if t.ServerName != "" && !isHostname(t.ServerName) {
		_, err := netip.ParseAddr(t.ServerName)
		p.Check(err == nil, "server_name", "must be a host name or an IP address, without a port, got %q", t.ServerName)
	}
	switch {
	case t.CertFile == "" && t.KeyFile != "":
		p.Add("cert_file", "is required with key_file")
	case t.CertFile != "" && t.KeyFile == "":
		p.Add("key_file", "is required with cert_file")
	}
	p.Check(!t.InsecureSkipVerify || t.CAFile == "", "ca_file", "is not used with insecure_skip_verify; leave one of them out")
	for i, pin := range t.Pins {
		p.Check(isPin(pin), index("pins", i), "must be sha256/ and the 44 characters of a SHA-256 hash in base64, got %q", pin)
	}
	for i := range repeats(t.Pins) {
		p.Add(index("pins", i), "%q is there twice", t.Pins[i])
	}
}

func isPin(s string) bool {
	text, ok := strings.CutPrefix(s, "sha256/")
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	return ok && err == nil && len(b) == sha256.Size && !strings.ContainsAny(text, "\r\n")
}
