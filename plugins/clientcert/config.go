// Package clientcert is the plugin client_certificate: it makes a consumer of
// the certificate that a client has shown in the TLS handshake. That the
// certificate is good was verified there; this says whose it is.
package clientcert

import "github.com/gatehouse-proxy/gatehouse/config/problem"

// Config of the plugin client_certificate.
type Config struct {
	// Consumers must be in one of these groups; empty: any.
	Groups []string `yaml:"groups"`
	// Let requests without a certificate pass as anonymous.
	Anonymous bool `yaml:"anonymous" default:"false"`
	// Also let in who shows a certificate that verifies but that no consumer
	// lists. The caller then has a subject and no consumer.
	AcceptUnknown bool `yaml:"accept_unknown" default:"false"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	for i, g := range c.Groups {
		p.Check(g != "", "groups", "must not contain an empty name (number %d)", i+1)
	}
	p.Check(len(c.Groups) == 0 || !c.AcceptUnknown, "accept_unknown", "has no meaning with groups: who is unknown is in none")
}
