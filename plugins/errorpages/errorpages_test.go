package errorpages

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

const config = `{upstream: true, pages: {
	"404": {html: "<b>${status} ${path}</b>", json: '{"status":${status},"id":"${request_id}","q":"${query.q}"}'},
	4xx: {html: "<i>${title}</i>"},
	5xx: {json: '{"reason":"${reason}","title":"${title}"}'},
	rate_limited: {html_file: slow.html}}}`

func dir(t *testing.T) string {
	t.Helper()
	d := t.TempDir()
	if err := os.WriteFile(filepath.Join(d, "slow.html"), []byte("<p>slow down, ${client_ip}</p>"), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good:     []string{config, `pages: {"500": {json: "{}"}}`},
		Settings: plugins.Settings{Dir: dir(t)},
		Bad: []plugintest.Bad{
			{YAML: `pages: {"200": {html: x}}`, Want: "pages.200: must be a status"},
			{YAML: `pages: {nonsense: {html: x}}`, Want: "pages.nonsense: must be a status"},
			{YAML: `pages: {"404": {}}`, Want: "pages.404: must have html, json"},
			{YAML: `pages: {"404": {html: x, html_file: y}}`, Want: "pages.404.html: must not stand beside"},
			{YAML: `pages: {"404": {html: "${status} ${nope}"}}`, Want: "pages.404.html: column 11: unknown attribute"},
			{YAML: `pages: {"404": {json_file: not-there.json}}`, Want: "pages.404.json_file: "},
		},
	})
}

func build(t *testing.T, yaml string) fiber.Handler {
	t.Helper()
	f := Factory()
	c := f.Config()
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	in, err := f.New(c, plugins.Settings{Dir: dir(t)})
	if err != nil {
		t.Fatal(err)
	}
	return in.Handle
}

// A gRPC client gets what the upstream has said, and no page.
func TestCallsGetNoPage(t *testing.T) {
	r := plugintest.Do(t, plugintest.Request{
		Raw:  "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
		Edit: func(e *exchange.Exchange) { e.RPC.Kind = grpc.Native },
	}, build(t, `{upstream: true, pages: {5xx: {html: "page"}}}`), func(c *fiber.Ctx) error {
		exchange.From(c).Upstream.Status = 502
		return c.Status(502).SendString("theirs")
	})
	if r.Status != 502 || r.Body != "theirs" {
		t.Errorf("%d %q", r.Status, r.Body)
	}
}

func TestPages(t *testing.T) {
	answered := func(status int) fiber.Handler {
		return func(c *fiber.Ctx) error {
			exchange.From(c).Upstream.Status = status
			h := &c.Response().Header
			h.Set("Content-Encoding", "gzip")
			h.Set("ETag", `"a"`)
			h.Set("Retry-After", "5")
			h.SetContentType("text/plain")
			c.Response().SetBodyStream(strings.NewReader("theirs"), -1)
			c.Response().SetStatusCode(status)
			return nil
		}
	}
	refuse := func(r *reason.Reason) fiber.Handler {
		return func(*fiber.Ctx) error { return r.Because("secret detail") }
	}
	for name, tc := range map[string]struct {
		config, target, accept string
		end                    fiber.Handler
		status                 int
		kind, body             string
	}{
		"html":            {config, "/a%3Cb", "text/html,*/*", answered(404), 404, "text/html; charset=utf-8", "<b>404 /a%3Cb</b>"},
		"json":            {config, "/?q=%22%3Cx", "application/json", refuse(reason.NoRoute), 404, "application/json", "{\"status\":404,\"id\":\"id-1\",\"q\":\"\\\"\\u003cx\"}"},
		"neither":         {config, "/", "", refuse(reason.NoRoute), 404, "application/json", `{"status":404,"id":"id-1","q":""}`},
		"only html":       {config, "/", "application/json", refuse(reason.Forbidden), 403, "text/html; charset=utf-8", "<i>Access is denied.</i>"},
		"upstream title":  {config, "/", "", answered(418), 418, "text/html; charset=utf-8", "<i>I&#39;m a teapot</i>"},
		"class":           {config, "/", "text/html", refuse(reason.UpstreamReset), 502, "application/json", `{"reason":"upstream_reset","title":"The upstream closed the connection."}`},
		"upstream class":  {config, "/", "", answered(503), 503, "application/json", `{"reason":"upstream_error","title":"Service Unavailable"}`},
		"by name, file":   {config, "/", "", refuse(reason.RateLimited), 429, "text/html; charset=utf-8", "<p>slow down, 192.0.2.1</p>"},
		"odd status":      {config, "/", "", answered(599), 599, "application/json", `{"reason":"upstream_error","title":""}`},
		"not utf-8":       {`pages: {"404": {json: '"${query.q}"'}}`, "/?q=%ff", "", refuse(reason.NoRoute), 404, "application/json", "\"\ufffd\""},
		"no page":         {`pages: {"500": {json: "{}"}}`, "/", "", refuse(reason.NoRoute), 404, "application/problem+json", ""},
		"upstream's kept": {`pages: {"404": {json: "{}"}}`, "/", "", answered(404), 404, "text/plain", "theirs"},
		"fine":            {config, "/", "", answered(200), 200, "text/plain", "theirs"},
	} {
		t.Run(name, func(t *testing.T) {
			head := ""
			if tc.accept != "" {
				head = "Accept: " + tc.accept + "\r\n"
			}
			r := plugintest.Do(t, plugintest.Request{
				Raw:  "GET " + tc.target + " HTTP/1.1\r\nHost: a.test\r\n" + head + "\r\n",
				Edit: func(e *exchange.Exchange) { e.RequestID = "id-1" },
			}, build(t, tc.config), tc.end)
			if r.Status != tc.status || string(r.Header.ContentType()) != tc.kind || tc.body != "" && r.Body != tc.body {
				t.Errorf("%d %s %s", r.Status, r.Header.ContentType(), r.Body)
			}
			if strings.Contains(r.Body, "secret") {
				t.Error("the detail is told")
			}
			replaced := tc.body != "" && tc.body != "theirs"
			if replaced && (len(r.Header.ContentEncoding()) > 0 || len(r.Header.Peek("ETag")) > 0) {
				t.Error("headers of the old body are left")
			}
			if tc.kind == "application/json" && !json.Valid([]byte(r.Body)) {
				t.Errorf("not JSON: %s", r.Body)
			}
			if replaced && r.Refusal == nil && string(r.Header.Peek("Retry-After")) != "5" {
				t.Error("Retry-After is gone")
			}
		})
	}
}

func TestStreamsStayAsTheyAre(t *testing.T) {
	r := plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"}, build(t, config), func(c *fiber.Ctx) error {
		exchange.From(c).Stream = true
		return c.Status(500).SendString("data: x\n\n")
	})
	if r.Body != "data: x\n\n" {
		t.Errorf("got %s", r.Body)
	}
}

// What append relies on when it does not escape titles for JSON.
func TestTitlesNeedNoEscaping(t *testing.T) {
	var titles []string
	for _, r := range reason.All() {
		titles = append(titles, r.Title, r.Name)
	}
	for s := 400; s < 600; s++ {
		titles = append(titles, http.StatusText(s))
	}
	for _, s := range titles {
		if b, err := json.Marshal(s); err != nil || string(b) != `"`+s+`"` {
			t.Errorf("%q: %s", s, b)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a ${status} b", "$${status}", "${title}${reason}", "${", "${status", "${path:-${status}}", "$$${status}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		parsed, err := parse(s)
		if err != nil {
			return
		}
		own := 0
		for _, p := range parsed {
			if p.own != "" {
				own++
			}
		}
		marks := 0
		for _, w := range ownWords {
			marks += strings.Count(s, "${"+w+"}")
		}
		if own > marks {
			t.Fatalf("%q: %d own words of %d", s, own, marks)
		}
	})
}
