package e2e

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// echoHeaders answers with the method, the address and the headers of the
// request, a line each, and then the body.
func echoHeaders(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("X-Powered-By", "echo")
	if r.URL.Path == "/pages/gone" {
		w.WriteHeader(http.StatusGone)
	}
	fmt.Fprintf(w, "%s %s\nHost: %s\n", r.Method, r.RequestURI, r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			fmt.Fprintf(w, "%s: %s\n", name, v)
		}
	}
	fmt.Fprintf(w, "\n%s", b)
}

func bcryptOf(t *testing.T, password string) string {
	t.Helper()
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// guard is a route with plugins, "PLUGINS" in flow style, under /NAME.
type guard struct{ name, plugins string }

var guards = []guard{
	{"waf", "waf: {}"},
	{"detect", "waf: { policy: watching }"},
	{"excluded", "waf: { policy: search }"},
	{"key", "api_key: {}"},
	{"staff", "api_key: { groups: [staff] }"},
	{"basic", "basic_auth: { htpasswd_file: users.htpasswd }"},
	{"jwt", "jwt: { jwks_file: keys.json, issuer: 'https://id.example', audiences: [api] }, headers: { request: { set: { X-Tenant: '${claim.tenant}' } } }"},
	{"scope", "jwt: { jwks_file: keys.json, audiences: [api], scopes: [write] }"},
	{"authorize", `jwt: { jwks_file: keys.json, audiences: [api] }, authorize: { expression: 'claims.tenant == "acme" && request.method == "GET"' }`},
	{"limited", "rate_limit: { limit: 3, per: 1h, name: trial }"},
	{"inside", "ip_filter: { allow: [10.0.0.0/8] }"},
	{"cors", "cors: { origins: ['https://app.example'], credentials: true }, api_key: {}"},
	{"csrf", "csrf: { trusted_origins: ['https://app.example'] }"},
	{"works", "maintenance: { retry_after: 2m, bypass: { secret: let-me-in-please-now } }"},
	{"pages", `error_pages: { upstream: true, pages: { "401": { html: '<h1>Who are you?</h1>', json: '{"who":"${request_id}"}' }, "4xx": { html: '<h1>${status}</h1>' } } }, api_key: { header: X-Key, anonymous: true }`},
	{"private", `error_pages: { pages: { unauthenticated: { html: '<h1>Who are you?</h1>', json: '{"who":"${request_id}"}' } } }, api_key: {}`},
	{"compress", "compress: { encodings: [gzip], min_size: 16 }"},
	{"headers", "headers: { request: { remove: [X-Secret], set: { X-Client: '${client_ip} ${method} ${host}' }, add: { X-Note: b } }, response: { remove: [X-Powered-By], set: { X-Route: '${route}', X-ID: '${request_id}' } }, security: {} }"},
	{"small", "body_limit: { max: 10 }"},
}

func guardsConfig(t *testing.T, app string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `upstreams: { app: { endpoints: [%q] } }
plugins: [{ request_id: {} }]
consumers:
  alice: { api_keys: ["sha256:%x"], groups: [staff] }
  bob: { api_keys: ["sha256:%x"], basic_auth: { password_hash: %q } }
waf:
  event_log: { path: events.log, format: modsecurity }
  policies:
    watching: { mode: detect }
    search: { exclusions: [{ rules: ["942000-942999"], tags: [], targets: ["ARGS:q"], paths: ["/excluded/*"], comment: people search for SQL }] }
routes:
`, app, sha256.Sum256([]byte("alice-key")), sha256.Sum256([]byte("bob-key")), bcryptOf(t, "builder"))
	for _, g := range guards {
		fmt.Fprintf(&b, "  %s: { match: { path: /%s }, backends: [{ upstream: app }], plugins: [", g.name, g.name)
		for i, p := range splitPlugins(g.plugins) {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "{ %s }", p)
		}
		b.WriteString("] }\n")
	}
	return b.String()
}

// splitPlugins splits at commas outside of braces.
func splitPlugins(s string) (list []string) {
	depth, from := 0, 0
	for i, c := range s {
		switch c {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',':
			if depth == 0 {
				list = append(list, strings.TrimSpace(s[from:i]))
				from = i + 1
			}
		}
	}
	return append(list, strings.TrimSpace(s[from:]))
}

// sqli is an SQL injection as attackers try it.
const sqli = "q=1%27%20OR%20%271%27%3D%271%27%20--%20"

func TestGuards(t *testing.T) {
	key := newSigner(t, "k1")
	g := prepare(t, guardsConfig(t, upstreamServer(t, echoHeaders)))
	dir := filepath.Dir(g.config)
	writeFile(t, filepath.Join(dir, "keys.json"), key.jwks())
	writeFile(t, filepath.Join(dir, "users.htpasswd"), "carol:"+bcryptOf(t, "caroling")+"\n")
	cmd := exec.Command(binary, "run", "-c", g.config)
	cmd.Dir = dir // of the event log
	g.launch(cmd)
	g.waitReady()

	good := "Bearer " + key.token(map[string]any{"iss": "https://id.example", "aud": "api", "sub": "u1", "tenant": "acme", "scope": "read write"})
	stranger := "Bearer " + newSigner(t, "k1").token(map[string]any{"iss": "https://id.example", "aud": "api"})
	wrongAudience := "Bearer " + key.token(map[string]any{"iss": "https://id.example", "aud": "other"})
	expired := "Bearer " + key.token(map[string]any{"iss": "https://id.example", "aud": "api", "exp": 1_000_000_000})
	otherTenant := "Bearer " + key.token(map[string]any{"aud": "api", "tenant": "evil"})
	for _, c := range []struct {
		name   string
		method string // with the path
		header []string
		status int
		reason string   // of a refusal
		has    []string // in the reply's head or body
		lacks  []string
	}{
		{"waf lets good requests pass", "GET /waf/x?q=shoes", nil, 200, "", nil, nil},
		{"waf blocks SQL injection", "GET /waf/x?" + sqli, nil, 403, "waf_blocked", nil, []string{"942"}},
		{"waf blocks a script", "GET /waf/x?q=%3Cscript%3Ealert(1)%3C/script%3E", nil, 403, "waf_blocked", nil, nil},
		{"waf blocks a path out of the root", "GET /waf/x?file=../../../../etc/passwd", nil, 403, "waf_blocked", nil, nil},
		{"waf blocks a command in a header", "GET /waf/x", []string{"User-Agent", "() { :; }; /bin/bash -c 'cat /etc/passwd'"}, 403, "waf_blocked", nil, nil},
		{"waf blocks in a body", "POST /waf/x " + sqli, []string{"Content-Type", "application/x-www-form-urlencoded"}, 403, "waf_blocked", nil, nil},
		{"waf in mode detect only reports", "GET /detect/x?" + sqli, nil, 200, "", nil, nil},
		{"an exclusion lets its parameter pass", "GET /excluded/x?" + sqli, nil, 200, "", nil, nil},
		{"an exclusion is for its parameter only", "GET /excluded/x?other" + sqli, nil, 403, "waf_blocked", nil, nil},

		{"no key", "GET /key", nil, 401, "unauthenticated", []string{"Www-Authenticate:"}, nil},
		{"wrong key", "GET /key", []string{"X-API-Key", "alice-kex"}, 401, "unauthenticated", nil, nil},
		{"right key", "GET /key", []string{"X-API-Key", "alice-key"}, 200, "", nil, []string{"alice-key"}},
		{"key of the group", "GET /staff", []string{"X-API-Key", "alice-key"}, 200, "", nil, nil},
		{"key outside of the group", "GET /staff", []string{"X-API-Key", "bob-key"}, 403, "forbidden", nil, nil},

		{"no password", "GET /basic", nil, 401, "unauthenticated", []string{`Www-Authenticate: Basic realm="gatehouse"`}, nil},
		{"wrong password", "GET /basic", []string{"Authorization", basic("bob", "bilder")}, 401, "unauthenticated", nil, nil},
		{"consumer's password", "GET /basic", []string{"Authorization", basic("bob", "builder")}, 200, "", nil, []string{"Authorization:"}},
		{"htpasswd's password", "GET /basic", []string{"Authorization", basic("carol", "caroling")}, 200, "", nil, nil},

		{"no token", "GET /jwt", nil, 401, "unauthenticated", []string{"Www-Authenticate: Bearer"}, nil},
		{"good token", "GET /jwt", []string{"Authorization", good}, 200, "", []string{"X-Tenant: acme"}, []string{"Authorization:"}},
		{"token of a stranger", "GET /jwt", []string{"Authorization", stranger}, 401, "unauthenticated", []string{"invalid_token"}, nil},
		{"token for others", "GET /jwt", []string{"Authorization", wrongAudience}, 401, "unauthenticated", nil, nil},
		{"expired token", "GET /jwt", []string{"Authorization", expired}, 401, "unauthenticated", nil, nil},
		{"unsigned token", "GET /jwt", []string{"Authorization", "Bearer " + unsigned()}, 401, "unauthenticated", nil, nil},
		{"token with the scope", "GET /scope", []string{"Authorization", good}, 200, "", nil, nil},
		{"token without the scope", "GET /scope", []string{"Authorization", otherTenant}, 403, "forbidden", []string{"insufficient_scope"}, nil},
		{"allowed by expression", "GET /authorize", []string{"Authorization", good}, 200, "", nil, nil},
		{"method denied by expression", "POST /authorize", []string{"Authorization", good}, 403, "forbidden", nil, nil},
		{"tenant denied by expression", "GET /authorize", []string{"Authorization", otherTenant}, 403, "forbidden", nil, nil},

		{"outside of the networks", "GET /inside", nil, 403, "ip_denied", nil, nil},
		{"a stranger's word about his address", "GET /inside", []string{"X-Forwarded-For", "10.1.2.3"}, 403, "ip_denied", nil, nil},
		{"a proxy's word about the client", "GET /inside", []string{"X-Forwarded-For", "10.1.2.3", "From", "127.0.0.2"}, 200, "", nil, nil},
		{"the proxy's word about a foreign client", "GET /inside", []string{"X-Forwarded-For", "10.1.2.3, 192.0.2.1", "From", "127.0.0.2"}, 403, "ip_denied", nil, nil},

		{"preflight", "OPTIONS /cors", []string{"Origin", "https://app.example", "Access-Control-Request-Method", "PUT"}, 204, "", []string{"Access-Control-Allow-Origin: https://app.example", "Access-Control-Allow-Credentials: true", "Access-Control-Allow-Methods:"}, nil},
		{"preflight of a stranger", "OPTIONS /cors", []string{"Origin", "https://evil.example", "Access-Control-Request-Method", "PUT"}, 0, "", nil, []string{"Access-Control-Allow-Origin"}},
		{"the refusal behind it can be read", "GET /cors", []string{"Origin", "https://app.example"}, 401, "unauthenticated", []string{"Access-Control-Allow-Origin: https://app.example"}, nil},

		{"own form", "POST /csrf", []string{"Sec-Fetch-Site", "same-origin"}, 200, "", nil, nil},
		{"foreign form", "POST /csrf", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, 403, "csrf", nil, nil},
		{"trusted form", "POST /csrf", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://app.example"}, 200, "", nil, nil},
		{"foreign link", "GET /csrf", []string{"Sec-Fetch-Site", "cross-site"}, 200, "", nil, nil},

		{"maintenance", "GET /works", nil, 503, "maintenance", []string{"Retry-After: 120"}, nil},
		{"who works on it", "GET /works", []string{"X-Maintenance-Bypass", "let-me-in-please-now"}, 200, "", nil, []string{"let-me-in"}},

		{"page for browsers", "GET /private", []string{"Accept", "text/html"}, 401, "", []string{"<h1>Who are you?</h1>", "Content-Type: text/html"}, nil},
		{"page for programs", "GET /private", []string{"Accept", "application/json"}, 401, "", []string{`{"who":"0`, "Content-Type: application/json"}, nil},
		{"page for an upstream's error", "GET /pages/gone", []string{"Accept", "text/html"}, 410, "", []string{"<h1>410</h1>"}, []string{"GET /pages/gone"}},

		{"compressed", "GET /compress", []string{"Accept-Encoding", "gzip"}, 200, "", []string{"Content-Encoding: gzip", "Vary: Accept-Encoding", "GET /compress"}, nil},
		{"not compressed", "GET /compress", []string{"Accept-Encoding", "identity"}, 200, "", []string{"Vary: Accept-Encoding"}, []string{"Content-Encoding"}},

		{"headers", "GET /headers", []string{"X-Secret", "s3cret", "X-Note", "a", "Host", "shop.example"}, 200, "", []string{
			"X-Client: 127.0.0.1 GET shop.example", "X-Note: a", "X-Note: b", "X-Route: headers", "X-Id: 0", "X-Content-Type-Options: nosniff",
		}, []string{"s3cret", "X-Powered-By"}},
		{"request ID of a stranger", "GET /headers", []string{"X-Request-ID", "mine"}, 200, "", nil, []string{": mine"}},
		{"request ID of a proxy", "GET /headers", []string{"X-Request-ID", "mine", "From", "127.0.0.2"}, 200, "", []string{"X-Request-Id: mine", "X-Id: mine"}, nil},

		{"body within the limit", "POST /small 0123456789", nil, 200, "", []string{"\n\n0123456789"}, nil},
		{"body over the limit", "POST /small 0123456789x", nil, 413, "body_too_large", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := g.guarded(t, c.method, c.header)
			if c.status != 0 && r.StatusCode != c.status {
				t.Fatalf("%s\n%s", r.Status, r.body)
			}
			if c.reason != "" && !strings.Contains(r.body, `"reason":"`+c.reason+`"`) {
				t.Errorf("want %s:\n%s", c.reason, r.body)
			}
			all := headOf(r) + r.body
			for _, s := range c.has {
				if !strings.Contains(all, s) {
					t.Errorf("want %q in\n%s", s, all)
				}
			}
			for _, s := range c.lacks {
				if strings.Contains(requestIDs.ReplaceAllString(all, "ID"), s) { // which may have any digits
					t.Errorf("want no %q in\n%s", s, all)
				}
			}
		})
	}
	t.Run("rate limit", func(t *testing.T) { rateLimited(t, g) })
	t.Run("what the WAF says of it", func(t *testing.T) { wafEvents(t, g, dir) })
}

// guarded sends "METHOD PATH [BODY]". The pseudo header From is the address to
// send from.
func (g *gatehouse) guarded(t *testing.T, request string, header []string) reply {
	t.Helper()
	method, rest, _ := strings.Cut(request, " ")
	path, body, _ := strings.Cut(rest, " ")
	req, err := http.NewRequest(method, "http://"+g.web+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	from := net.IPv4(127, 0, 0, 1)
	for h := range slices.Chunk(header, 2) {
		switch h[0] {
		case "From":
			from = net.ParseIP(h[1])
		case "Host":
			req.Host = h[1]
		default:
			req.Header.Add(h[0], h[1])
		}
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
		return d.DialContext(ctx, network, addr)
	}}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var in io.Reader = resp.Body
	if resp.Header.Get("Content-Encoding") == "gzip" {
		if in, err = gzip.NewReader(in); err != nil {
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp, string(b)}
}

func headOf(r reply) string {
	var b strings.Builder
	if err := r.Header.Write(&b); err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(b.String(), "\r\n", "\n")
}

func rateLimited(t *testing.T, g *gatehouse) {
	for i := range 5 {
		r := g.get("/limited")
		left := fmt.Sprintf(`"trial";r=%d`, max(0, 2-i))
		if got := r.Header.Get("RateLimit"); !strings.HasPrefix(got, left) {
			t.Errorf("request %d: RateLimit %q, want %s…", i, got, left)
		}
		if got := r.Header.Get("RateLimit-Policy"); got != `"trial";q=3;w=3600` {
			t.Errorf("RateLimit-Policy %q", got)
		}
		switch {
		case i < 3 && r.StatusCode != 200:
			t.Errorf("request %d: %s", i, r.Status)
		case i >= 3 && (r.StatusCode != 429 || !strings.Contains(r.body, "rate_limited") || r.Header.Get("Retry-After") == ""):
			t.Errorf("request %d: %s %v %s", i, r.Status, r.Header, r.body)
		}
	}
	line := g.accessLine("the refusal", func(m map[string]any) bool { return m["reason"] == "rate_limited" })
	if line["flags"] != "RL" || line["step"] != "rate_limit" || line["route"] != "limited" {
		t.Errorf("access log line %v", line)
	}
	if n := g.sum("gatehouse_rate_limit_requests_total"); n != 5 {
		t.Errorf("%v requests counted", n)
	}
}

func wafEvents(t *testing.T, g *gatehouse, dir string) {
	line := g.accessLine("a detection", func(m map[string]any) bool { return m["route"] == "detect" && m["waf"] != nil })
	if w := line["waf"].(map[string]any); w["mode"] != "detect" || w["blocked"] != false || w["score"].(float64) < 5 || line["status"] != 200.0 {
		t.Errorf("access log line %v", line)
	}
	line = g.accessLine("a block", func(m map[string]any) bool { return m["route"] == "waf" && m["reason"] == "waf_blocked" })
	if w := line["waf"].(map[string]any); w["policy"] != "default" || w["blocked"] != true || line["flags"] != "WAF" || line["step"] != "waf" {
		t.Errorf("access log line %v", line)
	}
	g.eventually("the event log tells the rules", func() error {
		b, err := os.ReadFile(filepath.Join(dir, "events.log"))
		if err != nil {
			return err
		}
		for _, id := range []string{"942100", "941100", "930120", "932170"} {
			if !strings.Contains(string(b), `[id "`+id+`"]`) {
				return fmt.Errorf("no rule %s in\n%s", id, b)
			}
		}
		return nil
	})
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
