package apikey_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/apikey"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func directory() *plugins.Directory {
	return plugins.NewDirectory([]*plugins.Consumer{
		{
			Consumer: exchange.Consumer{Name: "alice", Groups: []string{"staff", "ops"}},
			APIKeys:  [][sha256.Size]byte{sha256.Sum256([]byte("alice-key-1")), sha256.Sum256([]byte("alice key+2"))},
		},
		{Consumer: exchange.Consumer{Name: "bob"}, APIKeys: [][sha256.Size]byte{sha256.Sum256([]byte("bob-key"))}},
	})
}

func build(t testing.TB, yaml string) fiber.Handler {
	t.Helper()
	f := apikey.Factory()
	c := f.Config()
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	p, err := f.New(c, plugins.Settings{Consumers: directory(), Route: plugins.Route{Name: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	return p.Handle
}

// upstream answers with what reached it: who, and the credential if it is still there.
func upstream(c *fiber.Ctx) error {
	e := exchange.From(c)
	who := "nobody"
	if e.Identity.Consumer != nil {
		who = e.Identity.Consumer.Name + "/" + e.Identity.Method + "/" + e.Identity.Subject
	}
	return c.SendString(who + " query=" + e.Query + " key=" + c.Get("X-API-Key") + " auth=" + c.Get("Authorization") +
		" cookie=" + c.Get("Cookie"))
}

func TestKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		config, target, head string
		status               int
		body, detail         string
	}{
		"header":         {"{}", "/", "X-API-Key: alice-key-1\r\n", 200, "alice/api_key/alice query= key= auth= cookie=", ""},
		"header case":    {"{}", "/", "x-api-KEY: bob-key\r\n", 200, "bob/api_key/bob query= key= auth= cookie=", ""},
		"forwarded":      {"forward: true", "/", "X-API-Key: bob-key\r\n", 200, "bob/api_key/bob query= key=bob-key auth= cookie=", ""},
		"query":          {"query: key", "/?a=1&key=alice%20key%2B2&b=2", "", 200, "alice/api_key/alice query=a=1&b=2 key= auth= cookie=", ""},
		"query alone":    {"query: key", "/?key=bob-key", "", 200, "bob/api_key/bob query= key= auth= cookie=", ""},
		"escaped name":   {"query: key", "/?k%65y=bob-key", "", 200, "bob/api_key/bob query= key= auth= cookie=", ""},
		"cookie":         {"cookie: k", "/", "Cookie: a=1; k=bob-key; b=2\r\n", 200, "bob/api_key/bob query= key= auth= cookie=a=1; b=2", ""},
		"scheme":         {"{header: Authorization, scheme: ApiKey}", "/", "Authorization: apikey  bob-key\r\n", 200, "bob/api_key/bob query= key= auth= cookie=", ""},
		"anonymous":      {"anonymous: true", "/", "", 200, "nobody query= key= auth= cookie=", ""},
		"group":          {"groups: [ops, x]", "/", "X-API-Key: alice-key-1\r\n", 200, "alice/api_key/alice query= key= auth= cookie=", ""},
		"other scheme":   {"{header: Authorization, scheme: ApiKey, anonymous: true}", "/", "Authorization: Bearer t\r\n", 200, "nobody query= key= auth=Bearer t cookie=", ""},
		"none":           {"{}", "/", "", 401, "", "no API key"},
		"empty":          {"{}", "/", "X-API-Key:\r\n", 401, "", "no API key"},
		"unknown":        {"{}", "/", "X-API-Key: nope\r\n", 401, "", "unknown API key"},
		"wrong, anon":    {"anonymous: true", "/", "X-API-Key: nope\r\n", 401, "", "unknown API key"},
		"repeated":       {"{}", "/", "X-API-Key: bob-key\r\nX-API-Key: bob-key\r\n", 401, "", "more than one"},
		"repeated empty": {"{}", "/", "X-API-Key:\r\nX-API-Key: bob-key\r\n", 401, "", "more than one"},
		"two places":     {"query: key", "/?key=bob-key", "X-API-Key: bob-key\r\n", 401, "", "more than one"},
		"query twice":    {"query: key", "/?key=bob-key&key=x", "", 401, "", "more than one"},
		"cookie twice":   {"cookie: k", "/", "Cookie: k=bob-key; k=bob-key\r\n", 401, "", "more than one"},
		"query not on":   {"{}", "/?key=bob-key", "", 401, "", "no API key"},
		"header off":     {"{header: off, query: key}", "/", "X-API-Key: bob-key\r\n", 401, "", "no API key"},
		"endless":        {"{}", "/", "X-API-Key: " + strings.Repeat("a", 5000) + "\r\n", 401, "", "5000 bytes"},
		"wrong group":    {"groups: [ops]", "/", "X-API-Key: bob-key\r\n", 403, "", "consumer bob is in none"},
	} {
		t.Run(name, func(t *testing.T) {
			r := plugintest.Do(t, plugintest.Request{Raw: "GET " + tc.target + " HTTP/1.1\r\nHost: a.test\r\n" + tc.head + "\r\n"},
				build(t, tc.config), upstream)
			if r.Status != tc.status {
				t.Fatalf("status %d, want %d (%v)", r.Status, tc.status, r.Refusal)
			}
			if tc.status == 200 {
				if r.Body != tc.body {
					t.Fatalf("upstream saw %q, want %q", r.Body, tc.body)
				}
				return
			}
			if !strings.Contains(r.Refusal.Detail, tc.detail) || strings.Contains(r.Refusal.Detail, "bob-key") {
				t.Fatalf("detail %q, want %q and no key", r.Refusal.Detail, tc.detail)
			}
			if www := string(r.Header.Peek("WWW-Authenticate")); (www != "") != (tc.status == 401) {
				t.Fatalf("WWW-Authenticate %q with %d", www, tc.status)
			}
		})
	}
}

func TestChallengeNamesSchemeAndRealm(t *testing.T) {
	r := plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"},
		build(t, "{header: Authorization, scheme: Key, realm: the shop}"), upstream)
	if got := string(r.Header.Peek("WWW-Authenticate")); got != `Key realm="the shop"` || r.Refusal.Reason != reason.Unauthenticated {
		t.Fatalf("%q, %v", got, r.Refusal)
	}
}

func TestBadConfig(t *testing.T) {
	for yaml, want := range map[string]string{
		"header: off":                        "header: is off, and neither query nor cookie",
		"header: 'a b'":                      "header: must be a header name",
		"scheme: 'a b'":                      "scheme: must be one word",
		"{header: off, query: k, scheme: x}": "scheme: has no meaning",
		"cookie: 'a;b'":                      "cookie: must be a cookie name",
		`realm: 'a"b'`:                       "realm: must be text without quotes",
		"groups: ['']":                       "groups: must not contain an empty name",
		"headers: X":                         "headers: ",
		"anonymous: perhaps":                 "anonymous: ",
	} {
		if err := strict.Unmarshal([]byte(yaml), new(apikey.Config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
	}
}

// each runs do inside a request that carries a good key, ahead of the plugin:
// every c.Next() it calls is one pass through it.
func each(t testing.TB, do func(next func() error)) {
	plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nX-API-Key: alice-key-1\r\n\r\n"},
		func(c *fiber.Ctx) error {
			do(c.Next)
			return nil
		},
		build(t, "{forward: true, groups: [ops]}"),
		func(*fiber.Ctx) error { return nil })
}

func TestAcceptingDoesNotAllocate(t *testing.T) {
	each(t, func(next func() error) {
		if n := testing.AllocsPerRun(1000, func() { _ = next() }); n != 0 {
			t.Errorf("%v allocations, want 0", n)
		}
	})
}

func BenchmarkAccepted(b *testing.B) {
	b.ReportAllocs()
	each(b, func(next func() error) {
		for b.Loop() {
			_ = next()
		}
	})
}
