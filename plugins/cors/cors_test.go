package cors

import (
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good: []string{
			`{origins: ["https://app.example.com", "https://*.example.org"], credentials: true, expose: [X-A], private_network: true}`,
			`{origins: ["*"], headers: ["*"], methods: ["*"]}`,
			`{origin_regex: ['https://pr-\d+\.dev\.test'], refuse: true}`,
		},
		Bad: []plugintest.Bad{
			{YAML: "{}", Want: "origins: must name at least one"},
			{YAML: "origins: [app.example.com]", Want: "origins: [0]: must be an origin"},
			{YAML: "origin_regex: ['(']", Want: "origin_regex: [0]"},
			{YAML: `{origins: ["*"], credentials: true}`, Want: "credentials: must not be used with the origin *"},
			{YAML: `{origin_regex: [".*"], credentials: true}`, Want: "every site matches"},
			{YAML: `{origins: ["null"], credentials: true}`, Want: "origin null"},
			{YAML: `{origins: ["*", "https://a.test"]}`, Want: "pointless"},
			{YAML: `{origins: ["*"], methods: [get]}`, Want: "methods: must be upper case"},
			{YAML: `{origins: ["*"], headers: ["a b"]}`, Want: "headers: must be names"},
			{YAML: `{origins: ["https://a.test"], expose: ["*"], credentials: true}`, Want: "expose: must not be *"},
			{YAML: `{origins: ["*"], max_age: 2d}`, Want: "max_age"},
		},
		Request: plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nOrigin: https://app.example.com\r\n\r\n"},
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

const (
	some     = `{origins: ["https://app.test", "https://*.sub.test"], credentials: true, expose: [X-A, X-B], private_network: true}`
	everyone = `{origins: ["*"], headers: ["*"], methods: ["*"]}`
)

func TestReplies(t *testing.T) {
	for name, tc := range map[string]struct {
		config, method, head string
		status               int
		upstream             bool
		want                 string // headers of the reply, in this order; "Vary" joined
	}{
		"no origin":       {some, "GET", "", 200, true, "Vary: Accept, Origin"},
		"allowed":         {some, "GET", "Origin: https://app.test\r\n", 200, true, "Allow-Origin: https://app.test; Allow-Credentials: true; Expose-Headers: X-A, X-B; Vary: Accept, Origin"},
		"subdomain":       {some, "POST", "Origin: https://x.sub.test\r\n", 200, true, "Allow-Origin: https://x.sub.test; Allow-Credentials: true; Expose-Headers: X-A, X-B; Vary: Accept, Origin"},
		"other":           {some, "GET", "Origin: https://evil.test\r\n", 200, true, "Vary: Accept, Origin"},
		"null":            {some, "GET", "Origin: null\r\n", 200, true, "Vary: Accept, Origin"},
		"two origins":     {some, "GET", "Origin: https://app.test\r\nOrigin: https://evil.test\r\n", 200, true, "Vary: Accept, Origin"},
		"everyone":        {everyone, "GET", "Origin: https://any.test\r\n", 200, true, "Allow-Origin: *; Vary: Accept"},
		"everyone, none":  {everyone, "GET", "", 200, true, "Vary: Accept"},
		"plain OPTIONS":   {some, "OPTIONS", "Origin: https://app.test\r\n", 200, true, "Allow-Origin: https://app.test; Allow-Credentials: true; Expose-Headers: X-A, X-B; Vary: Accept, Origin"},
		"refuse":          {`{origins: ["https://app.test"], refuse: true}`, "POST", "Origin: https://evil.test\r\n", 403, false, "Vary: Origin"},
		"refuse, allowed": {`{origins: ["https://app.test"], refuse: true}`, "POST", "Origin: https://app.test\r\n", 200, true, "Allow-Origin: https://app.test; Vary: Accept, Origin"},
		"preflight": {
			some, "OPTIONS", "Origin: https://app.test\r\nAccess-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x-a\r\n", 204, false,
			"Allow-Origin: https://app.test; Allow-Credentials: true; Allow-Methods: GET, HEAD, POST, PUT, PATCH, DELETE; Allow-Headers: Content-Type, Authorization; Max-Age: 600; " +
				"Vary: Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network, Origin",
		},
		"private preflight": {
			some, "OPTIONS", "Origin: https://app.test\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Private-Network: true\r\n", 204, false,
			"Allow-Origin: https://app.test; Allow-Credentials: true; Allow-Methods: GET, HEAD, POST, PUT, PATCH, DELETE; Allow-Headers: Content-Type, Authorization; Allow-Private-Network: true; Max-Age: 600; " +
				"Vary: Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network, Origin",
		},
		"preflight of another": {
			some, "OPTIONS", "Origin: https://evil.test\r\nAccess-Control-Request-Method: PUT\r\n", 403, false,
			"Vary: Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network, Origin",
		},
		"preflight, anything": {
			everyone, "OPTIONS", "Origin: https://any.test\r\nAccess-Control-Request-Method: PURGE\r\nAccess-Control-Request-Headers: authorization, x-a\r\n", 204, false,
			"Allow-Origin: *; Allow-Methods: PURGE; Allow-Headers: authorization, x-a; Max-Age: 600; Vary: Access-Control-Request-Method, Access-Control-Request-Headers",
		},
		"preflight, rubbish": {
			everyone, "OPTIONS", "Origin: https://any.test\r\nAccess-Control-Request-Method: A B\r\nAccess-Control-Request-Headers: a,,b\r\n", 204, false,
			"Allow-Origin: *; Max-Age: 600; Vary: Access-Control-Request-Method, Access-Control-Request-Headers",
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := false
			r := plugintest.Do(t, plugintest.Request{Raw: tc.method + " / HTTP/1.1\r\nHost: a.test\r\n" + tc.head + "\r\n"}, build(t, tc.config),
				func(c *fiber.Ctx) error {
					asked = true
					c.Response().Header.Set("Vary", "Accept")
					c.Response().Header.Set("Access-Control-Allow-Origin", "*")
					c.Response().Header.Set("Access-Control-Allow-Credentials", "true")
					c.Response().Header.Set("Access-Control-Allow-Methods", "TRACE")
					return plugintest.Upstream(c)
				})
			var got []string
			for _, n := range []string{"Allow-Origin", "Allow-Credentials", "Allow-Methods", "Allow-Headers", "Allow-Private-Network", "Expose-Headers", "Max-Age"} {
				for _, v := range r.Header.PeekAll("Access-Control-" + n) {
					got = append(got, n+": "+string(v))
				}
			}
			var vary []string
			for _, v := range r.Header.PeekAll("Vary") {
				vary = append(vary, string(v))
			}
			if len(vary) > 0 {
				got = append(got, "Vary: "+strings.Join(vary, ", "))
			}
			if s := strings.Join(got, "; "); s != tc.want || r.Status != tc.status || asked != tc.upstream {
				t.Errorf("status %d, upstream asked %v\n got %s\nwant %s", r.Status, asked, s, tc.want)
			}
			if tc.status == 403 && r.Refusal.Reason != reason.CORSDenied {
				t.Errorf("refusal %v", r.Refusal)
			}
		})
	}
}

// A plugin that comes next may change the request's header, in whose memory
// the origin lies.
func TestTheOriginOutlivesTheRequestsHeader(t *testing.T) {
	raw := "GET / HTTP/1.1\r\nHost: a.test\r\nAccept: x\r\nOrigin: https://app.example.com\r\nX-Secret: do-not-tell-it-anyone\r\n\r\n"
	r := plugintest.Do(t, plugintest.Request{Raw: raw}, build(t, `origins: ["https://app.example.com"]`), func(c *fiber.Ctx) error {
		c.Request().Header.Del("Accept")
		c.Request().Header.Del("Origin")
		c.Request().Header.Set("X-Other", "do-not-tell-it-anyone")
		return plugintest.Upstream(c)
	})
	if got := string(r.Header.Peek("Access-Control-Allow-Origin")); got != "https://app.example.com" {
		t.Errorf("got %q", got)
	}
}

func TestVaryStar(t *testing.T) {
	r := plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"}, build(t, some), func(c *fiber.Ctx) error {
		c.Response().Header.Set("Vary", "accept, *")
		return plugintest.Upstream(c)
	})
	if got := r.Header.PeekAll("Vary"); len(got) != 1 {
		t.Errorf("Vary %q", got)
	}
}
