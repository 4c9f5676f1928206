// Package compress is the plugin compress: it compresses replies that gain
// from it, for clients that ask for it.
package compress

import (
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Config of the plugin compress.
type Config struct {
	// Encodings, the preferred first, where a client likes several equally.
	Encodings []string `yaml:"encodings" enum:"zstd,br,gzip" default:"zstd,br,gzip"`
	// How hard to try.
	Level string `yaml:"level" enum:"fast,default,best" default:"default"`
	// Shorter replies are left alone, where their length is known.
	MinSize unit.Size `yaml:"min_size" default:"1KiB"`
	// Content types to compress; type/* and type/*+suffix are patterns.
	ContentTypes []string `yaml:"content_types" default:"text/html,text/css,text/plain,text/xml,text/javascript,text/csv,text/markdown,application/javascript,application/json,application/xml,application/*+json,application/*+xml,application/wasm,application/manifest+json,image/svg+xml,font/ttf,font/otf"`
}

// never are types that must be passed on as they come, whatever the config says.
var never = []string{"text/event-stream", "application/grpc", "application/grpc-web", "multipart/x-mixed-replace"}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	p.Check(len(c.Encodings) > 0, "encodings", "must not be empty")
	seen := map[string]bool{}
	for _, e := range c.Encodings {
		p.Check(!seen[e], "encodings", "has %s twice", e)
		seen[e] = true
	}
	p.Check(len(c.ContentTypes) > 0, "content_types", "must not be empty")
	for _, t := range c.ContentTypes {
		kind, sub, ok := strings.Cut(t, "/")
		star := strings.Count(t, "*")
		p.Check(ok && kind != "" && sub != "" && t == strings.ToLower(t) && !strings.ContainsAny(t, " ;,") &&
			(star == 0 || star == 1 && (sub == "*" || strings.HasPrefix(sub, "*+"))), "content_types",
			"must be type/subtype in lower case, type/* or type/*+suffix, got %q", t)
		for _, n := range never {
			p.Check(t != n, "content_types", "must not have %s, which has to arrive piece by piece", t)
		}
	}
}
