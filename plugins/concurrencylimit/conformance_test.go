package concurrencylimit

import (
	"testing"

	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(nil), plugintest.Options{
		Good: []string{
			// Places are given back with the exchange, and the allocation test
			// passes the same one many times.
			"{limit: 1000000}",
			"{limit: 5, key: client_ip, queue: 5}",
			"{limit: 50, adaptive: {max: 100}}",
		},
		Bad:    []plugintest.Bad{{YAML: "{limit: 5, key: x}", Want: "key: unknown attribute"}},
		Allocs: 1, // the list of what is held grows only in that test
	})
}
