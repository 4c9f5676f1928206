package compile

import (
	"crypto/tls"
	"net"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
)

// dialer builds what connects to the endpoints of an upstream. With TLS it is a
// unit, which follows a file; so is the certificate it shows. taken says that
// the upstream made with it before may be kept.
func (b *build) dialer(name string, c config.Upstream) (d *dial.Dialer, taken bool, err error) {
	s := dial.Settings{Timeout: c.Connection.Timeout.D()}
	if c.TLS == nil {
		d, err = dial.New(s)
		return d, true, err
	}
	if c.TLS.InsecureSkipVerify {
		b.settings.Log.Warn("the endpoints of an upstream are not verified: whoever is on the way to them can read and change everything",
			"config", "upstreams."+name+".tls.insecure_skip_verify", "pins", len(c.TLS.Pins))
	}
	own, taken := b.upstreamCertificate(name, c.TLS)
	key, sum := "dial/"+name, b.dialerDigest(c)
	if taken {
		if u, same := b.units.Reuse(b.prev, key, sum); same {
			return u.(*dial.Dialer), true, nil
		}
	}
	if s.TLS, err = b.dialTLS(name, c); err != nil {
		return nil, false, err
	}
	if own != nil {
		s.TLS.Certificate = own
	}
	s.Protocols = offered(c.Protocol)
	if d, err = dial.New(s); err != nil {
		return nil, false, err
	}
	b.loaded("upstreams."+name+".tls.ca_file", d.Load(),
		"the authorities of an upstream cannot be used; nobody is connected to until they can")
	b.units.Add(key, sum, d)
	return d, false, nil
}

// offered are the protocols that endpoints may choose from, by the config's word for them.
func offered(protocol string) []string {
	switch protocol {
	case "h2":
		return []string{"h2"}
	case "auto":
		return []string{"h2", "http/1.1"}
	}
	return []string{"http/1.1"}
}

// dialerDigest covers everything that makes connections of a different kind.
func (b *build) dialerDigest(c config.Upstream) string {
	return digest(c.TLS, c.Protocol, c.Connection.Timeout, serverName(c), b.dirOf(c.TLS))
}

// dirOf is what the paths in t depend on.
func (b *build) dirOf(t *config.UpstreamTLS) string {
	if t == nil {
		return ""
	}
	return b.src.Dir
}

func (b *build) dialTLS(name string, c config.Upstream) (*dial.TLSSettings, error) {
	t := c.TLS
	s := &dial.TLSSettings{
		Upstream: name, ServerName: serverName(c), InsecureSkipVerify: t.InsecureSkipVerify,
		MinVersion: tls.VersionTLS12, Log: b.settings.Log,
	}
	if t.CAFile != "" {
		s.CAFile = b.file(t.CAFile)
	}
	if t.MinVersion == "1.3" {
		s.MinVersion = tls.VersionTLS13
	}
	for _, text := range t.Pins {
		pin, err := dial.ParsePin(text)
		if err != nil {
			return nil, err
		}
		s.Pins = append(s.Pins, pin)
	}
	return s, nil
}

// serverName is what the endpoints are verified as; empty: as the host of their
// address. Those of a DNS name are known by it, and not by their addresses.
func serverName(c config.Upstream) string {
	switch {
	case c.TLS == nil:
		return ""
	case c.TLS.ServerName != "":
		return c.TLS.ServerName
	case c.DNS == nil:
		return ""
	case c.DNS.Type == "srv":
		return serviceDomain(c.DNS.Name)
	}
	host, _, err := net.SplitHostPort(c.DNS.Name)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(host, ".")
}

// serviceDomain is the domain that SRV records are of: what the certificates
// of a service are for, as its targets are only what DNS says they are (RFC
// 6125, 6.5.1).
func serviceDomain(name string) string {
	for strings.HasPrefix(name, "_") {
		_, rest, ok := strings.Cut(name, ".")
		if !ok {
			return ""
		}
		name = rest
	}
	return strings.TrimSuffix(name, ".")
}

// upstreamCertificate builds what is shown to the endpoints; nil: nothing is.
func (b *build) upstreamCertificate(name string, t *config.UpstreamTLS) (c *tlsterm.Certificate, taken bool) {
	return b.ownCertificate("upstreams."+name+".tls", t.CertFile, t.KeyFile)
}

// ownCertificate builds what is shown to servers; nil without a file. taken says
// that it is the one of the config before.
func (b *build) ownCertificate(path, certFile, keyFile string) (c *tlsterm.Certificate, taken bool) {
	if certFile == "" {
		return nil, true
	}
	key, sum := certificateKey+path, digest(certFile, keyFile, b.src.Dir)
	if u, same := b.units.Reuse(b.prev, key, sum); same {
		return u.(*tlsterm.Certificate), true
	}
	c = tlsterm.NewCertificate(tlsterm.CertificateSettings{
		Name: path, CertFile: b.file(certFile), KeyFile: b.file(keyFile),
		Changes: &b.changes, Log: b.settings.Log,
	})
	b.loaded(path, c.Load(), "a certificate cannot be used; servers that ask for it will refuse us until it can")
	b.units.Add(key, sum, c)
	return c, false
}
