package gateway_test

import (
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// The answer to a challenge is for who reads it. A tunnel to its path is like any
// other, and never opened by it.
func TestChallenges(t *testing.T) {
	const path = "/.well-known/acme-challenge/token"
	page := chain("page", func(c *fiber.Ctx) error { return c.SendString("a page") })
	g := gateway.New(gateway.Settings{Metrics: newMetrics(), Challenge: func(p string) (string, bool) { return "answer", p == path }})
	gateway.SetCurrent(g, snap(listener(t, "web", at("", "/", page)), listener(t, "empty")))
	for _, c := range []struct {
		listener, method, path string
		front                  front
		status                 int
		route, body            string
		why                    *reason.Reason
	}{
		{"empty", "GET", path, front{}, 200, "acme_challenge", "answer", nil},
		{"web", "GET", path, front{}, 200, "acme_challenge", "answer", nil},
		{"web", "GET", path, front{protocol: "HTTP/2.0"}, 200, "acme_challenge", "answer", nil},
		{"web", "GET", path, front{protocol: "HTTP/3.0"}, 200, "acme_challenge", "answer", nil},
		{"web", "GET", path, front{upgrade: true}, 200, "acme_challenge", "answer", nil}, // HTTP/1 clients know that it is no tunnel
		{"web", "GET", path + "s", front{}, 200, "page", "a page", nil},
		{"web", "POST", path, front{}, 200, "page", "a page", nil},
		{"web", "GET", path, front{protocol: "HTTP/2.0", upgrade: true}, 501, "page", "", reason.UpstreamNoUpgrade},
		{"web", "GET", path, front{protocol: "HTTP/3.0", upgrade: true}, 501, "page", "", reason.UpstreamNoUpgrade},
		{"empty", "GET", path, front{protocol: "HTTP/2.0", upgrade: true}, 404, "none", "", reason.NoRoute},
		{"empty", "GET", path, front{protocol: "HTTP/3.0", upgrade: true}, 404, "none", "", reason.NoRoute},
	} {
		ctx := newCtx(c.path)
		ctx.Request.Header.SetMethod(c.method)
		gateway.Door(g, "127.0.0.1:0 "+c.listener)(ctx, &c.front)
		e := exchange.FromRequest(ctx)
		body := string(ctx.Response.Body())
		if ctx.Response.StatusCode() != c.status || e.Route.Name != c.route || c.body != "" && body != c.body {
			t.Errorf("%s: %s %s, %+v: route %s, %s", c.listener, c.method, c.path, c.front, e.Route.Name, &ctx.Response)
		}
		if (e.Refusal == nil) != (c.why == nil) || c.why != nil && e.Refusal.Reason != c.why {
			t.Errorf("%s: %+v: %+v", c.listener, c.front, e.Refusal)
		}
		ctx.ResetUserValues()
	}
}
