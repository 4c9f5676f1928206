package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// startListener is start with more settings for the listener "web", in flow style.
func startListener(t *testing.T, listener, config string) *gatehouse {
	t.Helper()
	g := prepare(t, config)
	g.writeRaw(strings.Replace(g.text(config), "[127.0.0.2/32] }", "[127.0.0.2/32], "+listener+" }", 1))
	g.run()
	g.waitReady()
	return g
}

// witness is a real server that takes down what reaches it.
type witness struct {
	addr string
	mu   sync.Mutex // guards seen
	seen []string   // "METHOD URI body"
}

func startWitness(t *testing.T) *witness {
	t.Helper()
	w := &witness{}
	w.addr = upstreamServer(t, func(rw http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			b = append(b, " and then "+err.Error()...)
		}
		w.mu.Lock()
		w.seen = append(w.seen, strings.TrimRight(fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, b), " "))
		w.mu.Unlock()
		fmt.Fprint(rw, "reply to ", r.URL.Path)
	})
	return w
}

// take returns what has been seen since the last call.
func (w *witness) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

const witnessConfig = `upstreams: { app: { endpoints: [%q], connection: { idle: 200ms } } }
routes:
  all: { match: { path: / }, backends: [{ upstream: app }] }
  small: { match: { path: /small }, plugins: [{ body_limit: { max: 1KiB } }], backends: [{ upstream: app }] }
`

// hostile are requests that nobody honest sends. What comes behind them on the
// connection must not be taken for a request either.
var hostile = []struct{ name, request, status, reason string }{
	{"length and chunks", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", "400", "two_framings"},
	{"two lengths", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", "400", "bad_content_length"},
	{"list of lengths", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nabcd", "400", "bad_content_length"},
	{"signed length", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd", "400", "bad_content_length"},
	{"chunked twice", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "501", "bad_transfer_encoding"},
	{"hidden chunked", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", "400", "bad_header_value"},
	{"space before the colon", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400", "bad_header_name"},
	{"folded header", "GET /x HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "400", ""},
	{"bare LF", "GET /x HTTP/1.1\nHost: a\n\n", "400", "bad_line_end"},
	{"bare CR", "GET /x HTTP/1.1\r\nHost: a\r\nX: a\rb: c\r\n\r\n", "400", ""},
	{"zero byte", "GET /x HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", "400", "bad_header_value"},
	{"no host", "GET /x HTTP/1.1\r\n\r\n", "400", "bad_host"},
	{"two hosts", "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400", "bad_host"},
	{"another authority", "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", "400", "authority_differs"},
	{"space in the target", "GET /x y HTTP/1.1\r\nHost: a\r\n\r\n", "400", ""},
	{"tunnel", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "501", "method_refused"},
	{"trace", "TRACE /x HTTP/1.1\r\nHost: a\r\n\r\n", "501", "method_refused"},
	{"next version", "GET /x HTTP/2.0\r\nHost: a\r\n\r\n", "505", "bad_version"},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400", ""},
	{"encoded slash", "GET /a%2fb HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "400", "ambiguous_path"},
	{"encoded zero", "GET /a%00b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "400", "ambiguous_path"},
	{"unknown expectation", "POST /x HTTP/1.1\r\nHost: a\r\nExpect: miracle\r\nContent-Length: 1\r\n\r\nx", "417", "bad_expect"},
	{"long target", "GET /" + strings.Repeat("x", 9000) + " HTTP/1.1\r\nHost: a\r\n\r\n", "414", "uri_too_long"},
	{"long header", "GET /x HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 70_000) + "\r\n\r\n", "431", "head_too_large"},
	{"endless head", "GET /x HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: "+strings.Repeat("x", 8000)+"\r\n", 90), "431", "head_too_large"},
	{"many headers", "GET /x HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: x\r\n", 101) + "\r\n", "431", "too_many_headers"},
}

// Behind the preface of HTTP/2 there are frames, and a request of HTTP/1 is none.
func TestARequestBehindAPrefaceIsNotServed(t *testing.T) {
	w := startWitness(t)
	g := start(t, fmt.Sprintf(witnessConfig, w.addr))
	said := g.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")
	if strings.Contains(said, "HTTP/1.1") || strings.Contains(said, "reply to") {
		t.Errorf("said %q", said)
	}
	if seen := w.take(); len(seen) != 0 {
		t.Errorf("the upstream saw %q", seen)
	}
}

func TestHostileRequestsAreRefused(t *testing.T) {
	w := startWitness(t)
	g := start(t, fmt.Sprintf(witnessConfig, w.addr))
	g.get("/warm")
	w.take()
	before := g.footprint()
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			said := g.raw(h.request + "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")
			if !strings.HasPrefix(said, "HTTP/1.1 "+h.status+" ") || strings.Count(said, "HTTP/1.1 ") != 1 {
				t.Fatalf("said %q", said)
			}
			if !strings.Contains(said, "\r\nConnection: close\r\n") || !strings.Contains(said, `"reason":"`+h.reason) {
				t.Errorf("said %q", said)
			}
			if seen := w.take(); len(seen) != 0 {
				t.Errorf("the upstream saw %q", seen)
			}
		})
	}
	for _, h := range hostile {
		if h.reason == "" {
			continue
		}
		line := g.accessLine(h.name, func(m map[string]any) bool { return m["reason"] == h.reason })
		if fmt.Sprint(line["status"]) != h.status || line["flags"] != "DPE" || line["listener"] != "web" || line["client"] != "127.0.0.1" {
			t.Errorf("%s: access log line %v", h.name, line)
		}
		g.eventually(h.name+" is counted", func() error {
			if g.metric(fmt.Sprintf("gatehouse_route_refusals_total{reason=%q}", h.reason)) == 0 {
				return fmt.Errorf("%s is not", h.reason)
			}
			return nil
		})
	}
	g.leavesNothing(before)
}

// Every request that reaches the upstream is one that the client sent as such.
func TestNothingIsSmuggled(t *testing.T) {
	w := startWitness(t)
	g := start(t, fmt.Sprintf(witnessConfig, w.addr))
	const hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, c := range []struct {
		name, sent string
		seen       []string // nil: nothing, or what stands before the smuggled
	}{
		{"in a body of known length", fmt.Sprintf("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(hidden), hidden), []string{"POST /a " + strings.TrimRight(hidden, " ")}},
		{"in a chunk", fmt.Sprintf("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden), []string{"POST /a " + hidden}},
		{"behind a GET with a length", fmt.Sprintf("GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(hidden), hidden), []string{"GET /a " + hidden}},
		{"behind the last request", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + hidden, []string{"GET /a"}},
		{"in trailers", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\nX: a\r\n\r\n" + hidden, []string{"POST /a"}},
		{"framing in trailers", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 100\r\n\r\n" + hidden, nil},
		{"chunk size with a space", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n" + hidden, nil},
		{"chunk size in hex style", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n" + hidden, nil},
		{"chunk size overflow", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\nx\r\n0\r\n\r\n" + hidden, nil},
		{"LF in a chunk extension", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;\nxx\r\n4d\r\n0\r\n\r\n" + hidden + "\r\n0\r\n\r\n", nil},
		{"chunk without its end", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxxx\r\n0\r\n\r\n" + hidden, nil},
		{"length in an option", fmt.Sprintf("POST /a HTTP/1.1\r\nHost: a\r\nConnection: close, Content-Length\r\nContent-Length: %d\r\n\r\n%s", len(hidden), hidden), nil},
		{"upgrade to HTTP/2", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + hidden, []string{"GET /a"}},
		{"underscore for a dash", "POST /a HTTP/1.1\r\nHost: a\r\nContent_Length: 35\r\nConnection: close\r\n\r\n" + hidden, []string{"POST /a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			said := g.raw(c.sent)
			if n := strings.Count(said, "HTTP/1.1 "); n != 1 {
				t.Errorf("%d replies: %q", n, said)
			}
			if c.seen == nil {
				if !strings.HasPrefix(said, "HTTP/1.1 4") {
					t.Errorf("said %q", said)
				}
				return
			}
			// What was refused half-way may still be on its way to be noted.
			seen := slices.DeleteFunc(w.take(), broken)
			if !slices.Equal(seen, c.seen) {
				t.Errorf("the upstream saw %q, want %q; said %q", seen, c.seen, said)
			}
		})
	}
	// Honest pipelining is served, in order.
	said := g.raw("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if seen := slices.DeleteFunc(w.take(), broken); !slices.Equal(seen, []string{"GET /1", "POST /2 abc", "GET /3"}) {
		t.Errorf("pipelining: the upstream saw %q", seen)
	}
	at := 0
	for _, path := range []string{"/1", "/2", "/3"} {
		i := strings.Index(said[at:], "reply to "+path)
		if i < 0 {
			t.Fatalf("pipelining: said %q", said)
		}
		at += i
	}
}

// broken says that the upstream noticed that a request was cut off: it may see
// the beginning of a body that turns out to be bad.
func broken(seen string) bool {
	return strings.HasPrefix(seen, "POST /a") && strings.Contains(seen, " and then ")
}

func TestTooLongBodies(t *testing.T) {
	w := startWitness(t)
	g := startListener(t, "limits: { body: 1MiB }", fmt.Sprintf(witnessConfig, w.addr))
	for _, c := range []struct {
		name, path string
		size       int64
		chunked    bool
		status     int
	}{
		{"within the plugin's limit", "/small", 1024, false, 200},
		{"within the plugin's limit, chunked", "/small", 1024, true, 200},
		{"over the plugin's limit", "/small", 1025, false, 413},
		{"over the plugin's limit, chunked", "/small", 1025, true, 413},
		{"far over the plugin's limit", "/small", 8 << 20, false, 413},
		{"within the listener's limit", "/", 1 << 20, false, 200},
		{"over the listener's limit", "/", 1<<20 + 1, false, 413},
		{"over the listener's limit, chunked", "/", 1<<20 + 1, true, 413},
		{"far over the listener's limit", "/", 1 << 30, false, 413},
		{"far over the listener's limit, chunked", "/", 1 << 30, true, 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest("POST", "http://"+g.web+c.path, io.LimitReader(zeros{}, c.size))
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = c.size
			if c.chunked {
				req.ContentLength = -1
			}
			// A client of Go's own may look at its reply only after it could not write.
			nc := g.dial(t)
			_ = nc.SetDeadline(time.Now().Add(time.Minute))
			sent := make(chan error, 1)
			go func() { sent <- req.Write(nc) }()
			resp, err := http.ReadResponse(bufio.NewReader(nc), req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			nc.Close()
			if err := <-sent; err != nil && c.status == 200 {
				t.Error(err)
			}
			if err != nil || resp.StatusCode != c.status || c.status == 413 && !strings.Contains(string(b), `"body_too_large"`) {
				t.Errorf("%s %q %v", resp.Status, b, err)
			}
			for _, s := range w.take() {
				if c.status == 413 && !strings.Contains(s, "and then") {
					t.Errorf("the upstream took %d bytes for the whole body", len(s))
				}
			}
		})
	}
	line := g.accessLine("the refusal", func(m map[string]any) bool { return m["reason"] == "body_too_large" })
	if line["flags"] != "BL" || line["status"] != 413.0 {
		t.Errorf("access log line %v", line)
	}
}

// wantEnd reads what the gateway says until it closes.
func wantEnd(t *testing.T, c net.Conn) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("after %q: %v", b, err)
	}
	return string(b)
}

func (g *gatehouse) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", g.web)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func TestSlowClients(t *testing.T) {
	w := startWitness(t)
	g := startListener(t, "timeouts: { head: 7s, body: 7s, idle: 7s }", fmt.Sprintf(witnessConfig, w.addr))
	g.get("/warm")
	before := g.footprint()
	const each = 50
	kinds := []struct{ name, first, want string }{
		{"silent", "", ""},
		{"slow head", "GET /x HTTP/1.1\r\nHost: a\r\nX: ", "408 head_timeout"},
		{"slow body", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab", "408 body_timeout"},
		{"slow chunk", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nab", "408 body_timeout"},
		{"slow small body", "POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab", "408 body_timeout"},
	}
	var wg sync.WaitGroup
	for _, k := range kinds {
		for range each {
			c := g.dial(t)
			wg.Go(func() {
				if _, err := io.WriteString(c, k.first); err != nil {
					t.Errorf("%s: %v", k.name, err)
				}
				said := wantEnd(t, c)
				status, reason, _ := strings.Cut(k.want, " ")
				if k.want == "" && said != "" || !strings.HasPrefix(said, "HTTP/1.1 "+status) && k.want != "" || !strings.Contains(said, reason) {
					t.Errorf("%s: said %q", k.name, said)
				}
			})
		}
		// Meanwhile others are served.
		if r, err := ask(g, "/meanwhile"); err != nil || r.StatusCode != 200 {
			t.Errorf("meanwhile: %v %v", r.Response, err)
		}
	}
	wg.Wait()
	for _, s := range w.take() {
		if strings.HasPrefix(s, "POST") && !strings.Contains(s, "and then") {
			t.Errorf("the upstream took a cut body for a whole one: %q", s)
		}
	}
	for reason, want := range map[string]float64{"head_timeout": each, "body_timeout": 3 * each} {
		g.eventually(reason+" is counted", func() error {
			return is(g.metric(fmt.Sprintf("gatehouse_route_refusals_total{reason=%q}", reason)), want)
		})
		line := g.accessLine(reason, func(m map[string]any) bool { return m["reason"] == reason })
		if line["status"] != 408.0 || line["flags"] != "DT" {
			t.Errorf("access log line %v", line)
		}
	}
	g.leavesNothing(before)
}

// Clients that close their side, at every stage of a request, under load.
func TestHalfClosedClients(t *testing.T) {
	arrived, left := make(chan struct{}, 1000), make(chan struct{}, 1000)
	app := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/wait" {
			return
		}
		arrived <- struct{}{}
		<-r.Context().Done()
		left <- struct{}{}
	})
	g := start(t, fmt.Sprintf(witnessConfig, app))
	g.get("/warm")
	before := g.footprint()
	load := busy(g, 4)
	for _, k := range []struct{ name, first string }{
		{"before a request", ""},
		{"in a head", "GET /x HTTP/1.1\r\nHos"},
		{"in a body", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab"},
		{"in a chunk", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nab"},
		{"after a served request", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n"},
	} {
		for range 20 {
			c := g.dial(t)
			if _, err := io.WriteString(c, k.first); err != nil {
				t.Fatal(err)
			}
			if k.name == "after a served request" {
				if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 200 {
					t.Fatalf("%s: %v %v", k.name, resp, err)
				}
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			if b, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("%s: %q %v", k.name, b, err)
			}
		}
	}
	// While the upstream is at work: that work is cancelled.
	const waiting = 50
	for range waiting {
		c := g.dial(t)
		if _, err := io.WriteString(c, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-arrived
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	for range waiting {
		<-left
	}
	if n, failed, first := load.stop(); failed > 0 || n == 0 {
		t.Errorf("%d of %d other requests failed, the first: %v", failed, n, first)
	}
	// So may those be that went in the middle of a body.
	g.eventually("they are counted as gone", func() error {
		if n := g.metric(`gatehouse_route_refusals_total{reason="client_gone"}`); n < waiting {
			return fmt.Errorf("%v are", n)
		}
		return nil
	})
	g.eventually("each of them is logged as gone", func() error {
		b, err := os.ReadFile(g.access)
		if err != nil {
			return err
		}
		n := 0
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, `"/wait"`) && strings.Contains(line, `"client_gone"`) {
				n++
			}
		}
		return is(n, waiting)
	})
	line := g.accessLine("gone", func(m map[string]any) bool { return m["path"] == "/wait" })
	if line["status"] != 499.0 || line["reason"] != "client_gone" || line["flags"] != "DC" {
		t.Errorf("access log line %v", line)
	}
	g.leavesNothing(before)
}
