// Package bodylimit is the plugin body_limit: it refuses request bodies above
// a size.
package bodylimit

import (
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Config of the plugin body_limit.
type Config struct {
	// The largest request body that passes; 0 allows none at all.
	Max unit.Size `yaml:"max" default:"10MiB"`
}
