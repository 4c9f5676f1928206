package apikey_test

import (
	"testing"

	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/apikey"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, apikey.Factory(), plugintest.Options{
		Good:     []string{"{forward: true, groups: [ops]}", "{}", "{header: off, cookie: k, anonymous: true}"},
		Bad:      []plugintest.Bad{{YAML: "{header: off}", Want: "header: is off"}},
		Settings: plugins.Settings{Consumers: directory()},
		Request:  plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nX-API-Key: alice-key-1\r\n\r\n"},
	})
}
