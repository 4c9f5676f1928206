package requestid

import (
	"regexp"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good: []string{"{}", "{trust: always, generator: hex, reply: false, header: X-Correlation-ID}"},
		Bad: []plugintest.Bad{
			{YAML: "header: 'a b'", Want: "header: must be a header name"},
			{YAML: "trust: maybe", Want: "trust"},
			{YAML: "generator: uuid4", Want: "generator"},
		},
		Allocs: 1,
	})
}

var (
	uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	hex1 = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

func TestWhoseIDIsKept(t *testing.T) {
	for name, tc := range map[string]struct {
		trust   string
		trusted bool
		head    string
		want    string // "" means a new one
	}{
		"none":          {"always", false, "", ""},
		"always":        {"always", false, "X-Request-ID: abc-1\r\n", "abc-1"},
		"never":         {"never", true, "X-Request-ID: abc-1\r\n", ""},
		"stranger":      {"trusted_proxies", false, "X-Request-ID: abc-1\r\n", ""},
		"trusted proxy": {"trusted_proxies", true, "x-request-id: Root=1-67/a.b:c+d@e~\r\n", "Root=1-67/a.b:c+d@e~"},
		"two":           {"always", true, "X-Request-ID: a\r\nX-Request-ID: b\r\n", ""},
		"empty":         {"always", true, "X-Request-ID: \r\n", ""},
		"longest":       {"always", true, "X-Request-ID: " + strings.Repeat("a", 128) + "\r\n", strings.Repeat("a", 128)},
		"too long":      {"always", true, "X-Request-ID: " + strings.Repeat("a", 129) + "\r\n", ""},
		"quote":         {"always", true, "X-Request-ID: a\"b\r\n", ""},
		"html":          {"always", true, "X-Request-ID: <b>\r\n", ""},
		"space":         {"always", true, "X-Request-ID: a b\r\n", ""},
		"high byte":     {"always", true, "X-Request-ID: a\xffb\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			in, err := Factory().New(&Config{Header: "X-Request-ID", Trust: tc.trust, Generator: "uuid7", Reply: true}, plugins.Settings{})
			if err != nil {
				t.Fatal(err)
			}
			var upstream []string
			r := plugintest.Do(t, plugintest.Request{
				Raw:  "GET / HTTP/1.1\r\nHost: a.test\r\n" + tc.head + "\r\n",
				Edit: func(e *exchange.Exchange) { e.Trusted = tc.trusted },
				After: func(e *exchange.Exchange) {
					if len(upstream) != 1 || e.RequestID != upstream[0] {
						t.Errorf("exchange %q, upstream saw %q", e.RequestID, upstream)
					}
				},
			}, in.Handle, func(c *fiber.Ctx) error {
				for _, v := range c.Request().Header.PeekAll("X-Request-ID") {
					upstream = append(upstream, string(v))
				}
				c.Response().Header.Add("X-Request-ID", "theirs")
				c.Response().Header.Add("X-Request-ID", "theirs too")
				return plugintest.Upstream(c)
			})
			back := r.Header.PeekAll("X-Request-ID")
			if len(back) != 1 || string(back[0]) != upstream[0] {
				t.Errorf("reply has %q, upstream saw %q", back, upstream)
			}
			if tc.want != "" && upstream[0] != tc.want || tc.want == "" && !uuid.MatchString(upstream[0]) {
				t.Errorf("ID %q, want %q", upstream[0], tc.want)
			}
		})
	}
}

func TestRefusalCarriesTheID(t *testing.T) {
	in, err := Factory().New(&Config{Header: "X-Request-ID", Generator: "hex", Reply: true}, plugins.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	r := plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"}, in.Handle, in.Handle,
		func(c *fiber.Ctx) error {
			exchange.From(c).Upstream.Status = 200
			return reason.UpstreamReset
		})
	id := string(r.Header.Peek("X-Request-ID"))
	if !hex1.MatchString(id) || !strings.Contains(r.Body, id) {
		t.Fatalf("ID %q, body %s", id, r.Body)
	}
}

func TestIDsAreDistinctAndSorted(t *testing.T) {
	seen := map[string]bool{}
	for range 10000 {
		for _, id := range []string{uuid7(), random()} {
			if seen[id] {
				t.Fatalf("%s twice", id)
			}
			seen[id] = true
		}
	}
	if a, b := uuid7()[:8], uuid7()[:8]; a > b {
		t.Errorf("%s is not before %s", a, b)
	}
}

func BenchmarkUUID7(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		uuid7()
	}
}
