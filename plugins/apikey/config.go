// Package apikey is the plugin api_key: it lets in who sends a key that a
// consumer owns. Keys are known by their SHA-256 digests only, and are taken
// out of the request before it is forwarded.
package apikey

import (
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// off switches a place off that has a default.
const off = "off"

// Config of the plugin api_key.
type Config struct {
	// Header that carries the key; "off" looks in none.
	Header string `yaml:"header" default:"X-API-Key"`
	// What precedes the key in the header, such as Bearer or ApiKey. A header
	// with another scheme is left alone.
	Scheme string `yaml:"scheme"`
	// Query parameter that carries the key. Addresses are logged in many
	// places: prefer the header.
	Query string `yaml:"query"`
	// Cookie that carries the key.
	Cookie string `yaml:"cookie"`
	// Consumers must be in one of these groups; empty: any.
	Groups []string `yaml:"groups"`
	// Let requests without a key pass as anonymous. A wrong key is refused all
	// the same.
	Anonymous bool `yaml:"anonymous" default:"false"`
	// Leave the key in the request for the upstream.
	Forward bool `yaml:"forward" default:"false"`
	// Realm in WWW-Authenticate.
	Realm string `yaml:"realm" default:"gatehouse"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	p.Check(c.header() != "" || c.Query != "" || c.Cookie != "", "header",
		"is off, and neither query nor cookie is given: there is no place to look for a key")
	if h := c.header(); h != "" {
		p.Check(httpguts.ValidHeaderFieldName(h), "header", "must be a header name, got %q", h)
	}
	if c.Scheme != "" {
		p.Check(c.header() != "", "scheme", "has no meaning while header is off")
		p.Check(httpguts.ValidHeaderFieldName(c.Scheme), "scheme", "must be one word, got %q", c.Scheme)
	}
	if c.Cookie != "" {
		p.Check((&http.Cookie{Name: c.Cookie}).Valid() == nil, "cookie", "must be a cookie name, got %q", c.Cookie)
	}
	p.Check(!strings.ContainsAny(c.Realm, "\"\\\r\n\x00") && httpguts.ValidHeaderFieldValue(c.Realm), "realm",
		"must be text without quotes, backslashes and control characters, got %q", c.Realm)
	for i, g := range c.Groups {
		p.Check(g != "", "groups", "must not contain an empty name (number %d)", i+1)
	}
}

func (c *Config) header() string {
	if c.Header == off {
		return ""
	}
	return c.Header
}
