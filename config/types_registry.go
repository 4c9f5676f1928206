package config

// Registry is this node's part in the service registry, whose entries are kept
// in the store.
type Registry struct {
	// When instances that are not heard of any more are kept all the same.
	SelfPreservation SelfPreservation `yaml:"self_preservation"`
	// How many instances there may be; more are refused.
	MaxInstances int `yaml:"max_instances" default:"50000" min:"1" max:"1000000"`
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
