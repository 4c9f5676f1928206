// Package forwardauth is the plugin forward_auth: it asks an HTTP service
// whether a request may pass. The service sees the request's method, address
// and headers, never its body. What it answers with 2xx may add headers to the
// request; anything else is its denial and goes to the client. A service that
// does not answer denies.
package forwardauth

import (
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Config of the plugin forward_auth.
type Config struct {
	// The service's address; it is asked with GET.
	URL string `yaml:"url" required:"true"`
	// How long it may take to answer.
	Timeout unit.Duration `yaml:"timeout" default:"2s" min:"10ms" max:"1m"`
	// Headers of the request that it sees; empty: all but those that concern
	// the connection or the body.
	RequestHeaders []string `yaml:"request_headers"`
	// Headers of its 2xx answer that the upstream gets. The client's own of
	// these names are always removed.
	UpstreamHeaders []string `yaml:"upstream_headers"`
	// Headers of its denial that the client gets.
	ClientHeaders []string `yaml:"client_headers" default:"WWW-Authenticate,Location,Set-Cookie,Content-Type,Retry-After"`
	// The longest denial that is passed on; a longer one is replaced by the
	// gateway's own page.
	BodyLimit unit.Size `yaml:"body_limit" default:"64KiB" max:"1MiB"`
	// Header of its 2xx answer that names the consumer.
	ConsumerHeader string `yaml:"consumer_header"`
	// Let requests pass when it cannot be reached, does not answer in time or
	// answers 502, 503 or 504.
	FailOpen bool `yaml:"fail_open" default:"false"`
	// Connections to it at once.
	MaxConnections int `yaml:"max_connections" default:"256" min:"1" max:"65536"`
	// Certificate authorities (PEM file) instead of the system's.
	CAFile string `yaml:"ca_file"`
	// Remember its 2xx answers for a while.
	Cache *Cache `yaml:"cache"`
}

// Cache remembers 2xx answers by method, address, client address and
// request_headers.
type Cache struct {
	TTL unit.Duration `yaml:"ttl" default:"10s" min:"100ms" max:"1h"`
	// Answers to remember.
	Size int `yaml:"size" default:"4096" min:"16" max:"1000000"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	if u, err := url.Parse(c.URL); err != nil {
		p.Add("url", "%v", err)
	} else {
		p.Check((u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.Fragment == "", "url",
			"must be http://HOST/PATH or https://HOST/PATH, got %q", u.Redacted())
		p.Check(c.CAFile == "" || u.Scheme == "https", "ca_file", "has no meaning with a http url")
	}
	check := func(key string, names []string, framing bool) {
		for _, n := range names {
			if !httpguts.ValidHeaderFieldName(n) {
				p.Add(key, "must be header names, got %q", n)
			} else if isHop(n) || framing && isFraming(n) {
				p.Add(key, "%s concerns the connection or the body and cannot be passed on", n)
			}
		}
	}
	check("request_headers", c.RequestHeaders, true)
	check("upstream_headers", c.UpstreamHeaders, true)
	check("client_headers", c.ClientHeaders, false)
	for _, n := range c.ClientHeaders {
		p.Check(!strings.EqualFold(n, "Content-Length") && !strings.EqualFold(n, "Content-Encoding"), "client_headers",
			"%s is the gateway's to say", n)
	}
	if c.ConsumerHeader != "" {
		check("consumer_header", []string{c.ConsumerHeader}, true)
	}
	if c.Cache != nil {
		p.Check(len(c.RequestHeaders) > 0, "cache", "needs request_headers: an answer may depend on every header the service sees")
	}
}

// isHop says that a header concerns one connection (RFC 9110 7.6.1).
func isHop(name string) bool {
	return slices.Contains([]string{
		"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
		"te", "trailer", "transfer-encoding", "upgrade",
	}, strings.ToLower(name))
}

// isFraming says that a header describes the message: its body, which does not
// go along, or where it goes.
func isFraming(name string) bool {
	name = strings.ToLower(name)
	return name == "host" || name == "content-length" || name == "content-encoding" || name == "content-type" ||
		name == "expect" || name == "accept-encoding" || name == "content-range"
}
