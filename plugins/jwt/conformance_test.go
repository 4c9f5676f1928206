package jwt

import (
	"testing"

	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	token := sign(t, pairs()["ed"], claims(nil), nil)
	plugintest.Run(t, Factory(), plugintest.Options{
		Good: []string{
			inline(t, "forward: true, ", "ed", "rsa"),
			"{audiences: [api], anonymous: true, jwks_url: 'http://127.0.0.1:1/keys'}",
			"{any_audience: true, secret: '" + hmacSecret + "'}",
		},
		Request: plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n" + bearer(token) + "\r\n"},
	})
}
