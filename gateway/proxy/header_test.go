package proxy_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/telemetry"
)

// recording is an upstream that answers with reply and keeps what it was sent.
func recording(t testing.TB, reply string) (addr string, heads chan string) {
	heads = make(chan string, 16)
	return raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for {
			head := readHead(r)
			if head == "" {
				return
			}
			heads <- head
			io.WriteString(c, reply)
		}
	}), heads
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestRequestHead(t *testing.T) {
	up, heads := recording(t, ok)
	for _, tc := range []struct {
		name, head string
		settings   proxy.Settings
		trusted    bool
		tls        *exchange.TLS
		want, not  []string // lines
	}{
		{
			name: "hop-by-hop fields stay here",
			head: "GET /a?b HTTP/1.1\r\nHost: A.test:81\r\nConnection: keep-alive, X-Secret, TE\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n" +
				"Proxy-Connection: x\r\nProxy-Authorization: y\r\nTE: trailers, deflate\r\nUpgrade: x\r\nX-Kept: 2\r\nX-Kept: 3\r\n\r\n",
			want: []string{"GET /a?b HTTP/1.1", "Host: A.test:81", "X-Kept: 2", "X-Kept: 3", "Via: 1.1 gatehouse", "Connection: TE", "TE: trailers"},
			not:  []string{"X-Secret", "Keep-Alive", "Proxy-", "Upgrade", "deflate", "Content-Length", "Transfer-Encoding"},
		},
		{
			name: "only trailers is a TE",
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nTE: gzip\r\n\r\n", not: []string{"TE:", "Te:", "Connection"},
		},
		{
			name: "expectations are the front's",
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\n\r\n", not: []string{"Expect"},
		},
		{
			name: "an untrusted client's claims are replaced",
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\n" +
				"X-Forwarded-Port: 1\r\nForwarded: for=1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\n\r\n",
			want: []string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Host: a.test", "X-Forwarded-Proto: http", "Forwarded: for=192.0.2.7;host=a.test;proto=http"},
			not:  []string{"1.1.1.1", "evil", "https", "X-Forwarded-Port", "X-Real"},
		},
		{
			name: "a trusted proxy's are added to", trusted: true,
			head: "GET / HTTP/1.1\r\nHost: a.test:8080\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Proto: https\r\n" +
				"X-Forwarded-Port: 1\r\nForwarded: for=1.1.1.1\r\n\r\n",
			want: []string{
				"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.7", "X-Forwarded-Host: a.test:8080", "X-Forwarded-Proto: https", "X-Forwarded-Port: 1",
				"Forwarded: for=1.1.1.1, for=192.0.2.7;host=\"a.test:8080\";proto=http",
			},
		},
		{
			name: "claims spelt as CGI does",
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nX_Forwarded_For: 1.1.1.1\r\nx-forwarded_host: 1.1.1.1\r\nX_REAL_IP: 1.1.1.1\r\nX_Forwarded_Other: 2\r\n\r\n",
			want: []string{"X-Forwarded-For: 192.0.2.7", "X_forwarded_other: 2"}, not: []string{"1.1.1.1"},
		},
		{
			name: "claims spelt as CGI does, by way of a trusted proxy", trusted: true,
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 3.3.3.3\r\nX_Forwarded_For: 1.1.1.1\r\nX-Forwarded_Proto: 1.1.1.1\r\n\r\n",
			want: []string{"X-Forwarded-For: 3.3.3.3, 192.0.2.7"}, not: []string{"1.1.1.1"},
		},
		{
			name: "nobody but us hands on client certificates",
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nClient-Cert: :evil:\r\nCLIENT-CERT: :evil:\r\nClient_Cert: :evil:\r\nClient-Cert_Chain: :evil:\r\nClient-Certain: 1\r\n\r\n",
			want: []string{"Client-Certain: 1"}, not: []string{"evil"},
		},
		{
			name: "not even trusted proxies", trusted: true,
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nClient-Cert: :evil:\r\nClient-Cert-Chain: :evil:\r\n\r\n", not: []string{"Client-Cert", "evil"},
		},
		{
			name: "a certificate that was proved", tls: &exchange.TLS{ClientCert: ":MA==:"},
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Client-Cert\r\nclient-cert: :evil:\r\n\r\n", want: []string{"Client-Cert: :MA==:"}, not: []string{"evil"},
		},
		{
			name: "a client cannot have our fields taken out",
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close, X-Forwarded-For, Forwarded, Via\r\n\r\n",
			want: []string{"X-Forwarded-For: 192.0.2.7", "Via: 1.1 gatehouse"},
		},
		{
			name: "cookies byte for byte",
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nCookie: b=\"q q\"; =d;e;  f=g\r\nCookie: h=i\r\n\r\n",
			want: []string{"Cookie: b=\"q q\"; =d;e;  f=g", "Cookie: h=i"},
		},
		{name: "an empty cookie too", head: "GET / HTTP/1.1\r\nHost: a.test\r\nCookie: \r\n\r\n", want: []string{"Cookie: "}},
		{name: "empty POST has a length", head: "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n", want: []string{"Content-Length: 0"}},
		{name: "HTTP/1.0", head: "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n", want: []string{"GET / HTTP/1.1", "Via: 1.0 gatehouse"}},
		{
			name: "Via goes on", settings: proxy.Settings{Via: "edge"},
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.1 other\r\n\r\n", want: []string{"Via: 1.1 other", "Via: 1.1 edge"},
		},
		{
			name: "endpoint's host", settings: proxy.Settings{HostMode: proxy.HostEndpoint},
			head: "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", want: []string{"Host: " + up}, not: []string{"\r\nHost: a.test\r\n"},
		},
		{
			name: "another host", settings: proxy.Settings{HostMode: proxy.HostFixed, Host: "b.test"},
			head: "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", want: []string{"Host: b.test"},
		},
		{
			name: "the client's trace goes on",
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nTraceparent: 00-1-2-01\r\nTracestate: x=y\r\n\r\n", want: []string{"Traceparent: 00-1-2-01", "Tracestate: x=y"},
		},
		{
			name: "clear-text HTTP/2 is not asked for",
			head: "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
			not:  []string{"Upgrade", "h2c", "Settings", "Connection"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, tc.settings, up)
			g.trusted, g.tls = tc.trusted, tc.tls
			_, r := dial(t, g.addr, "%s", tc.head)
			if head := readHead(r); !strings.HasPrefix(head, "HTTP/1.1 200") {
				t.Fatalf("client got %q", head)
			}
			head := <-heads
			for _, w := range tc.want {
				if !strings.Contains("\r\n"+head, "\r\n"+w+"\r\n") {
					t.Errorf("%q is missing in\n%s", w, head)
				}
			}
			for _, n := range tc.not {
				if strings.Contains(head, n) {
					t.Errorf("%q should not be in\n%s", n, head)
				}
			}
		})
	}
}

func TestCookieChangedByAPlugin(t *testing.T) {
	up, heads := recording(t, ok)
	s := proxy.Settings{Route: "test", Backends: backends(t, up)}
	p, err := proxy.New(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		plugin fiber.Handler
		want   string
	}{
		{"read", func(c *fiber.Ctx) error { c.Cookies("a"); return c.Next() }, "Cookie: a=\"1 1\";b\r\n"},
		{"set", func(c *fiber.Ctx) error { c.Request().Header.SetCookie("a", "2"); return c.Next() }, "Cookie: a=2; b\r\n"},
		{"deleted", func(c *fiber.Ctx) error { c.Request().Header.Del("Cookie"); return c.Next() }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := &gateway{ended: make(chan struct{}, 1)}
			g.serve(t, tc.plugin, p.Handle)
			_, r := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\nCookie: a=\"1 1\";b\r\n\r\n")
			readHead(r)
			head := <-heads
			if tc.want == "" && strings.Contains(head, "Cookie") || !strings.Contains(head, tc.want) {
				t.Errorf("got\n%s", head)
			}
		})
	}
}

func TestReplyHead(t *testing.T) {
	up, _ := recording(t, "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nServer: up\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n"+
		"Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=1\r\nUpgrade: h2\r\nTrailer: X\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nok")
	g := start(t, proxy.Settings{}, up)
	_, r := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	head := readHead(r)
	for _, w := range []string{"Date: Thu, 01 Jan 2026 00:00:00 GMT", "Server: up", "Set-Cookie: a=b", "Set-Cookie: c=d", "Content-Length: 2"} {
		if strings.Count(head, w+"\r\n") != 1 {
			t.Errorf("%q is missing in\n%s", w, head)
		}
	}
	for _, n := range []string{"X-Secret", "Keep-Alive", "Upgrade", "Trailer", "Connection", "Proxy-Auth"} {
		if strings.Contains(head, n) {
			t.Errorf("%q should not be in\n%s", n, head)
		}
	}
}

// span is a telemetry.Span that records.
type span struct {
	name     string
	parent   *span
	children []*span
	ints     map[string]int64
	failed   string
	ended    bool
}

func (s *span) Step(string, time.Time, time.Duration, string) {}

func (s *span) Child(name string) telemetry.Span {
	c := &span{name: name, parent: s, ints: map[string]int64{}}
	s.children = append(s.children, c)
	return c
}
func (s *span) SetString(string, string)          {}
func (s *span) SetInt(k string, v int64)          { s.ints[k] = v }
func (s *span) Fail(m string)                     { s.failed = m }
func (s *span) End()                              { s.ended = true }
func (s *span) AppendTraceparent(d []byte) []byte { return append(d, "00-from-"+s.name...) }

// find is the first span of that name in s and below.
func (s *span) find(name string) *span {
	if s.name == name {
		return s
	}
	for _, c := range s.children {
		if f := c.find(name); f != nil {
			return f
		}
	}
	return nil
}

func TestSpanPerTry(t *testing.T) {
	up, heads := recording(t, ok)
	g := start(t, proxy.Settings{}, up)
	root := &span{name: "root", ints: map[string]int64{}}
	g.edit = func(e *exchange.Exchange) { e.Span = root }
	_, r := dial(t, g.addr, "GET / HTTP/1.1\r\nHost: a.test\r\nTraceparent: 00-1-2-01\r\n\r\n")
	readHead(r)
	if head := <-heads; !strings.Contains(head, "Traceparent: 00-from-upstream\r\n") || strings.Contains(head, "00-1-2-01") {
		t.Errorf("got\n%s", head)
	}
	g.await(t, 1)
	try := root.find("upstream")
	if try == nil {
		t.Fatal("no span for the try")
	}
	if !try.ended || try.ints["http.response.status_code"] != 200 {
		t.Errorf("span %+v", try)
	}
}
