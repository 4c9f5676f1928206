package ratelimit

import (
	"testing"

	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good: []string{
			"{limit: 1000000, per: 1s}",
			"{limit: 1, per: 1h, key: 'route, header.X', dry_run: true, headers: false}",
			"{windows: [{limit: 1, per: 1s}, {limit: 10, per: 1d, burst: 3}], missing_key: refuse, key: consumer}",
		},
		Bad: []plugintest.Bad{{YAML: "{limit: 1}", Want: "per: must be at least 1ms"}},
	})
}
