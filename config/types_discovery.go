package config

import "github.com/gatehouse-proxy/gatehouse/config/unit"

// DNS is a name that stands for endpoints, written as "NAME:PORT" or in full.
type DNS struct {
	// NAME:PORT; of SRV records their NAME alone.
	Name string `yaml:"name" required:"true"`
	// What to ask for: addresses (IPv4, or IPv6 if there are none), or SRV records
	// with the ports, weights and priorities.
	Type string `yaml:"type" enum:"a,srv" default:"a"`
	// How often the name is resolved again where its records have no TTL, or one
	// of 0; the system's resolver never tells it. With server it is done when the
	// TTL is over.
	Refresh unit.Duration `yaml:"refresh" default:"30s" min:"1s"`
	// A shorter TTL counts as this one.
	MinTTL unit.Duration `yaml:"min_ttl" default:"5s" min:"1s"`
	// A longer TTL counts as this one.
	MaxTTL unit.Duration `yaml:"max_ttl" default:"1h" min:"1s"`
	// A DNS server HOST:PORT instead of the system's.
	Server string `yaml:"server"`
}

// UnmarshalText reads the short form.
func (d *DNS) UnmarshalText(text []byte) error {
	d.Name = string(text)
	return nil
}

// EndpointsFile has endpoints as they would be written under endpoints, in YAML
// or JSON: ["10.0.0.1:8080", {"address": "10.0.0.2:8080", "weight": 2}]. It is
// looked at every two seconds; while it is missing or wrong the last list stays
// in use. Replace it in one step, by renaming a new file. Written as its path or
// in full.
type EndpointsFile struct {
	// Path of the file, relative to the config.
	Path string `yaml:"path" required:"true"`
	// Believe that there is no endpoint at all, instead of keeping the last ones.
	AllowEmpty bool `yaml:"allow_empty" default:"false"`
}

// UnmarshalText reads the short form.
func (f *EndpointsFile) UnmarshalText(text []byte) error {
	f.Path = string(text)
	return nil
}

// Consul is asked by blocking queries, so that changes are known at once.
// Written as the service's name or in full.
type Consul struct {
	// Name of the service.
	Service string `yaml:"service" required:"true"`
	// URL of the agent or server.
	Address string `yaml:"address" default:"http://127.0.0.1:8500"`
	// Only instances that have all of these tags.
	Tags []string `yaml:"tags"`
	// Default: that of the agent.
	Datacenter string `yaml:"datacenter"`
	// Consul Enterprise. Default: that of the token.
	Namespace string `yaml:"namespace"`
	// Consul Enterprise. Default: that of the agent.
	Partition string `yaml:"partition"`
	// Leave out instances whose checks warn; otherwise they get requests by their
	// weight for warnings. Instances with a critical check are always left out.
	PassingOnly bool `yaml:"passing_only" default:"true"`
	// The key in a node's metadata that has its zone. Where it is not there,
	// Consul's own locality counts.
	ZoneMeta string `yaml:"zone_meta" default:"zone"`
	// Let any server answer, not only the leader.
	Stale bool `yaml:"stale" default:"true"`
	// How long a query waits for a change.
	Wait unit.Duration `yaml:"wait" default:"5m" min:"1s" max:"10m"`
	// ACL token. It needs service:read for the service and node:read for the nodes
	// it runs on.
	Token unit.Secret `yaml:"token"`
	// TLS with an https address.
	TLS SourceTLS `yaml:"tls"`
	// Believe that there is no instance at all, instead of keeping the last ones.
	AllowEmpty bool `yaml:"allow_empty" default:"false"`
}

// UnmarshalText reads the short form.
func (c *Consul) UnmarshalText(text []byte) error {
	c.Service = string(text)
	return nil
}

// Eureka is asked for the whole registry once and then for its changes.
type Eureka struct {
	// Name of the application; case does not matter.
	App string `yaml:"app" required:"true"`
	// URLs of servers that know the same, such as http://eureka:8761/eureka. When
	// one fails the next is asked.
	Servers []string `yaml:"servers" required:"true"`
	// How often changes are asked for.
	Refresh unit.Duration `yaml:"refresh" default:"30s" min:"1s" max:"10m"`
	// Connect to the instances' secure ports; set tls of the upstream as well.
	Secure bool `yaml:"secure" default:"false"`
	// Connect to the instances' host names instead of their addresses.
	Hostname bool `yaml:"hostname" default:"false"`
	// The key in an instance's metadata that has its zone.
	ZoneMeta string `yaml:"zone_meta" default:"zone"`
	// User of basic authentication. Default: none.
	Username string `yaml:"username"`
	// Its password.
	Password unit.Secret `yaml:"password"`
	// TLS with https addresses.
	TLS SourceTLS `yaml:"tls"`
	// Believe that there is no instance at all, instead of keeping the last ones.
	AllowEmpty bool `yaml:"allow_empty" default:"false"`
}

// Kubernetes is watched, so that changes are known at once. In a pod only
// service is needed: the rest comes from its service account, which must be
// allowed to list and watch endpointslices of discovery.k8s.io.
type Kubernetes struct {
	// Name of the service.
	Service string `yaml:"service" required:"true"`
	// Default: the pod's own, elsewhere "default".
	Namespace string `yaml:"namespace"`
	// Name or number of the port that the pods listen on. Needed where there are
	// several.
	Port string `yaml:"port"`
	// Which addresses of a dual-stack service; auto is IPv4, or IPv6 where there
	// is none.
	Addresses string `yaml:"addresses" enum:"auto,ipv4,ipv6" default:"auto"`
	// URL of the API server. Default: that of the cluster that the node runs in.
	Server string `yaml:"server"`
	// File with the bearer token, read for every request. Default in a pod: that
	// of its service account.
	TokenFile string `yaml:"token_file"`
	// TLS with server. In a pod the authority is that of its service account.
	TLS SourceTLS `yaml:"tls"`
	// Believe that there is no pod at all, instead of keeping the last ones.
	AllowEmpty bool `yaml:"allow_empty" default:"false"`
}

// SourceTLS is how TLS is spoken with a registry. By default its certificate is
// checked against the system's authorities. Files are followed.
type SourceTLS struct {
	// PEM file with the authorities to check against instead, relative to the
	// config.
	CAFile string `yaml:"ca_file"`
	// PEM file with our own certificate, for servers that ask.
	CertFile string `yaml:"cert_file"`
	// The certificate's private key.
	KeyFile string `yaml:"key_file"`
	// Name that the server's certificate must be for. Default: the host of the
	// address.
	ServerName string `yaml:"server_name"`
}

// Mesh is a service of the mesh, written as its name or in full.
type Mesh struct {
	// The service's name.
	Service string `yaml:"service" required:"true"`
	// Take the last instance away too when it is drained, deregistered or evicted;
	// false keeps sending it requests. While the registry is away nothing is taken
	// away in either case.
	AllowEmpty bool `yaml:"allow_empty" default:"true"`
}

// UnmarshalText reads the short form.
func (m *Mesh) UnmarshalText(text []byte) error {
	m.Service = string(text)
	return nil
}
