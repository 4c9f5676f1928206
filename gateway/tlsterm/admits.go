package tlsterm

import (
	"crypto/x509"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// Admits reports whether the client of a connection, nil where it is in plain
// text, would still be let in. Connections outlive reloads, and those of HTTP/2
// and HTTP/3 last as long as their client likes: without this, whoever was in
// when certificates became required, or when an authority was struck from the
// file, would stay in. It verifies once for each connection and change.
func (t *Terminator) Admits(a *exchange.TLS) bool {
	if t.s.Clients == NoClientCertificate {
		return true
	}
	if a == nil || a.Peer == nil {
		return t.s.Clients != RequireClientCertificate
	}
	config := t.config.Load()
	switch {
	case config == nil:
		return false
	case a.Rules.Load() == config:
		return true
	}
	between := x509.NewCertPool()
	for _, c := range a.Chain[1:] {
		between.AddCert(c)
	}
	_, err := a.Peer.Verify(x509.VerifyOptions{
		Roots: config.ClientCAs, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err == nil {
		a.Rules.Store(config)
	}
	return err == nil
}
