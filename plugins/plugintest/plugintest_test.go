package plugintest_test

import (
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestRefusalBecomesReplyWhereItIsReturned(t *testing.T) {
	var seen int
	outer := func(c *fiber.Ctx) error {
		err := c.Next()
		seen = c.Response().StatusCode()
		return err
	}
	inner := func(*fiber.Ctx) error { return reason.RateLimited.Because("bucket empty") }
	r := plugintest.Do(t, plugintest.Request{Raw: "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"}, outer, inner)
	if r.Status != 429 || seen != 429 || r.Refusal.Detail != "bucket empty" {
		t.Fatalf("status %d, seen %d, refusal %v", r.Status, seen, r.Refusal)
	}
}

func TestLastHandlerAnswers(t *testing.T) {
	r := plugintest.Do(t, plugintest.Request{Raw: "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"}, plugintest.Upstream)
	if r.Status != 200 || r.Body != "upstream" {
		t.Fatalf("%d %q", r.Status, r.Body)
	}
}
