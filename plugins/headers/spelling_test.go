package headers

import (
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

// TestOtherSpellings: to a CGI-like application X_Consumer is X-Consumer.
func TestOtherSpellings(t *testing.T) {
	h := build(t, `{request: {remove: [X-Gone, "X-Internal-*"], set: {X-Consumer: "${consumer}", X-Route: r}, add: {X-Added: "1"}}}`)
	var got string
	end := func(c *fiber.Ctx) error {
		got = ""
		for k, v := range c.Request().Header.All() {
			got += strings.ToLower(string(k)) + "=" + string(v) + ";"
		}
		return plugintest.Upstream(c)
	}
	plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nX_Consumer: bad\r\nx-CONSUMER: bad\r\nX_Route: bad\r\n" +
		"X_GONE: bad\r\nX_Internal_User: bad\r\nX-Internal_User: bad\r\nX_Added: kept\r\nX_Other: kept\r\n\r\n"}, h, end)
	if strings.Contains(got, "bad") || strings.Count(got, "kept") != 2 || !strings.Contains(got, "x-route=r;") {
		t.Errorf("upstream saw %s", got)
	}
}
