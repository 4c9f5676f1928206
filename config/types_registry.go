package config

import "github.com/gatehouse-proxy/gatehouse/config/unit"

// Registry is this node's part in the service registry, whose entries are kept
// in the store.
type Registry struct {
	// When instances that are not heard of any more are kept all the same.
	SelfPreservation SelfPreservation `yaml:"self_preservation"`
	// How many instances there may be; more are refused.
	MaxInstances int `yaml:"max_instances" default:"50000" min:"1" max:"1000000"`
	// Eureka's REST interface, for services that register with Eureka. Absent:
	// none.
	Eureka *EurekaServer `yaml:"eureka"`
}

// SelfPreservation tells instances that died from heartbeats that do not get
// here. Nodes with the control role look after it.
type SelfPreservation struct {
	// Keep them at all.
	Enabled bool `yaml:"enabled" default:"true"`
	// Share of all instances, in percent, that may be evicted within two minutes;
	// in small registries up to half, but three at most. If more are silent at
	// once, nobody is evicted. Eureka's 0.85 is 15 here.
	Threshold int `yaml:"threshold" default:"15" min:"1" max:"100"`
}

// EurekaServer is where clients of Eureka find the registry.
type EurekaServer struct {
	// HOST:PORT to listen on. Clients are given http://USER:PASSWORD@HOST:PORT/eureka.
	Address string `yaml:"address" required:"true"`
	// How clients prove who they are: basic, by users; none lets in everybody who
	// can reach the address, for trusted networks only.
	Auth string `yaml:"auth" enum:"basic,none" default:"basic"`
	// Passwords by user name, at least 16 bytes each. All users may do everything.
	Users map[string]unit.Secret `yaml:"users"`
	// Speak TLS. Absent: plain text, in which passwords can be read on the way.
	TLS *EurekaTLS `yaml:"tls"`
	// The largest body of a request, before and after decompression.
	MaxBody unit.Size `yaml:"max_body" default:"256KiB" min:"1KiB" max:"8MiB"`
	// Requests at once; more wait for a moment and are then refused.
	MaxRequests int `yaml:"max_requests" default:"512" min:"1" max:"100000"`
}

// EurekaTLS is the certificate shown to clients of Eureka. Files are read when
// the node starts.
type EurekaTLS struct {
	// PEM file with the certificate and its chain, relative to the config.
	CertFile string `yaml:"cert_file" required:"true"`
	// Its private key.
	KeyFile string `yaml:"key_file" required:"true"`
}
