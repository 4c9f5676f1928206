package config

import (
	"errors"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// HTTP3 offers HTTP/3 on the UDP port of the same number; "true" alone is short
// for its defaults. Clients learn of it from the header Alt-Svc of replies, in
// the place of what an upstream says there.
type HTTP3 struct {
	// false: as if it were not there at all.
	Enabled *bool `yaml:"enabled"`
	// Take WebSockets as streams of an HTTP/3 connection (RFC 9220). Routes,
	// plugins and upstreams see what they see of one over HTTP/1.1. Clients are
	// told that they may open them in any case; with false they are answered 501.
	WebSockets bool `yaml:"websockets" default:"true"`
	// Requests at once on one connection.
	MaxConcurrentStreams int `yaml:"max_concurrent_streams" default:"100" min:"1" max:"10000"`
	// How long clients may remember that HTTP/3 is spoken here; 0s: they are not told.
	AltSvcMaxAge unit.Duration `yaml:"alt_svc_max_age" default:"24h" max:"8760h"`
	// The port that clients are told; 0 is the one listened on. Set it where a
	// balancer or a container maps another port to it.
	AltSvcPort int `yaml:"alt_svc_port" default:"0" min:"0" max:"65535"`
}

// UnmarshalText reads the short form.
func (h *HTTP3) UnmarshalText(text []byte) error {
	on := string(text) == "true"
	if !on && string(text) != "false" {
		return errors.New("must be true, false or a map of its settings")
	}
	h.Enabled = &on
	return nil
}

// On says whether HTTP/3 is wanted.
func (h *HTTP3) On() bool { return h != nil && (h.Enabled == nil || *h.Enabled) }
