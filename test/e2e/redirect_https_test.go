package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// Every request over plain HTTP is sent to https before any route or plugin
// sees it, but for what a trusted proxy says came by https.
func TestRedirectToHTTPS(t *testing.T) {
	n := prepare(t, "")
	n.writeRaw(fmt.Sprintf(`node:
  data_dir: %s
  admin: { address: %q }
  access_log: { path: %s }
  drain: { timeout: 30s }
listeners:
  web: { address: %q, redirect_to_https: { port: 8443, status: 301 }, trusted_proxies: [127.0.0.0/8] }
plugins:
  - headers: { security: { hsts_subdomains: true, hsts_preload: true } }
  - maintenance: {}
routes:
  all: { match: { path: / }, respond: { body: here } }
`, n.dataDir, n.admin, n.access, n.web))
	n.run()
	n.waitReady()
	for request, want := range map[string]string{
		"GET /a/%2e?q=1&r HTTP/1.1\r\nHost: API.test:8080\r\n":                  "Location: https://api.test:8443/a/%2e?q=1&r\r\n",
		"POST //evil.test/ HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n": "Location: https://api.test:8443//evil.test/\r\n",
		"GET http://api.test/abs?x HTTP/1.1\r\nHost: api.test\r\n":              "Location: https://api.test:8443/abs?x\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: api.test\r\n":                              "Location: https://api.test:8443/\r\n",
		"GET / HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-Proto: http\r\n":       "Location: https://api.test:8443/\r\n",
	} {
		got := n.raw(request + "Connection: close\r\n\r\nxx")
		if !strings.HasPrefix(got, "HTTP/1.1 301 ") || !strings.Contains(got, want) || strings.Contains(got, "Strict-Transport-Security") {
			t.Errorf("%q: %q", request, got)
		}
	}
	got := n.raw("GET / HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "Strict-Transport-Security: max-age=31536000; includeSubDomains; preload\r\n") {
		t.Errorf("what came by https: %q", got)
	}
	for _, bad := range []string{"Host: a@b\r\n", "Host: a b\r\n", "Host: \r\n", ""} {
		if got := n.raw("GET /x HTTP/1.1\r\n" + bad + "\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") || strings.Contains(got, "Location") {
			t.Errorf("%q: %q", bad, got)
		}
	}
	line := n.accessLine("a redirect", func(m map[string]any) bool { return m["route"] == "redirect_to_https" && m["method"] == "POST" })
	if line["status"] != float64(301) || line["reason"] != nil {
		t.Errorf("%v", line)
	}
	n.eventually("all are counted", func() error {
		return is(n.metric(`gatehouse_route_requests_total{code="301",route="redirect_to_https"}`), 5)
	})
}
