package compile

import (
	"context"
	"errors"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/discovery/dns"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// source makes what finds the endpoints of an upstream; nil: they are given.
// allowEmpty says that it may take the last one away.
func (b *build) source(c config.Upstream) (s upstream.Source, allowEmpty bool, err error) {
	switch {
	case c.DNS != nil:
		d := c.DNS
		return dns.New(dns.Settings{
			Name: d.Name, SRV: d.Type == "srv", Server: d.Server,
			Refresh: d.Refresh.D(), MinTTL: d.MinTTL.D(), MaxTTL: d.MaxTTL.D(),
		}), false, nil
	case c.Mesh != nil:
		s, err := b.mesh(c.Mesh.Service)
		return s, c.Mesh.AllowEmpty, err
	}
	return nil, false, nil
}

func (b *build) mesh(service string) (upstream.Source, error) {
	switch {
	case b.settings.Mesh != nil:
		return b.settings.Mesh(service), nil
	case b.mode == DryRun:
		return unasked{"mesh", service}, nil // who only looks at a config needs no registry
	}
	return nil, errors.New("mesh: this node has no registry")
}

// unasked stands for a source that is not going to be run.
type unasked struct{ kind, target string }

// Name implements upstream.Source.
func (s unasked) Name() (kind, target string) { return s.kind, s.target }

// Run implements upstream.Source.
func (unasked) Run(context.Context, func(upstream.Report)) {}
