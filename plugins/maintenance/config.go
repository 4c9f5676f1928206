// Package maintenance is the plugin maintenance: it answers that the service
// is being worked on, and lets those through who work on it.
package maintenance

import (
	"net/netip"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Config of the plugin maintenance.
type Config struct {
	// false lets everything pass, so that the rest can stay in the config.
	Enabled bool `yaml:"enabled" default:"true"`
	// Status of the reply.
	Status int `yaml:"status" default:"503" min:"400" max:"599"`
	// When it begins, as in 2026-12-01T22:00:00Z. Default: now.
	From time.Time `yaml:"from"`
	// When it ends by itself; Retry-After tells clients. Default: never.
	Until time.Time `yaml:"until"`
	// Retry-After where until is not given; 0s: none.
	RetryAfter unit.Duration `yaml:"retry_after" default:"5m" max:"30d"`
	// Who passes.
	Bypass Bypass `yaml:"bypass"`
}

// Bypass says who passes: any of these is enough.
type Bypass struct {
	// Client networks, such as the office's.
	Networks []netip.Prefix `yaml:"networks"`
	// Header that carries the secret. It is not passed on.
	Header string `yaml:"header" default:"X-Maintenance-Bypass"`
	// Secret that the header must have, at least 16 bytes. Empty: no such way.
	Secret unit.Secret `yaml:"secret"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	p.Check(c.Until.IsZero() || c.Until.After(c.From), "until", "must be after from")
	b := p.Under("bypass")
	b.Check(httpguts.ValidHeaderFieldName(c.Bypass.Header), "header", "must be a header name, got %q", c.Bypass.Header)
	n := len(c.Bypass.Secret.Reveal())
	b.Check(n == 0 || n >= 16, "secret", "must have at least 16 bytes, has %d", n)
}
