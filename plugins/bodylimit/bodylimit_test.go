package bodylimit

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good:    []string{"{}", "max: 0", "max: 1GiB"},
		Bad:     []plugintest.Bad{{YAML: "max: lots", Want: "max"}, {YAML: "max: -1", Want: "max"}},
		Request: plugintest.Request{Raw: "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc"},
	})
}

// A call's limit is for each message, however long it goes on.
func TestMessagesOfACall(t *testing.T) {
	const message = "\x00\x00\x00\x00\x08messages"
	for name, tc := range map[string]struct {
		max          int
		body, status string
		seen         int
	}{
		"many":     {8, strings.Repeat(message, 100), "", 1300},
		"too long": {7, message, "8", 0},
		"nothing":  {0, message, "8", 0},
		"no frame": {8, "{}", "13", 0},
	} {
		t.Run(name, func(t *testing.T) {
			in, err := Factory().New(&Config{Max: unit.Size(tc.max)}, plugins.Settings{})
			if err != nil {
				t.Fatal(err)
			}
			seen := 0
			r := plugintest.Do(t, plugintest.Request{
				Raw:  fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%s", len(tc.body), tc.body),
				Edit: func(e *exchange.Exchange) { e.RPC.Kind = grpc.Native },
			}, in.Handle, func(c *fiber.Ctx) error {
				b, err := io.ReadAll(c.Context().RequestBodyStream())
				seen = len(b)
				return err
			})
			if got := string(r.Header.Peek("Grpc-Status")); got != tc.status || seen != tc.seen {
				t.Errorf("status %q, %d bytes, %v", got, seen, r.Refusal)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	sized := func(n int) string {
		return fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%s", n, strings.Repeat("x", n))
	}
	chunked := func(n int) string {
		body := strings.Repeat("1\r\nx\r\n", n)
		return "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + body + "0\r\n\r\n"
	}
	for name, tc := range map[string]struct {
		max    int
		raw    string
		status int
		asked  bool
		seen   int
	}{
		"no body":          {0, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 200, true, 0},
		"nothing allowed":  {0, sized(1), 413, false, 0},
		"exactly":          {10, sized(10), 200, true, 10},
		"one more":         {10, sized(11), 413, false, 0},
		"chunked, exactly": {10, chunked(10), 200, true, 10},
		"chunked, more":    {10, chunked(11), 413, true, -1},
		"chunked, none":    {0, chunked(1), 413, true, -1},
		"empty chunked":    {0, chunked(0), 200, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			in, err := Factory().New(&Config{Max: unit.Size(tc.max)}, plugins.Settings{})
			if err != nil {
				t.Fatal(err)
			}
			asked, seen := false, 0
			r := plugintest.Do(t, plugintest.Request{Raw: tc.raw}, in.Handle, func(c *fiber.Ctx) error {
				asked = true
				if s := c.Context().RequestBodyStream(); s != nil {
					b, err := io.ReadAll(s)
					if seen = len(b); err != nil {
						return err
					}
				}
				return plugintest.Upstream(c)
			})
			if r.Status != tc.status || asked != tc.asked || tc.seen >= 0 && seen != tc.seen {
				t.Fatalf("status %d, upstream asked %v and saw %d bytes", r.Status, asked, seen)
			}
			if tc.status == 413 && r.Refusal.Reason != reason.BodyTooLarge {
				t.Fatalf("refusal %v", r.Refusal)
			}
			if seen > tc.max {
				t.Fatalf("%d bytes passed a limit of %d", seen, tc.max)
			}
		})
	}
}
