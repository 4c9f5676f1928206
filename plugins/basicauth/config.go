// Package basicauth is the plugin basic_auth: HTTP Basic authentication
// (RFC 7617) against consumers' password hashes and, if wanted, an htpasswd
// file. Password hashes are slow on purpose; the package makes sure that they
// are slow for attackers only: checks at once are limited, and a password that
// was right is remembered for a while as a keyed digest.
package basicauth

import (
	"runtime"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Config of the plugin basic_auth.
type Config struct {
	// Realm shown by browsers.
	Realm string `yaml:"realm" default:"gatehouse"`
	// A file of NAME:HASH lines with bcrypt or argon2id hashes, besides the
	// consumers. It is read again when it changes.
	HtpasswdFile string `yaml:"htpasswd_file"`
	// Users must be in one of these groups of their consumer; empty: any.
	Groups []string `yaml:"groups"`
	// Let requests without credentials pass as anonymous. Wrong ones are
	// refused all the same.
	Anonymous bool `yaml:"anonymous" default:"false"`
	// Leave the Authorization header in the request for the upstream.
	Forward bool `yaml:"forward" default:"false"`
	// How long a password that was right need not be hashed again; 0s: always hash.
	CacheTTL unit.Duration `yaml:"cache_ttl" default:"1m" max:"1h"`
	// Password hashes computed at once; 0: half the processors.
	MaxConcurrent int `yaml:"max_concurrent" default:"0" min:"0" max:"1024"`
	// How long a request may wait for its turn before it is refused with 503.
	MaxWait unit.Duration `yaml:"max_wait" default:"2s" max:"1m"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	p.Check(!strings.ContainsAny(c.Realm, "\"\\\r\n\x00") && httpguts.ValidHeaderFieldValue(c.Realm), "realm",
		"must be text without quotes, backslashes and control characters, got %q", c.Realm)
	for i, g := range c.Groups {
		p.Check(g != "", "groups", "must not contain an empty name (number %d)", i+1)
	}
}

func (c *Config) concurrent() int {
	if c.MaxConcurrent > 0 {
		return c.MaxConcurrent
	}
	return max(1, runtime.GOMAXPROCS(0)/2)
}

func (c *Config) wait() time.Duration { return c.MaxWait.D() }
