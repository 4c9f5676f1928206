package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// tellAll is an upstream that tells what it was asked, and does what it is told.
func tellAll(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if c := r.Header["Cookie"]; len(c) > 1 {
		r.Header["Cookie"] = []string{strings.Join(c, "; ")} // as from HTTP/2 on (RFC 9113, 8.2.3)
	}
	h := w.Header()
	for name, values := range map[string][]string{
		"/header/repeated": {"Set-Cookie", "a=1", "Set-Cookie", "b=2; Path=/", "X-Twice", "1", "X-Twice", "2"},
		"/header/alt":      {"Alt-Svc", `h3=":9"`, "Keep-Alive", "timeout=5", "Proxy-Authenticate", "Basic"},
		"/header/empty":    {"X-Empty", "", "Content-Type", ""},
		"/header/html":     {"Content-Type", "text/html"},
	} {
		if strings.HasSuffix(r.URL.Path, name) {
			for i := 0; i < len(values); i += 2 {
				h.Add(values[i], values[i+1])
			}
		}
	}
	flusher := http.NewResponseController(w)
	switch _, does, _ := strings.Cut(r.URL.Path, "/do/"); does {
	case "204", "304", "205", "404", "500", "418", "301":
		var status int
		_, _ = fmt.Sscan(does, &status)
		if status == 301 {
			h.Set("Location", "http://a.test/elsewhere")
		}
		w.WriteHeader(status)
		if status == 204 || status == 304 || status == 205 {
			return
		}
	case "empty":
		return
	case "length":
		h.Set("Content-Length", "5")
		_, _ = io.WriteString(w, "12345")
		return
	case "chunks":
		for i := range 3 {
			fmt.Fprintf(w, "piece %d\n", i)
			_ = flusher.Flush()
		}
		return
	case "trailers":
		h.Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "summed")
		_ = flusher.Flush()
		h.Set("X-Sum", "42")
		return
	case "large":
		_, _ = w.Write(make([]byte, 300_000))
		return
	case "hints":
		h.Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		h.Del("Link")
	case "cut":
		h.Set("Content-Length", "100")
		h.Set("Connection", "close") // a reply to HEAD is whole, and the connection not to be used again
		_, _ = io.WriteString(w, "only this")
		_ = flusher.Flush()
		panic(http.ErrAbortHandler)
	case "early":
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}
	fmt.Fprintf(w, "%s %s\nhost %s\nlength %d, %d bytes, sum %x, %v\n%strailers:\n%s", r.Method, r.RequestURI, r.Host,
		max(r.ContentLength, -1), len(body), sha256.Sum256(body), err, lines(r.Header), lines(r.Trailer))
}

const manyRoutes = `upstreams:
  app: { endpoints: [%[1]q] }
  shadow: { endpoints: [%[2]q] }
  two: { endpoints: [%[1]q, %[2]q], load_balancer: { algorithm: round_robin, sticky: { cookie: stick, secret: a-secret-of-16-bytes } } }
  flaky: { endpoints: [%[3]q, %[1]q], load_balancer: { algorithm: round_robin } }
  nobody: { endpoints: ["127.0.0.1:1"] }
plugins:
  - request_id: {}
  - headers: { response: { set: { X-Route: "${route}" } } }
routes:
  plain: { match: { path: / }, backends: [{ upstream: app }] }
  host: { match: { hosts: [b.test], path: / }, backends: [{ upstream: app }] }
  methods: { match: { path: /only, methods: [PUT] }, backends: [{ upstream: app }] }
  cookies: { match: { path: /choice, cookies: { color: red } }, backends: [{ upstream: app }] }
  params: { match: { path: /choice, query: { a: "b c" } }, backends: [{ upstream: app }] }
  fields: { match: { path: /choice, headers: { X-Choice: yes } }, backends: [{ upstream: app }] }
  limited: { match: { path: /limited }, plugins: [{ rate_limit: { limit: 2, per: 1h, key: header.X-Who, headers: false, name: r } }], backends: [{ upstream: app }] }
  moved: { match: { path: /moved }, redirect: { prefix: /new, status: 308 } }
  text: { match: { path: /text }, respond: { body: "User-agent: *\n" } }
  away: { match: { path: /away }, rewrite: { prefix: /rewritten }, backends: [{ upstream: app }] }
  sticky: { match: { path: /sticky }, backends: [{ upstream: two }] }
  mirrored: { match: { path: /mirrored }, mirror: { upstream: shadow, percent: 100 }, backends: [{ upstream: app }] }
  dead: { match: { path: /dead }, backends: [{ upstream: nobody }] }
  again: { match: { path: /again }, retries: { attempts: 2, budget_percent: 100 }, backends: [{ upstream: flaky }] }
  slow: { match: { path: /slow }, timeouts: { request: 200ms }, backends: [{ upstream: app }] }
`

// queries are what every protocol is asked.
func queries(jwt string) (list []asked) {
	add := func(q asked) { list = append(list, q) }
	for _, path := range []string{
		"/", "/a", "/a/", "/a//b", "//a", "/a/./b", "/a/../b", "/a/%2e%2e/b", "/a%2Fb", "/a%5cb", "/%61", "/a%20b", "/a+b", "/%C3%A9",
		"/a;v=1", "/a?", "/a?b", "/a?b=c&b=d", "/a?b=%20+%2B", "/a?b=c?d", "/a?%00", "/~a", "/a:b@c", "/a!$&'()*,=", "/.", "/..", "/a/..",
		"/a%00b", "/a%0d%0ab", "/" + strings.Repeat("x", 4000), "/" + strings.Repeat("x", 9000), "/?" + strings.Repeat("y", 9000),
	} {
		add(asked{what: "path " + path[:min(len(path), 30)], path: path})
	}
	for _, m := range []string{"HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "PURGE", "MADEUP", "TRACE", "get"} {
		add(asked{what: "method", method: m, path: "/x"})
		add(asked{what: "method of a route", method: m, path: "/only"})
	}
	for _, does := range []string{"204", "304", "205", "301", "404", "418", "500", "empty", "length", "chunks", "trailers", "large", "hints", "cut"} {
		add(asked{what: "reply", path: "/do/" + does})
		add(asked{what: "reply to HEAD", method: "HEAD", path: "/do/" + does})
	}
	for _, n := range []int{0, 1, 100, 1460, 4096, 20_000, 100_000, 1_200_000} {
		body := strings.Repeat("0123456789abcdef", n/16+1)[:n]
		add(asked{what: fmt.Sprint("a body of ", n), method: "POST", path: "/body", body: body})
		add(asked{what: fmt.Sprint("a body of unknown length, ", n), method: "PUT", path: "/body", body: body, chunked: true})
		add(asked{what: fmt.Sprint("a body with trailers, ", n), method: "POST", path: "/body", body: body, chunked: true, trailer: []string{"X-After", "the body"}})
	}
	add(asked{what: "a body of GET", path: "/body", body: "abc"})
	add(asked{what: "a body of DELETE", method: "DELETE", path: "/body", body: "abc"})
	add(asked{what: "an early refusal", method: "POST", path: "/do/early", body: strings.Repeat("x", 1000)})
	for name, header := range map[string][]string{
		"repeated": {"X-A", "1", "X-A", "2", "X-A", ""}, "cookies": {"Cookie", `a=1; b="q q"; =d`}, "two cookies": {"Cookie", "a=1", "Cookie", "b=2"},
		"forwarded": {"X-Forwarded-For", "9.9.9.9", "X-Forwarded-Proto", "ftp", "Forwarded", "for=9.9.9.9", "X-Real-IP", "9.9.9.9"},
		"early":     {"Early-Data", "1"}, "client certificate": {"Client-Cert", ":x:"}, "te": {"Te", "trailers"},
		"long": {"X-Long", strings.Repeat("v", 30_000)}, "too long": {"X-Long", strings.Repeat("v", 70_000)},
		"expect": {"Expect", "100-continue"}, "expects more": {"Expect", "the-unexpected"}, "two types": {"Content-Type", "a/b", "Content-Type", "c/d"},
		"bytes": {"X-Bytes", "caf\xc3\xa9 \xff\t."}, "spaces": {"X-Spaces", "a  b"}, "accept": {"Accept", "text/html, */*;q=0.1", "Accept-Encoding", "gzip, br"},
		"range": {"Range", "bytes=0-1"}, "conditional": {"If-None-Match", `"x"`}, "via": {"Via", "1.0 somebody"}, "date": {"Date", "Mon, 01 Jan 2024 00:00:00 GMT"},
		"underscore": {"X_Forwarded_For", "9.9.9.9"}, "priority": {"Priority", "u=1, i"}, "upgrade insecure": {"Upgrade-Insecure-Requests", "1"},
		"host": {"Host", "b.test"}, "host in capitals": {"Host", "B.TEST"}, "host with port": {"Host", "b.test:8443"}, "unknown host": {"Host", "c.test"},
		"trace": {"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	} {
		add(asked{what: "header " + name, path: "/h", header: header})
	}
	var many []string
	for i := range 120 {
		many = append(many, fmt.Sprintf("X-%d", i), "v")
	}
	add(asked{what: "90 headers", path: "/h", header: many[:180]})
	add(asked{what: "120 headers", path: "/h", header: many})
	for _, name := range []string{"repeated", "alt", "empty", "html"} {
		add(asked{what: "reply header", path: "/header/" + name})
	}
	add(asked{what: "a cookie chooses", path: "/choice", header: []string{"Cookie", "color=red"}})
	add(asked{what: "a parameter chooses", path: "/choice?a=b%20c"})
	add(asked{what: "a header chooses", path: "/choice", header: []string{"X-Choice", "yes"}})
	add(asked{what: "nothing chooses", path: "/choice"})
	for range 3 {
		add(asked{what: "limited", path: "/limited", header: []string{"X-Who", "PROTOCOL"}})
	}
	for _, path := range []string{"/moved/a?b=c", "/text", "/away/x?y", "/mirrored", "/dead", "/again", "/again/2", "/sticky"} {
		add(asked{what: "action", path: path})
		add(asked{what: "action", method: "HEAD", path: path})
		add(asked{what: "action", method: "POST", path: path, body: "abc"})
	}
	html := []string{"Accept", "text/html"}
	for _, q := range []asked{
		{path: "/waf/x?q=shoes"},
		{path: "/waf/x?" + sqli},
		{path: "/waf/x?q=%3Cscript%3Ealert(1)%3C/script%3E"},
		{path: "/waf/x", method: "POST", body: sqli, header: []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{path: "/waf/x", method: "POST", body: `{"a":["b"]}`, header: []string{"Content-Type", "application/json"}},
		{path: "/waf/x", method: "POST", body: strings.Repeat("a", 300_000), header: []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{path: "/detect/x?" + sqli},
		{path: "/excluded/x?" + sqli},
		{path: "/excluded/x?other" + sqli},
		{path: "/key"},
		{path: "/key", header: []string{"X-API-Key", "alice-key"}},
		{path: "/key", header: []string{"X-API-Key", "wrong"}},
		{path: "/staff", header: []string{"X-API-Key", "alice-key"}},
		{path: "/staff", header: []string{"X-API-Key", "bob-key"}},
		{path: "/basic"},
		{path: "/basic", header: []string{"Authorization", basic("carol", "caroling")}},
		{path: "/basic", header: []string{"Authorization", basic("carol", "x")}},
		{path: "/jwt"},
		{path: "/jwt", header: []string{"Authorization", jwt}},
		{path: "/scope", header: []string{"Authorization", jwt}},
		{path: "/authorize", header: []string{"Authorization", jwt}},
		{path: "/authorize", method: "POST", body: "x", header: []string{"Authorization", jwt}},
		{path: "/inside"},
		{path: "/works"},
		{path: "/small", method: "POST", body: "0123456789"},
		{path: "/small", method: "POST", body: "0123456789a"},
		{path: "/small", method: "POST", body: "0123456789a", chunked: true},
		{path: "/cors", header: []string{"Origin", "https://app.example", "X-API-Key", "alice-key"}},
		{path: "/cors", header: []string{"Origin", "https://app.example"}},
		{path: "/cors", method: "OPTIONS", header: []string{"Origin", "https://app.example", "Access-Control-Request-Method", "PUT"}},
		{path: "/cors", method: "OPTIONS", header: []string{"Origin", "https://evil.example", "Access-Control-Request-Method", "PUT"}},
		{path: "/csrf", method: "POST", body: "x", header: []string{"Origin", "https://evil.example"}},
		{path: "/csrf", method: "POST", body: "x", header: []string{"Origin", "https://app.example"}},
		{path: "/pages", header: html},
		{path: "/private", header: html},
		{path: "/private"},
		{path: "/compress", header: []string{"Accept-Encoding", "gzip"}},
		{path: "/compress"},
		{path: "/headers", header: []string{"X-Secret", "s", "X-Note", "a"}},
		{path: "/none/../headers"},
	} {
		q.what = "guard"
		add(q)
	}
	return list
}

// The same request gets the same route, the same decisions and the same reply
// over every protocol, and the upstream is asked the same.
func TestEveryProtocolAnswersAlike(t *testing.T) {
	var mirrored sync.Map
	shadow := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/mirrored") {
			mirrored.Store(r.Method, true)
		}
		tellAll(w, r)
	})
	key := newSigner(t, "k1")
	app := upstreamServer(t, tellAll)
	guarded, guardRoutes, _ := strings.Cut(guardsConfig(t, app), "routes:\n")
	guarded = guarded[strings.Index(guarded, "consumers:"):] // the rest is in manyRoutes
	guardRoutes = strings.Replace(guardRoutes, "  limited:", "  limited-by-address:", 1)
	guardRoutes = strings.Replace(guardRoutes, "path: /limited }", "path: /limited-by-address }", 1)
	n := prepareMany(t, "", fmt.Sprintf(manyRoutes, app, shadow, freeAddress(t))+guardRoutes+guarded)
	dir := filepath.Dir(n.config)
	writeFile(t, filepath.Join(dir, "keys.json"), key.jwks())
	writeFile(t, filepath.Join(dir, "users.htpasswd"), "carol:"+bcryptOf(t, "caroling")+"\n")
	n.begin()

	asked, served, refused := 0, 0, 0
	for i, q := range queries("Bearer " + key.token(map[string]any{"iss": "https://id.example", "aud": "api", "sub": "u1", "tenant": "acme"})) {
		answers := map[string]answer{}
		for _, p := range n.order {
			answers[p] = n.send(p, q)
		}
		if s := answers["h1"].status; s >= 400 {
			refused++
		} else if s > 0 {
			served++
		}
		// An upstream that tells what it was asked tells "http" of the first two.
		for _, pair := range [][2]string{{"h1", "h2c"}, {"h1 tls", "h2"}, {"h1 tls", "h3"}, {"h1", "h1 tls"}} {
			want, got := answers[pair[0]], answers[pair[1]]
			if pair[1] == "h1 tls" { // http is a letter shorter, and has no strict transport security
				want.header, got.header = ofScheme.ReplaceAllString(want.header, ""), ofScheme.ReplaceAllString(got.header, "")
			}
			if !strings.Contains(want.header, "Content-Length") || !strings.Contains(got.header, "Content-Length") {
				// What an upstream sends in chunks has a length where it is known in time.
				want.header, got.header = ofScheme.ReplaceAllString(want.header, ""), ofScheme.ReplaceAllString(got.header, "")
			}
			if got.err != nil && want.status == 431 && pair[1] == "h2" || pair[1] == "h2c" && want.status == 431 {
				continue // the client knows the limit, and sends nothing
			}
			if !alike(got, want) {
				t.Errorf("%d, %s, %s %.60s: over %s\n%s", i, q.what, q.method, q.path, pair[1], difference(got, want))
			}
		}
		asked += len(answers)
	}
	if asked < 800 || served < 60 || refused < 40 {
		t.Errorf("only %d requests, %d kinds served, %d refused", asked, served, refused)
	}
	for _, m := range []string{"GET", "HEAD", "POST"} {
		n.eventually("mirrored: "+m, func() error {
			if _, ok := mirrored.Load(m); !ok {
				return fmt.Errorf("no copy")
			}
			return nil
		})
	}
}

var ofScheme = regexp.MustCompile(`(Content-Length|Strict-Transport-Security): .*\n`)

// difference are the lines that only one of the two has.
func difference(got, want answer) string {
	var b strings.Builder
	a, c := strings.Split(got.String(), "\n"), strings.Split(want.String(), "\n")
	for _, l := range a {
		if !slices.Contains(c, l) {
			fmt.Fprintf(&b, "  got  %.200s\n", l)
		}
	}
	for _, l := range c {
		if !slices.Contains(a, l) {
			fmt.Fprintf(&b, "  want %.200s\n", l)
		}
	}
	return b.String()
}

// alike compares what two protocols answered. A request that one end of a
// connection refuses to write, or resets, has no answer anywhere.
func alike(a, b answer) bool {
	if (a.err != nil) != (b.err != nil) {
		return false
	}
	return a.err != nil || a.status == b.status && a.header == b.header && a.body == b.body && a.trailer == b.trailer
}
