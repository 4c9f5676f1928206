// Package requestid is the plugin request_id: every request gets an ID that
// logs, the upstream and the client all see.
package requestid

import (
	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// Config of the plugin request_id.
type Config struct {
	// Header that carries the ID, in the request to the upstream and in the reply.
	Header string `yaml:"header" default:"X-Request-ID"`
	// Whose ID is kept instead of making a new one: that of trusted proxies
	// (see trusted_proxies of the listener), of anybody, or nobody's.
	Trust string `yaml:"trust" enum:"trusted_proxies,always,never" default:"trusted_proxies"`
	// uuid7 sorts by time; hex is 128 random bits.
	Generator string `yaml:"generator" enum:"uuid7,hex" default:"uuid7"`
	// Send the ID back in the reply.
	Reply bool `yaml:"reply" default:"true"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	p.Check(httpguts.ValidHeaderFieldName(c.Header), "header", "must be a header name, got %q", c.Header)
}
