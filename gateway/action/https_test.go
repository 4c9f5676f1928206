package action_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/gateway/action"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

func TestHTTPS(t *testing.T) {
	for _, tc := range []struct {
		port, status    int
		host, uri, want string
	}{
		{443, 308, "A.example:8080", "/x/./y?z=1&&", "https://a.example/x/./y?z=1&&"},
		{8443, 301, "a.example.", "/", "https://a.example:8443/"},
		{443, 308, "a.example", "//evil.example/x", "https://a.example//evil.example/x"},
		{443, 302, "[2001:db8::1]:80", "/%2f%41", "https://[2001:db8::1]/%2f%41"},
		{443, 307, "a.example", "/a?b\"<>\\", "https://a.example/a?b%22%3C%3E%5C"},
	} {
		r := ask(t, action.NewHTTPS(tc.port, tc.status).Handle, tc.host, tc.uri, nil)
		if got := string(r.Header.Peek("Location")); got != tc.want || r.Status != tc.status || r.Body != "" {
			t.Errorf("%s%s: %d %s, want %s", tc.host, tc.uri, r.Status, got, tc.want)
		}
	}
	for _, host := range []string{"", "a/b", "a@b", "a:80", "[::1", "[]", "a\r\nb", "a b", "a?b", "a#b", `a\b`} {
		r := ask(t, action.NewHTTPS(443, 308).Handle, "a", "/x", func(e *exchange.Exchange) { e.Host = host })
		if r.Refusal == nil || r.Refusal.Reason != reason.BadHost || len(r.Header.Peek("Location")) != 0 {
			t.Errorf("%q: %v, Location %q", host, r.Refusal, r.Header.Peek("Location"))
		}
	}
}

// TestHTTPSStaysOnItsHost: no target makes the Location lead elsewhere.
func TestHTTPSStaysOnItsHost(t *testing.T) {
	h := action.NewHTTPS(8443, 308).Handle
	junk := rapid.StringMatching(`[/\\a.;:@?#%&=x\x00-\x20\x7f-]{0,16}`)
	rapid.Check(t, func(rt *rapid.T) {
		uri := "/" + junk.Draw(rt, "target")
		reply := ask(t, h, "a.example", "/", func(e *exchange.Exchange) { e.Ctx.Request.Header.SetRequestURI(uri) })
		loc := string(reply.Header.Peek("Location"))
		rest, ok := strings.CutPrefix(loc, "https://a.example:8443/")
		if !ok || strings.ContainsAny(rest, "\r\n\x00 #") {
			rt.Fatalf("%q: Location %q", uri, loc)
		}
		if u, err := url.Parse(loc); err == nil && (u.Host != "a.example:8443" || u.Fragment != "") {
			rt.Fatalf("%q: Location %q", uri, loc)
		}
	})
}

func TestHTTPSDoesNotAllocate(t *testing.T) {
	h := action.NewHTTPS(8443, 308).Handle
	ask(t, func(c *fiber.Ctx) error {
		n := testing.AllocsPerRun(200, func() {
			if err := h(c); err != nil {
				t.Error(err)
			}
		})
		if n != 0 && !raceEnabled { // sync.Pool drops at random under the race detector
			t.Errorf("%v allocations, want 0", n)
		}
		return nil
	}, "a.example", "/v1/x?a=b%20c", nil)
}
