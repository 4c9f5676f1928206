package compile

import (
	"context"
	"errors"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/discovery"
	"github.com/gatehouse-proxy/gatehouse/discovery/consul"
	"github.com/gatehouse-proxy/gatehouse/discovery/dns"
	"github.com/gatehouse-proxy/gatehouse/discovery/eureka"
	"github.com/gatehouse-proxy/gatehouse/discovery/file"
	"github.com/gatehouse-proxy/gatehouse/discovery/kubernetes"
	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
)

// source makes what finds the endpoints of an upstream; nil: they are given.
// allowEmpty says that it may take the last one away.
func (b *build) source(name string, c config.Upstream, trust dial.TLSSettings) (s upstream.Source, allowEmpty bool, err error) {
	server := remote.Settings{TLS: trust, UserAgent: "gatehouse/" + b.settings.Version}
	switch {
	case c.DNS != nil:
		s = dnsSource(c.DNS)
	case c.File != nil:
		s, allowEmpty = file.New(b.file(c.File.Path)), c.File.AllowEmpty
	case c.Consul != nil:
		s, err = consulSource(c.Consul, server)
		allowEmpty = c.Consul.AllowEmpty
	case c.Eureka != nil:
		s, err = eurekaSource(c.Eureka, server)
		allowEmpty = c.Eureka.AllowEmpty
	case c.Kubernetes != nil:
		s, err = b.kubernetesSource(c.Kubernetes, server)
		allowEmpty = c.Kubernetes.AllowEmpty
	case c.Mesh != nil:
		s, err = b.mesh(c.Mesh.Service, c.TLS != nil)
		return s, c.Mesh.AllowEmpty, err // the registry keeps all services by itself
	default:
		return nil, false, nil
	}
	if err != nil || b.settings.DiscoveryDir == "" {
		return s, allowEmpty, err
	}
	return b.kept(name, s), allowEmpty, nil
}

// kept has the last list of s outlive the process.
func (b *build) kept(name string, s upstream.Source) upstream.Source {
	return discovery.Keep(s, b.settings.DiscoveryDir, name, b.settings.Log.With("upstream", name))
}

// pruneKept removes the lists of upstreams that are gone.
func (c *Compiler) pruneKept(u *snapshot.Units) {
	if c.settings.DiscoveryDir == "" {
		return
	}
	var paths []string
	u.Each(func(_ string, unit snapshot.Unit) {
		if up, ok := unit.(*upstream.Upstream); ok {
			if k, ok := up.Source().(*discovery.Kept); ok {
				paths = append(paths, k.Path())
			}
		}
	})
	if err := discovery.Prune(c.settings.DiscoveryDir, paths); err != nil {
		c.settings.Log.Warn("old lists of endpoints cannot be removed", "error", err)
	}
}

func dnsSource(d *config.DNS) upstream.Source {
	return dns.New(dns.Settings{
		Name: d.Name, SRV: d.Type == "srv", Server: d.Server,
		Refresh: d.Refresh.D(), MinTTL: d.MinTTL.D(), MaxTTL: d.MaxTTL.D(),
	})
}

func consulSource(c *config.Consul, server remote.Settings) (upstream.Source, error) {
	server.Servers = []string{c.Address}
	return consul.New(consul.Settings{
		Client: server, Service: c.Service, Tags: c.Tags, Datacenter: c.Datacenter, Namespace: c.Namespace, Partition: c.Partition,
		Warning: !c.PassingOnly, ZoneMeta: c.ZoneMeta, Stale: c.Stale, Wait: c.Wait.D(), Token: c.Token.Reveal(),
	})
}

func eurekaSource(e *config.Eureka, server remote.Settings) (upstream.Source, error) {
	server.Servers = e.Servers
	return eureka.New(eureka.Settings{
		Client: server, App: e.App, Refresh: e.Refresh.D(), Secure: e.Secure, Hostname: e.Hostname, ZoneMeta: e.ZoneMeta,
		Username: e.Username, Password: e.Password.Reveal(),
	})
}

func (b *build) kubernetesSource(k *config.Kubernetes, server remote.Settings) (upstream.Source, error) {
	if k.Server != "" {
		server.Servers = []string{k.Server}
	}
	s := kubernetes.Settings{
		Client: server, Namespace: k.Namespace, Service: k.Service, Port: k.Port,
		Addresses: map[string]string{"ipv4": "IPv4", "ipv6": "IPv6"}[k.Addresses],
	}
	if k.TokenFile != "" {
		s.TokenFile = b.file(k.TokenFile)
	}
	return kubernetes.New(s)
}

// sourceTLS is how TLS is spoken with the registry of an upstream, and where in
// the config that is.
func sourceTLS(name string, c config.Upstream) (path string, t config.SourceTLS) {
	path = "upstreams." + name
	switch {
	case c.Consul != nil:
		return path + ".consul.tls", c.Consul.TLS
	case c.Eureka != nil:
		return path + ".eureka.tls", c.Eureka.TLS
	case c.Kubernetes != nil:
		return path + ".kubernetes.tls", c.Kubernetes.TLS
	}
	return path, t
}

// sourceTrust reads the files of sourceTLS. same is false where an upstream made
// before cannot be kept.
func (b *build) sourceTrust(name string, c config.Upstream) (s dial.TLSSettings, same bool) {
	path, t := sourceTLS(name, c)
	s = dial.TLSSettings{Upstream: name, ServerName: t.ServerName, Log: b.settings.Log}
	if t.CAFile != "" {
		s.CAFile = b.file(t.CAFile)
		d, err := dial.New(dial.Settings{TLS: &s})
		if err == nil {
			err = d.Load()
		}
		b.loaded(path+".ca_file", err, "the authorities of a registry cannot be used; it is not asked until they can")
	}
	own, same := b.ownCertificate(path, t.CertFile, t.KeyFile)
	if own != nil {
		s.Certificate = own
	}
	return s, same
}

// sourceDir is what the paths of a source depend on.
func (b *build) sourceDir(c config.Upstream) string {
	_, t := sourceTLS("", c)
	if c.File != nil || t != (config.SourceTLS{}) || c.Kubernetes != nil && c.Kubernetes.TokenFile != "" {
		return b.src.Dir
	}
	return ""
}

func (b *build) mesh(service string, secure bool) (upstream.Source, error) {
	switch {
	case b.settings.Mesh != nil:
		return b.settings.Mesh(service, secure), nil
	case b.mode.dry():
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
