// Package grpcweb is the plugin grpc_web: it lets browsers call gRPC services,
// which they cannot do by themselves because no script sees trailers.
package grpcweb

import "github.com/gatehouse-proxy/gatehouse/config/unit"

// Config of the plugin grpc_web.
type Config struct {
	// The longest message a client may send; 0: any. The default is what gRPC servers take unless told otherwise.
	MaxMessage unit.Size `yaml:"max_message" default:"4MiB"`
}
