// Package cors is the plugin cors: it tells browsers which other sites may
// read replies, and answers their preflight questions itself.
package cors

import (
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/origin"
)

// Config of the plugin cors.
type Config struct {
	// Origins that may read replies: https://app.example.com,
	// https://*.example.com for subdomains, null, or * for everybody.
	Origins []string `yaml:"origins"`
	// Regular expressions (RE2), matched against the whole origin.
	OriginRegex []string `yaml:"origin_regex"`
	// Methods that scripts may use; * for any.
	Methods []string `yaml:"methods" default:"GET,HEAD,POST,PUT,PATCH,DELETE"`
	// Request headers that scripts may send besides the harmless ones; * for any.
	Headers []string `yaml:"headers" default:"Content-Type,Authorization"`
	// Reply headers that scripts may read besides the harmless ones.
	Expose []string `yaml:"expose"`
	// Let scripts send cookies and other credentials.
	Credentials bool `yaml:"credentials" default:"false"`
	// How long a browser may remember the answer to a preflight.
	MaxAge unit.Duration `yaml:"max_age" default:"10m" max:"1d"`
	// Answer preflights of public sites for this private address.
	PrivateNetwork bool `yaml:"private_network" default:"false"`
	// Refuse requests of other origins with 403 instead of passing them on
	// without permission to read the reply.
	Refuse bool `yaml:"refuse" default:"false"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	p.Check(len(c.Origins)+len(c.OriginRegex) > 0, "origins", "must name at least one origin, here or in origin_regex")
	s, err := origin.Parse(c.Origins)
	if err != nil {
		p.Add("origins", "%v", err)
		return
	}
	if err := s.AddRegex(c.OriginRegex); err != nil {
		p.Add("origin_regex", "%v", err)
		return
	}
	p.Check(!s.Any || len(c.Origins) == 1 && len(c.OriginRegex) == 0, "origins", "* makes the other origins pointless")
	if c.Credentials {
		// Nobody means to hand out a visitor's account to every site there is.
		p.Check(!s.Any, "credentials", "must not be used with the origin *: list the origins")
		p.Check(s.Any || !s.Has([]byte("https://any-site-at-all.invalid")), "credentials",
			"must not be used with an origin_regex that every site matches")
		p.Check(!slices.Contains(c.Expose, "*"), "expose", "must not be * with credentials: browsers take it for a name then")
		p.Check(!slices.Contains(c.Origins, "null"), "credentials", "must not be used with the origin null, which any page can take on")
	}
	names(p, "methods", c.Methods)
	names(p, "headers", c.Headers)
	names(p, "expose", c.Expose)
}

func names(p *problem.List, key string, list []string) {
	for _, n := range list {
		if n == "*" {
			p.Check(len(list) == 1, key, "* makes the others pointless")
			continue
		}
		p.Check(httpguts.ValidHeaderFieldName(n), key, "must be names, got %q", n)
		p.Check(key != "methods" || n == strings.ToUpper(n), key, "must be upper case, got %q", n)
	}
}
