package csrf

import (
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

const config = `{trusted_origins: ["https://ok.test", "https://*.ok.test"], exempt: [/hook, /in/*]}`

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good: []string{config, "{}", "{same_site: true, websocket: false}"},
		Bad: []plugintest.Bad{
			{YAML: `trusted_origins: ["*"]`, Want: "trusted_origins: must not have *"},
			{YAML: "trusted_origins: [ok.test]", Want: "trusted_origins: [0]: must be an origin"},
			{YAML: "exempt: [hook]", Want: "exempt: must be"},
			{YAML: "exempt: [/a*]", Want: "exempt: must be"},
		},
		Request: plugintest.Request{Raw: "POST / HTTP/1.1\r\nHost: a.test\r\nOrigin: https://x.ok.test\r\nContent-Length: 0\r\n\r\n"},
	})
}

func TestDecisions(t *testing.T) {
	const post = "POST /x HTTP/1.1\r\nHost: A.test:8080\r\nContent-Length: 0\r\n"
	const ws = "GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	for name, tc := range map[string]struct {
		config, raw string
		ok          bool
	}{
		"no browser":             {config, post, true},
		"same origin":            {config, post + "Sec-Fetch-Site: same-origin\r\nOrigin: http://a.test:8080\r\n", true},
		"typed":                  {config, post + "Sec-Fetch-Site: none\r\n", true},
		"cross site":             {config, post + "Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.test\r\n", false},
		"same site":              {config, post + "Sec-Fetch-Site: same-site\r\nOrigin: http://b.a.test\r\n", false},
		"same site trusted":      {"same_site: true", post + "Sec-Fetch-Site: same-site\r\n", true},
		"unknown word":           {config, post + "Sec-Fetch-Site: Same-Origin\r\n", false},
		"cross site, trusted":    {config, post + "Sec-Fetch-Site: cross-site\r\nOrigin: https://ok.test\r\n", true},
		"cross site, no origin":  {config, post + "Sec-Fetch-Site: cross-site\r\n", false},
		"site twice":             {config, post + "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n", false},
		"old browser":            {config, post + "Origin: http://a.test:8080\r\n", true},
		"old browser, tls ahead": {config, post + "Origin: https://a.test:8080\r\n", true},
		"other port":             {config, post + "Origin: http://a.test\r\n", false},
		"foreign":                {config, post + "Origin: https://evil.test\r\n", false},
		"foreign, looks alike":   {config, post + "Origin: https://a.test:8080.evil.test\r\n", false},
		"null":                   {config, post + "Origin: null\r\n", false},
		"rubbish":                {config, post + "Origin: a.test:8080\r\n", false},
		"origin twice":           {config, post + "Origin: http://a.test:8080\r\nOrigin: https://evil.test\r\n", false},
		"trusted":                {config, post + "Origin: https://ok.test\r\n", true},
		"trusted subdomain":      {config, post + "Origin: https://a.ok.test\r\n", true},
		"delete":                 {config, "DELETE /x HTTP/1.1\r\nHost: a.test\r\nOrigin: https://evil.test\r\n", false},
		"get":                    {config, "GET /x HTTP/1.1\r\nHost: a.test\r\nSec-Fetch-Site: cross-site\r\nOrigin: https://evil.test\r\n", true},
		"websocket":              {config, ws + "Origin: https://evil.test\r\n", false},
		"websocket, own":         {config, ws + "Origin: https://a.test\r\n", true},
		"websocket, off":         {"websocket: false", ws + "Origin: https://evil.test\r\n", true},
		"exempt":                 {config, "POST /hook HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\nOrigin: https://evil.test\r\n", true},
		"exempt below":           {config, "POST /in/x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\nOrigin: https://evil.test\r\n", true},
		"not exempt":             {config, "POST /inx HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\nOrigin: https://evil.test\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := Factory()
			c := f.Config()
			if err := strict.Unmarshal([]byte(tc.config), c); err != nil {
				t.Fatal(err)
			}
			in, err := f.New(c, plugins.Settings{})
			if err != nil {
				t.Fatal(err)
			}
			r := plugintest.Do(t, plugintest.Request{Raw: tc.raw + "\r\n"}, in.Handle, plugintest.Upstream)
			if ok := r.Status == 200; ok != tc.ok {
				t.Fatalf("status %d, %v", r.Status, r.Refusal)
			}
			if !tc.ok && r.Refusal.Reason != reason.CSRF {
				t.Fatalf("refusal %v", r.Refusal)
			}
		})
	}
}
