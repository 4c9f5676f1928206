package ratelimit

import (
	"testing"

	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(nil), plugintest.Options{
		Good: []string{
			"{limit: 1000000, per: 1s}",
			"{limit: 1, per: 1h, key: 'route, header.X', dry_run: true, headers: false}",
			"{windows: [{limit: 1, per: 1s}, {limit: 10, per: 1d, burst: 3}], missing_key: refuse, key: consumer}",
			"{limit: 1000000, per: 1s, scope: global, mode: leased, on_store_failure: open, cost_from: {header: X-Cost, default: 2, max: 50}}",
		},
		Bad: []plugintest.Bad{{YAML: "{limit: 1}", Want: "per: must be at least 1ms"}},
	})
}
