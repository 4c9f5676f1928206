package headers

import (
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good: []string{
			`{request: {remove: [X-A], set: {X-Route: "${route}/${client_ip}", X-B: b}, add: {X-C: "${query.q}"}},
			  response: {remove: [Server], set: {X-D: "${request_id:-none}"}, add: {Vary: Accept}}, security: {}}`,
			"{}",
			`{request: {remove: ["X-Internal-*"]}, response: {remove: ["X-*"]}}`,
		},
		Bad: []plugintest.Bad{
			{YAML: "request: {set: {Content-Length: '1'}}", Want: "request.set.Content-Length: Content-Length belongs to the connection"},
			{YAML: "response: {add: {transfer-encoding: chunked}}", Want: "belongs to the connection"},
			{YAML: "request: {remove: [Connection]}", Want: "request.remove[0]"},
			{YAML: "request: {set: {Host: x}}", Want: "rewrite.host"},
			{YAML: "response: {remove: [Date]}", Want: "gateway's own"},
			{YAML: "request: {set: {'a b': x}}", Want: "must be a header name"},
			{YAML: "request: {remove: ['*']}", Want: "must be a header name"},
			{YAML: "request: {set: {X: '${nope}'}}", Want: "unknown attribute"},
			{YAML: `request: {set: {X: "a\nb"}}`, Want: "request.set.X"},
			{YAML: `request: {set: {X: "${path}\nb"}}`, Want: "control characters"},
			{YAML: "security: {hsts: 30d, hsts_subdomains: true, hsts_preload: true}", Want: "security.hsts_preload: needs hsts of at least 365d, got 30d"},
			{YAML: "security: {hsts_preload: true}", Want: "security.hsts_preload: needs hsts_subdomains"},
			{YAML: "security: {hsts: 0s, hsts_subdomains: true}", Want: "security.hsts_subdomains: has no meaning while hsts is 0s"},
			{YAML: "request: {set: {X: ''}}", Want: "remove the header instead"},
			{YAML: "request: {set: {x-a: '1', X-A: '2'}}", Want: "twice"},
			{YAML: "security: {frame: maybe}", Want: "security.frame"},
			{YAML: `security: {content_security_policy: "a\nb"}`, Want: "security.content_security_policy"},
		},
		Allocs: 0,
	})
}

func build(t *testing.T, yaml string) fiber.Handler {
	t.Helper()
	f := Factory()
	c := f.Config()
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	in, err := f.New(c, plugins.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return in.Handle
}

func TestRequest(t *testing.T) {
	h := build(t, `{request: {
		remove: [X-Gone, "x-internal-*"],
		set: {X-Tenant: "${claim.tenant}", X-Who: "${consumer:-nobody} at ${client_ip}", X-Two: one},
		add: {X-More: "${header.X-More}2"}}}`)
	var got string
	req := plugintest.Request{
		Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nX-Gone: 1\r\nx-internal-user: root\r\nX-Internal-Two: 2\r\nX-Tenant: forged\r\n" +
			"X-Two: a\r\nX-Two: b\r\nX-More: 1\r\nX-Kept: k\r\n\r\n",
		Edit: func(e *exchange.Exchange) { e.Identity.Claims = map[string]any{"tenant": "t1"} },
	}
	end := func(c *fiber.Ctx) error {
		got = ""
		for k, v := range c.Request().Header.All() {
			if strings.HasPrefix(string(k), "X-") {
				got += string(k) + "=" + string(v) + ";"
			}
		}
		return plugintest.Upstream(c)
	}
	plugintest.Do(t, req, h, end)
	for _, want := range []string{"X-Kept=k;", "X-Tenant=t1;", "X-Two=one;", "X-Who=nobody at 192.0.2.1;", "X-More=1;", "X-More=12;"} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %s in %s", want, got)
		}
	}
	if strings.Contains(got, "Gone") || strings.Contains(got, "Internal") || strings.Count(got, "X-Two") != 1 {
		t.Errorf("not removed: %s", got)
	}
	// Without the claim, and with one that would split the header, the client's own must not pass.
	for _, tenant := range []any{nil, "a\r\nX-Admin: 1"} {
		req.Edit = func(e *exchange.Exchange) { e.Identity.Claims = map[string]any{"tenant": tenant} }
		plugintest.Do(t, req, h, end)
		if strings.Contains(got, "X-Tenant") || strings.Contains(got, "X-Admin") {
			t.Errorf("tenant %v: %s", tenant, got)
		}
	}
}

func TestResponseAlsoOfRefusals(t *testing.T) {
	h := build(t, `{response: {remove: [X-Powered-By], set: {X-A: "${path}"}, add: {Vary: Origin}}, security: {hsts_subdomains: true}}`)
	for name, end := range map[string]fiber.Handler{
		"upstream": func(c *fiber.Ctx) error {
			c.Response().Header.Add("X-Powered-By", "x")
			c.Response().Header.Add("X-Powered-By", "y")
			c.Response().Header.Set("Vary", "Accept")
			c.Response().Header.Set("X-Frame-Options", "SAMEORIGIN")
			return plugintest.Upstream(c)
		},
		"refusal": func(*fiber.Ctx) error { return reason.RateLimited },
	} {
		r := plugintest.Do(t, plugintest.Request{
			Raw:  "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n",
			Edit: func(e *exchange.Exchange) { e.Scheme = "https" },
		}, h, end)
		frame := "DENY"
		if name == "upstream" {
			frame = "SAMEORIGIN"
			if n := len(r.Header.PeekAll("Vary")); n != 2 {
				t.Errorf("Vary has %d lines", n)
			}
		}
		for k, want := range map[string]string{
			"X-A": "/x", "X-Powered-By": "", "X-Frame-Options": frame, "X-Content-Type-Options": "nosniff",
			"Strict-Transport-Security": "max-age=31536000; includeSubDomains", "Referrer-Policy": "strict-origin-when-cross-origin",
		} {
			if got := string(r.Header.Peek(k)); got != want {
				t.Errorf("%s: %s is %q, want %q", name, k, got, want)
			}
		}
	}
	r := plugintest.Do(t, plugintest.Request{Raw: "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"}, h, plugintest.Upstream)
	if len(r.Header.Peek("Strict-Transport-Security")) > 0 {
		t.Error("HSTS without TLS")
	}
}

func BenchmarkHandle(b *testing.B) {
	c := &Config{Request: Edits{Set: map[string]string{"X-A": "${client_ip}", "X-B": "b"}}, Response: Edits{Remove: []string{"Server"}}}
	in, err := Factory().New(c, plugins.Settings{})
	if err != nil {
		b.Fatal(err)
	}
	plugintest.Do(b, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"}, func(c *fiber.Ctx) error {
		b.ReportAllocs()
		for b.Loop() {
			_ = c.Next()
		}
		return nil
	}, in.Handle, func(*fiber.Ctx) error { return nil })
}
