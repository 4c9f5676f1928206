package basicauth

import (
	"testing"

	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good:     []string{"{forward: true}", "{}", "{groups: [staff], anonymous: true}"},
		Bad:      []plugintest.Bad{{YAML: "{htpasswd_file: /nonexistent}", Want: "htpasswd_file"}},
		Settings: settings(t),
		Request:  plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n" + basic("bob:builder") + "\r\n"},
	})
}
