// Package csrf is the plugin csrf: it refuses requests that change something
// and that a foreign site made the visitor's browser send.
package csrf

import (
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/origin"
)

// Config of the plugin csrf.
type Config struct {
	// Other origins that may send such requests: https://app.example.com, or
	// https://*.example.com for subdomains.
	TrustedOrigins []string `yaml:"trusted_origins"`
	// Paths that anybody may post to, such as webhooks: /exact or /prefix/*.
	Exempt []string `yaml:"exempt"`
	// Trust sites of the same registrable domain (Sec-Fetch-Site: same-site).
	SameSite bool `yaml:"same_site" default:"false"`
	// Also check the handshake of WebSockets, which is a GET with cookies.
	WebSocket bool `yaml:"websocket" default:"true"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	s, err := origin.Parse(c.TrustedOrigins)
	if err != nil {
		p.Add("trusted_origins", "%v", err)
	} else {
		p.Check(!s.Any, "trusted_origins", "must not have *, which trusts every site")
	}
	for _, path := range c.Exempt {
		p.Check(strings.HasPrefix(path, "/") && !strings.Contains(strings.TrimSuffix(path, "/*"), "*"), "exempt",
			"must be /exact or /prefix/*, got %q", path)
	}
}
