package config

import "github.com/gatehouse-proxy/gatehouse/config/unit"

// Store is where the nodes of a fleet keep what they share.
type Store struct {
	// A Redis, version 7 or later. Absent: a file in data_dir, for one node alone.
	Redis *Redis `yaml:"redis"`
}

// Redis is one server, a primary watched by Sentinels, or a Cluster.
type Redis struct {
	// HOST:PORT of the server, of the Sentinels, or of some nodes of the Cluster.
	Addresses []string `yaml:"addresses" required:"true"`
	// The name of the primary that Sentinels watch; the addresses are then theirs.
	Sentinel string `yaml:"sentinel"`
	// The addresses are those of a Redis Cluster.
	Cluster bool `yaml:"cluster" default:"false"`
	// ACL user; empty: Redis' own default user.
	Username string `yaml:"username"`
	// Its password.
	Password unit.Secret `yaml:"password"`
	// ACL user and password of the Sentinels, where they ask for them.
	SentinelUsername string `yaml:"sentinel_username"`
	// Password of the Sentinels.
	SentinelPassword unit.Secret `yaml:"sentinel_password"`
	// Number of the database; a Cluster has only 0.
	DB int `yaml:"db" default:"0" min:"0" max:"1000000"`
	// How the names of all keys begin. Fleets that share a Redis need different
	// ones.
	Prefix string `yaml:"prefix" default:"gatehouse"`
	// How long connecting, and each command, may take.
	Timeout unit.Duration `yaml:"timeout" default:"1s" min:"10ms" max:"1m"`
	// Speak TLS. Absent: plain text.
	TLS *RedisTLS `yaml:"tls"`
}

// RedisTLS is how TLS is spoken with Redis. {} checks the server's certificate
// against the system's authorities. Files are read when the node starts.
type RedisTLS struct {
	// PEM file with the authorities to check against instead, relative to the
	// config.
	CAFile string `yaml:"ca_file"`
	// PEM files with our own certificate and its key, for servers that ask.
	CertFile string `yaml:"cert_file"`
	// The certificate's private key.
	KeyFile string `yaml:"key_file"`
	// Name that the server's certificate must be for. Default: the host of the
	// address.
	ServerName string `yaml:"server_name"`
}

// Control is the control role of a node whose config comes from the store.
type Control struct {
	// This node publishes revisions when gatehouse apply asks it to, and restores
	// them to a store that has lost them.
	Enabled bool `yaml:"enabled" default:"true"`
	// The key that revisions are signed with, PKCS #8 PEM of an Ed25519 key, mode
	// 0600; made on first use. Default: data_dir/control.key.
	KeyFile string `yaml:"key_file"`
	// Public keys whose revisions this node runs, besides its own. gatehouse
	// status of a control node shows its key.
	TrustedKeys []string `yaml:"trusted_keys"`
	// How many revisions the store keeps for history, show, diff and rollback.
	// Older ones are removed when this node publishes one.
	History int `yaml:"history" default:"200" min:"10" max:"100000"`
}
