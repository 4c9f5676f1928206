package maintenance

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good: []string{
			"{bypass: {networks: [192.0.2.0/24], secret: sixteen-bytes-ok}}",
			"{}", "{enabled: false}",
			"{from: 2026-12-01T22:00:00Z, until: 2026-12-02T02:00:00Z, status: 404}",
		},
		Bad: []plugintest.Bad{
			{YAML: "status: 200", Want: "status"},
			{YAML: "{from: 2026-12-02T00:00:00Z, until: 2026-12-01T00:00:00Z}", Want: "until: must be after from"},
			{YAML: "until: tomorrow", Want: "until"},
			{YAML: "bypass: {secret: short}", Want: "bypass.secret: must have at least 16 bytes, has 5"},
			{YAML: "bypass: {header: 'a b'}", Want: "bypass.header"},
			{YAML: "bypass: {networks: [10.0.0.1/8]}", Want: "write 10.0.0.0/8"},
			{YAML: "retry_after: soon", Want: "retry_after"},
		},
	})
}

const secret = "a-rather-long-secret"

func build(t *testing.T, c Config) fiber.Handler {
	t.Helper()
	if c.Status == 0 {
		c.Status = 503
	}
	c.Bypass.Header, c.Bypass.Secret = "X-Maintenance-Bypass", secret
	c.Bypass.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::ffff:172.16.0.0/112")}
	in, err := Factory().New(&c, plugins.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return in.Handle
}

func TestWhoPasses(t *testing.T) {
	for name, tc := range map[string]struct {
		config       Config
		client, head string
		status       int
		retry        string
	}{
		"refused":      {Config{Enabled: true, RetryAfter: unit.Duration(90500 * time.Millisecond)}, "192.0.2.1", "", 503, "91"},
		"other status": {Config{Enabled: true, Status: 404}, "192.0.2.1", "", 404, ""},
		"off":          {Config{}, "192.0.2.1", "", 200, ""},
		"network":      {Config{Enabled: true}, "10.1.2.3", "", 200, ""},
		"mapped":       {Config{Enabled: true}, "172.16.0.9", "", 200, ""},
		"secret":       {Config{Enabled: true}, "192.0.2.1", "X-Maintenance-Bypass: " + secret + "\r\n", 200, ""},
		"wrong secret": {Config{Enabled: true}, "192.0.2.1", "X-Maintenance-Bypass: " + secret + "x\r\n", 503, ""},
		"empty secret": {Config{Enabled: true}, "192.0.2.1", "X-Maintenance-Bypass: \r\n", 503, ""},
		"off, secret":  {Config{}, "192.0.2.1", "X-Maintenance-Bypass: " + secret + "\r\n", 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n" + tc.head + "\r\n", Client: tc.client},
				build(t, tc.config), func(c *fiber.Ctx) error {
					if len(c.Request().Header.Peek("X-Maintenance-Bypass")) > 0 {
						t.Error("the secret goes on to the upstream")
					}
					return plugintest.Upstream(c)
				})
			if r.Status != tc.status || string(r.Header.Peek("Retry-After")) != tc.retry {
				t.Errorf("status %d, Retry-After %q", r.Status, r.Header.Peek("Retry-After"))
			}
			if tc.status != 200 && r.Refusal.Reason != reason.Maintenance {
				t.Errorf("refusal %v", r.Refusal)
			}
		})
	}
}

func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		h := build(t, Config{Enabled: true, From: now.Add(time.Hour), Until: now.Add(2 * time.Hour)})
		ask := func() plugintest.Reply {
			return plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"}, h, plugintest.Upstream)
		}
		if r := ask(); r.Status != 200 {
			t.Errorf("before: %d", r.Status)
		}
		time.Sleep(90 * time.Minute)
		if r := ask(); r.Status != 503 || string(r.Header.Peek("Retry-After")) != "1800" {
			t.Errorf("during: %d, Retry-After %q", r.Status, r.Header.Peek("Retry-After"))
		}
		time.Sleep(30 * time.Minute)
		if r := ask(); r.Status != 200 {
			t.Errorf("after: %d", r.Status)
		}
	})
}
