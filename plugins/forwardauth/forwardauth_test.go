package forwardauth

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func start(t testing.TB, yaml, dir string) *plugin {
	t.Helper()
	c := new(Config)
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(yaml, "timeout:") {
		c.Timeout = unit.Duration(time.Minute) // a machine that stands still for a while is no service that is away
	}
	i, err := Factory().New(c, plugins.Settings{
		Route: plugins.Route{Name: "r"}, Dir: dir,
		Consumers: plugins.NewDirectory([]*plugins.Consumer{{Consumer: exchange.Consumer{Name: "alice", Groups: []string{"staff"}}}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := i.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	return i.(*plugin)
}

// serve runs a service for one test.
func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// upstream answers with the headers that reached it.
func upstream(c *fiber.Ctx) error {
	var words []string
	if who := exchange.From(c).Identity.Consumer; who != nil {
		words = append(words, fmt.Sprintf("%s%v", who.Name, who.Groups))
	}
	for k, v := range c.Request().Header.All() {
		if strings.HasPrefix(string(k), "X") {
			words = append(words, fmt.Sprintf("%s=%s", k, v))
		}
	}
	slices.Sort(words)
	return c.SendString(strings.Join(words, " "))
}

func ask(t testing.TB, p *plugin, head string) plugintest.Reply {
	t.Helper()
	return plugintest.Do(t, plugintest.Request{Raw: "POST /v1/x?q=1 HTTP/1.1\r\nHost: API.test\r\n" + head + "Content-Length: 4\r\n\r\nbody"},
		p.Handle, upstream)
}

func TestWhatTheServiceSees(t *testing.T) {
	var seen http.Header
	var method, body, host string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen, method, body, host = r.Header, r.Method, string(b), r.Host
	})
	head := "Authorization: Bearer t\r\nCookie: a=1; b=2\r\nX-Two: 1\r\nX-Two: 2\r\nX-Hop: 1\r\nConnection: keep-alive, X-Hop\r\n" +
		"TE: trailers\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-User: root\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Uri: /open\r\nX_Forwarded_Uri: /open\r\nContent-Type: text/x\r\n"
	p := start(t, "url: '"+url+"/check?x=1'", "")
	if r := ask(t, p, head); r.Status != 200 {
		t.Fatalf("%d %v", r.Status, r.Refusal)
	}
	if method != "GET" || body != "" || host != strings.TrimPrefix(url, "http://") {
		t.Errorf("%s with body %q to %s", method, body, host)
	}
	want := map[string]string{
		"Authorization": "Bearer t", "Cookie": "a=1; b=2", "X-Two": "1,2", "X-Forwarded-Method": "POST", "X-Forwarded-Proto": "http",
		"X-Forwarded-Host": "API.test", "X-Forwarded-Uri": "/v1/x?q=1", "X-Forwarded-For": "192.0.2.1",
		"X-Hop": "", "Te": "", "Connection": "", "Forwarded": "", "X-Forwarded-User": "", "X_forwarded_uri": "", "Content-Type": "", "User-Agent": "", "Accept-Encoding": "",
	}
	for k, v := range want {
		if got := strings.Join(seen.Values(k), ","); got != v {
			t.Errorf("%s: %q, want %q", k, got, v)
		}
	}
	some := start(t, "{url: '"+url+"', request_headers: [Authorization, x-two]}", "")
	ask(t, some, head+"X-Other: 1\r\n")
	if seen.Get("Authorization") == "" || len(seen.Values("X-Two")) != 2 || seen.Get("Cookie") != "" || seen.Get("X-Other") != "" ||
		seen.Get("X-Forwarded-Uri") != "/v1/x?q=1" {
		t.Errorf("chosen headers: %v", seen)
	}
}

func TestHeadersForTheUpstreamAreTheServicesOnly(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Know") != "" {
			w.Header().Add("X-User", "u1")
			w.Header().Add("X-Group", "a")
			w.Header().Add("X-Group", "b")
			w.Header().Add("X-Consumer", r.Header.Get("X-Know"))
		}
		w.Header().Add("X-Not-Asked-For", "1")
		w.WriteHeader(http.StatusNoContent)
	})
	p := start(t, "{url: '"+url+"', upstream_headers: [X-User, X-Group], consumer_header: X-Consumer}", "")
	forged := "X-User: root\r\nx-group: wheel\r\nX_User: root\r\nX-User: root\r\nX-Consumer: root\r\nX-Consumer_: keep\r\n"
	for head, want := range map[string]string{
		forged:                       "X-Consumer_=keep",
		forged + "X-Know: alice\r\n": "X-Consumer_=keep X-Group=a X-Group=b X-Know=alice X-User=u1 alice[staff]",
		"X-Know: somebody\r\n":       "X-Group=a X-Group=b X-Know=somebody X-User=u1 somebody[]",
	} {
		if r := ask(t, p, head); r.Body != want {
			t.Errorf("upstream saw %q, want %q (%v)", r.Body, want, r.Refusal)
		}
	}
}

func cookies(r plugintest.Reply) (n int) {
	for range r.Header.Cookies() {
		n++
	}
	return n
}

func TestDenials(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status := 0
		_, _ = fmt.Sscan(r.Header.Get("X-Want"), &status)
		w.Header().Set("Content-Type", "text/x")
		w.Header().Set("WWW-Authenticate", "Own")
		w.Header().Set("Location", "https://login.test/")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.Header().Set("X-Internal", "secret")
		w.WriteHeader(status)
		if status != 304 && status != 204 {
			_, _ = io.WriteString(w, strings.Repeat("no", len(r.Header.Get("X-Long"))+1))
		}
	})
	p := start(t, "{url: '"+url+"', body_limit: 100}", "")
	for status, want := range map[int]*reason.Reason{
		401: reason.ExternalDenied, 403: reason.ExternalDenied, 302: reason.ExternalDenied, 429: reason.ExternalDenied, 404: reason.ExternalDenied,
		500: reason.AuthUnavailable, 503: reason.AuthUnavailable, 304: reason.AuthUnavailable, 599: reason.AuthUnavailable,
	} {
		r := ask(t, p, fmt.Sprintf("X-Want: %d\r\n", status))
		if r.Refusal == nil || r.Refusal.Reason != want {
			t.Errorf("%d: %v", status, r.Refusal)
			continue
		}
		if want == reason.AuthUnavailable {
			if r.Status != 503 || r.Header.Peek("WWW-Authenticate") != nil {
				t.Errorf("%d: %d %s", status, r.Status, r.Header.Peek("Location"))
			}
			continue
		}
		if r.Status != status || r.Body != "no" || string(r.Header.Peek("WWW-Authenticate")) != "Own" || string(r.Header.ContentType()) != "text/x" ||
			string(r.Header.Peek("Location")) != "https://login.test/" || cookies(r) != 2 || r.Header.Peek("X-Internal") != nil ||
			string(r.Header.Peek("Cache-Control")) != "no-store" {
			t.Errorf("%d: %d %q, Location %s", status, r.Status, r.Body, r.Header.Peek("Location"))
		}
	}
	r := ask(t, p, "X-Want: 403\r\nX-Long: "+strings.Repeat("x", 100)+"\r\n")
	if r.Status != 403 || string(r.Header.ContentType()) != "application/problem+json" || string(r.Header.Peek("WWW-Authenticate")) != "Own" {
		t.Errorf("a long denial: %d %s %q", r.Status, r.Header.ContentType(), r.Body)
	}
}

// A gRPC client gets a status and the service's headers, but no page.
func TestDenialsOfCalls(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status := 0
		_, _ = fmt.Sscan(r.Header.Get("X-Want"), &status)
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("WWW-Authenticate", "Own")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<p>no</p>")
	})
	p := start(t, "url: '"+url+"'", "")
	for status, want := range map[int]string{401: "16", 403: "7", 302: "7", 429: "8", 500: "14"} {
		r := plugintest.Do(t, plugintest.Request{
			Raw:  fmt.Sprintf("POST /s.S/M HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/grpc\r\nX-Want: %d\r\nContent-Length: 0\r\n\r\n", status),
			Edit: func(e *exchange.Exchange) { e.RPC.Kind = grpc.Native },
		}, p.Handle, upstream)
		if r.Status != 200 || string(r.Header.Peek("Grpc-Status")) != want || string(r.Header.ContentType()) != "application/grpc" || r.Body != "" ||
			status < 500 && string(r.Header.Peek("WWW-Authenticate")) != "Own" {
			t.Errorf("%d: %d %q, %s", status, r.Status, r.Body, r.Header)
		}
	}
}

func TestServiceAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	closed := "http://" + c.LocalAddr().String() // nobody can listen at the near end of a connection
	release := make(chan struct{})
	hangs := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	garbage := rawServer(t, "SSH-2.0-OpenSSH\r\n")
	endless := rawServer(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 100<<10)+"\r\n\r\n")
	half := rawServer(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nhalf")
	busy := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	broken := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	for name, url := range map[string]string{"closed": closed, "hangs": hangs, "garbage": garbage, "endless": endless, "half": half, "busy": busy, "broken": broken} {
		timeout := "30s"
		if name == "hangs" {
			timeout = "100ms"
		}
		p := start(t, "{url: '"+url+"', timeout: "+timeout+", upstream_headers: [X-User]}", "")
		if r := ask(t, p, "X-User: root\r\n"); r.Status != 503 || r.Refusal.Reason != reason.AuthUnavailable {
			t.Errorf("%s: %d %v", name, r.Status, r.Refusal)
		}
		p = start(t, "{url: '"+url+"', timeout: "+timeout+", upstream_headers: [X-User], fail_open: true}", "")
		r := ask(t, p, "X-User: root\r\nX-A: 1\r\n")
		if name == "broken" { // a request may be what breaks it
			if r.Status != 503 {
				t.Errorf("%s: status 500 opens: %d", name, r.Status)
			}
		} else if r.Status != 200 || r.Body != "X-A=1" {
			t.Errorf("%s, fail_open: %d %q %v", name, r.Status, r.Body, r.Refusal)
		}
	}
}

// rawServer answers every connection with text once a request has come.
func rawServer(t testing.TB, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, text)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return "http://" + l.Addr().String()
}

func TestCache(t *testing.T) {
	var calls atomic.Int64
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		w.Header().Set("X-User", r.Header.Get("Authorization"))
		if r.Header.Get("Authorization") == "bad" {
			w.WriteHeader(401)
		}
	})
	p := start(t, "{url: '"+url+"', upstream_headers: [X-User], request_headers: [Authorization], cache: {ttl: 1h, size: 16}}", "")
	step := func(head, want string, n int64) {
		t.Helper()
		r := ask(t, p, head)
		if r.Body != want && r.Status == 200 || calls.Load() != n {
			t.Errorf("%q: %d %q after %d calls, want %q after %d", head, r.Status, r.Body, calls.Load(), want, n)
		}
	}
	step("Authorization: a\r\n", "X-User=a", 1)
	step("Authorization: a\r\nX-User: root\r\n", "X-User=a", 1)
	step("Authorization: b\r\n", "X-User=b", 2)
	step("Authorization: a\r\nAuthorization: b\r\n", "X-User=a", 3)
	step("Authorization: bad\r\n", "", 4)
	step("Authorization: bad\r\n", "", 5) // denials are not remembered
	r := plugintest.Do(t, plugintest.Request{Raw: "GET /v1/x?q=1 HTTP/1.1\r\nHost: API.test\r\nAuthorization: a\r\n\r\n"}, p.Handle, upstream)
	if r.Status != 200 || calls.Load() != 6 {
		t.Errorf("another method: %d calls", calls.Load())
	}
	for i := range 100 {
		ask(t, p, fmt.Sprintf("Authorization: n%d\r\n", i))
	}
	if n := len(p.cache.entries); n != 16 {
		t.Errorf("%d verdicts are remembered, want 16", n)
	}
	key := [32]byte{1}
	p.cache.put(key, &verdict{status: 200})
	p.cache.base = p.cache.base.Add(-2 * time.Hour) // as if the time had come
	if p.cache.get(key) != nil {
		t.Error("remembered for too long")
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := ask(t, start(t, "{url: '"+s.URL+"', ca_file: ca.pem}", dir), ""); r.Status != 200 {
		t.Errorf("known authority: %d %v", r.Status, r.Refusal)
	}
	if r := ask(t, start(t, "{url: '"+s.URL+"'}", dir), ""); r.Status != 503 {
		t.Errorf("unknown authority: %d %v", r.Status, r.Refusal)
	}
	for _, file := range []string{"none.pem", "forwardauth"} {
		if file == "forwardauth" {
			if err := os.WriteFile(filepath.Join(dir, file), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Factory().New(&Config{URL: s.URL, CAFile: file}, plugins.Settings{Dir: dir}); err == nil || !strings.Contains(err.Error(), "ca_file") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestBadConfig(t *testing.T) {
	for yaml, want := range map[string]string{
		"{}":                             "url: ",
		"{url: 'x'}":                     "url: must be http://HOST/PATH",
		"{url: 'ftp://x'}":               "url: must be http://HOST/PATH",
		"{url: 'http://x', timeout: 0s}": "timeout: must be from 10ms",
		"{url: 'http://x', upstream_headers: ['a b']}":                   "upstream_headers: must be header names",
		"{url: 'http://x', upstream_headers: [Connection]}":              "upstream_headers: Connection concerns the connection",
		"{url: 'http://x', upstream_headers: [content-length]}":          "upstream_headers: content-length concerns",
		"{url: 'http://x', request_headers: [Transfer-Encoding]}":        "request_headers: Transfer-Encoding concerns",
		"{url: 'http://x', client_headers: [Content-Length]}":            "client_headers: Content-Length is the gateway's",
		"{url: 'http://x', client_headers: [Upgrade]}":                   "client_headers: Upgrade concerns",
		"{url: 'http://x', consumer_header: Host}":                       "consumer_header: Host concerns",
		"{url: 'http://x', cache: {}}":                                   "cache: needs request_headers",
		"{url: 'http://x', cache: {size: 1}, request_headers: [Cookie]}": "cache.size: must be from 16",
		"{url: 'http://x', body_limit: 2MiB}":                            "body_limit: must be at most 1MiB",
		"{url: 'http://x', ca_file: x}":                                  "ca_file: has no meaning with a http url",
		"{url: 'http://x', fail_closed: true}":                           "fail_closed: ",
	} {
		if err := strict.Unmarshal([]byte(yaml), new(Config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
	}
}

func TestConformance(t *testing.T) {
	url := serve(t, func(http.ResponseWriter, *http.Request) {})
	plugintest.Run(t, Factory(), plugintest.Options{
		Good: []string{
			"{url: '" + url + "', request_headers: [Cookie], upstream_headers: [X-User], cache: {ttl: 1h}, timeout: 1m}",
			"{url: '" + url + "', timeout: 1m}",
			"{url: 'http://127.0.0.1:1/', fail_open: true}",
		},
		Bad:    []plugintest.Bad{{YAML: "{url: x}", Want: "url: must be"}},
		Allocs: 4, // with the answer remembered: looking for headers to strip
	})
}
