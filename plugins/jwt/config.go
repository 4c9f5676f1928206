// Package jwt is the plugin jwt: it lets in who brings a JSON Web Token signed
// by a trusted key (RFC 7519, with the practices of RFC 8725), and makes its
// claims known to the plugins that follow. Keys come from a URL, a file or the
// config; a token that was right is remembered until it expires.
package jwt

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// off switches a place off that has a default.
const off = "off"

// Config of the plugin jwt.
type Config struct {
	// Where the keys are published; exactly one of jwks_url, jwks_file, jwks
	// and secret. https, or http to this machine only.
	JWKSURL string `yaml:"jwks_url"`
	// A file with a JSON Web Key Set; it is read again when it changes.
	JWKSFile string `yaml:"jwks_file"`
	// A JSON Web Key Set in place.
	JWKS string `yaml:"jwks"`
	// The shared secret of HMAC signatures, at least as long as their hash.
	Secret unit.Secret `yaml:"secret"`
	// Signature algorithms to accept. Default: HS256 with a secret, otherwise
	// every RS, PS, ES and EdDSA algorithm that fits the key.
	Algorithms []string `yaml:"algorithms" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA,Ed25519,HS256,HS384,HS512"`

	// The iss claim must be this. Empty: not checked.
	Issuer string `yaml:"issuer"`
	// The aud claim must have one of these.
	Audiences []string `yaml:"audiences"`
	// Accept tokens that are meant for anybody.
	AnyAudience bool `yaml:"any_audience" default:"false"`
	// The typ header must be this, such as at+jwt. Empty: not checked.
	Type string `yaml:"type"`
	// Tokens must expire.
	RequireExpiry bool `yaml:"require_expiry" default:"true"`
	// By how much clocks may differ.
	Skew unit.Duration `yaml:"skew" default:"30s" max:"10m"`
	// Claims that must be there, each with the values to accept; an empty list
	// accepts any. A list claim must have one of the values.
	RequiredClaims map[string][]string `yaml:"required_claims"`
	// Scopes that must all be granted, in the claim scope or scp.
	Scopes []string `yaml:"scopes"`

	// Header that carries the token; "off" looks in none.
	Header string `yaml:"header" default:"Authorization"`
	// What precedes the token in the header; empty: nothing.
	Scheme string `yaml:"scheme" default:"Bearer"`
	// Query parameter that carries the token. Addresses are logged in many
	// places: prefer the header.
	Query string `yaml:"query"`
	// Cookie that carries the token.
	Cookie string `yaml:"cookie"`
	// Let requests without a token pass as anonymous. A bad token is refused
	// all the same.
	Anonymous bool `yaml:"anonymous" default:"false"`
	// Leave the token in the request for the upstream.
	Forward bool `yaml:"forward" default:"false"`
	// Realm in WWW-Authenticate.
	Realm string `yaml:"realm" default:"gatehouse"`

	// Claim that names the consumer.
	ConsumerClaim string `yaml:"consumer_claim"`
	// Refuse tokens whose consumer_claim names no configured consumer.
	ConsumerRequired bool `yaml:"consumer_required" default:"true"`

	// Tokens to remember until they expire; 0: check every signature.
	CacheSize int `yaml:"cache_size" default:"4096" min:"0" max:"1000000"`
	// How often jwks_url is fetched again.
	Refresh unit.Duration `yaml:"refresh" default:"15m" min:"10s" max:"7d"`
	// How often at most it is fetched again for a key that is not known yet.
	RefreshUnknown unit.Duration `yaml:"refresh_unknown" default:"10s" min:"1s" max:"1h"`
	// How long a fetch may take.
	Timeout unit.Duration `yaml:"timeout" default:"5s" min:"10ms" max:"1m"`
	// Certificate authorities (PEM file) for jwks_url instead of the system's.
	CAFile string `yaml:"ca_file"`
}

var (
	asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
	symmetric  = []string{"HS256", "HS384", "HS512"}
)

func isHMAC(alg string) bool { return strings.HasPrefix(alg, "HS") }

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	c.validateKeys(p)
	c.validatePlaces(p)
	p.Check(len(c.Audiences) > 0 || c.AnyAudience, "audiences",
		"must not be empty: a token for another service would be accepted; say any_audience: true if that is meant")
	p.Check(len(c.Audiences) == 0 || !c.AnyAudience, "any_audience", "cannot be given beside audiences")
	for i, s := range c.Scopes {
		p.Check(s != "" && !strings.ContainsAny(s, " \"\\"), "scopes", "must be words without quotes, got %q (number %d)", s, i+1)
	}
	for name := range c.RequiredClaims {
		p.Check(name != "", "required_claims", "must not have an empty name")
	}
	p.Check(!strings.ContainsAny(c.Realm, "\"\\\r\n\x00") && httpguts.ValidHeaderFieldValue(c.Realm), "realm",
		"must be text without quotes, backslashes and control characters, got %q", c.Realm)
}

func (c *Config) validateKeys(p *problem.List) {
	n := 0
	for _, s := range []string{c.JWKSURL, c.JWKSFile, c.JWKS, string(c.Secret)} {
		if s != "" {
			n++
		}
	}
	p.Check(n == 1, "", "needs exactly one of jwks_url, jwks_file, jwks and secret, got %d", n)
	if c.JWKSURL != "" {
		if u, err := url.Parse(c.JWKSURL); err != nil {
			p.Add("jwks_url", "%v", err)
		} else if u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
			p.Add("jwks_url", "must be https://HOST/PATH without user name, got %q", c.JWKSURL)
		} else if u.Scheme == "http" && !isLoopback(u.Hostname()) {
			p.Add("jwks_url", "must be https: whoever can change the answer on its way can sign tokens; got %q", c.JWKSURL)
		}
	}
	if c.JWKS != "" {
		if _, err := parseKeys([]byte(c.JWKS), c.algorithms()); err != nil {
			p.Add("jwks", "%v", err)
		}
	}
	for _, a := range c.Algorithms {
		switch {
		case c.Secret != "" && !isHMAC(a):
			p.Add("algorithms", "%s does not work with a secret; use %s", a, strings.Join(symmetric, ", "))
		case c.JWKSURL != "" && isHMAC(a):
			p.Add("algorithms", "%s needs a secret key, which cannot be published at jwks_url", a)
		case c.Secret != "" && len(c.Secret.Reveal()) < hmacBytes(a):
			p.Add("secret", "must have at least %d bytes for %s", hmacBytes(a), a)
		}
	}
	if c.Secret != "" && len(c.Algorithms) == 0 {
		p.Check(len(c.Secret.Reveal()) >= hmacBytes("HS256"), "secret", "must have at least %d bytes", hmacBytes("HS256"))
	}
	p.Check(c.CAFile == "" || strings.HasPrefix(c.JWKSURL, "https:"), "ca_file", "has no meaning without a https jwks_url")
}

func (c *Config) validatePlaces(p *problem.List) {
	h := c.header()
	p.Check(h != "" || c.Query != "" || c.Cookie != "", "header",
		"is off, and neither query nor cookie is given: there is no place to look for a token")
	if h != "" {
		p.Check(httpguts.ValidHeaderFieldName(h), "header", "must be a header name, got %q", h)
	}
	if c.Scheme != "" {
		p.Check(httpguts.ValidHeaderFieldName(c.Scheme), "scheme", "must be one word, got %q", c.Scheme)
	}
	if c.Cookie != "" {
		p.Check((&http.Cookie{Name: c.Cookie}).Valid() == nil, "cookie", "must be a cookie name, got %q", c.Cookie)
	}
}

func (c *Config) header() string {
	if c.Header == off {
		return ""
	}
	return c.Header
}

func (c *Config) algorithms() []string {
	switch {
	case len(c.Algorithms) > 0:
		list := slices.Clone(c.Algorithms)
		// Two names for the same: RFC 8037 and RFC 9864.
		if slices.Contains(list, "EdDSA") && !slices.Contains(list, "Ed25519") {
			list = append(list, "Ed25519")
		}
		return list
	case c.Secret != "":
		return []string{"HS256"}
	default:
		return asymmetric
	}
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
