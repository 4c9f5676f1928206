package e2e

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const streamConfig = `upstreams: { app: { endpoints: [%q], connection: { idle: 200ms } } }
consumers: { alice: { api_keys: ["sha256:%x"] } }
routes:
  plain: { match: { path: / }, backends: [{ upstream: app }] }
  guarded:
    match: { path: /guarded }
    plugins: [{ compress: { min_size: 1 } }, { api_key: {} }, { waf: {} }]
    backends: [{ upstream: app }]
`

func startStreams(t *testing.T, h http.HandlerFunc) *gatehouse {
	t.Helper()
	g := start(t, fmt.Sprintf(streamConfig, upstreamServer(t, h), sha256.Sum256([]byte("alice-key"))))
	if r := g.get("/warm"); r.StatusCode != 200 {
		t.Fatalf("%s %s", r.Status, r.body)
	}
	return g
}

// An event arrives when it is sent, whatever stands between: the upstream
// sends the next only when the client has confirmed the one before.
func TestServerSentEvents(t *testing.T) {
	got := make(chan struct{})
	g := startStreams(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/warm" {
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-got:
			case <-r.Context().Done():
				return
			}
		}
	})
	for _, path := range []string{"/events", "/guarded/events"} {
		req, err := http.NewRequest("GET", "http://"+g.web+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", "alice-key")
		req.Header.Set("Accept", "text/event-stream")
		req.Header.Set("Accept-Encoding", "gzip, br, zstd")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 || resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %s %v", path, resp.Status, resp.Header)
		}
		events := bufio.NewScanner(resp.Body)
		for i := range 5 {
			if !events.Scan() || events.Text() != fmt.Sprintf("data: %d", i) || !events.Scan() {
				t.Fatalf("%s: event %d: %q %v", path, i, events.Text(), events.Err())
			}
			got <- struct{}{}
		}
		if events.Scan() || events.Err() != nil {
			t.Errorf("%s: after the last event: %q %v", path, events.Text(), events.Err())
		}
		resp.Body.Close()
	}
}

func TestWebSocketThroughGuards(t *testing.T) {
	g := startStreams(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		if r.Header.Get("X-API-Key") != "" {
			w.WriteHeader(http.StatusTeapot) // the key must not get here
			return
		}
		echo(w, r)
	})
	g.get("/warm")
	before := g.footprint()
	dial := func(path, key string) (*websocket.Conn, int, error) {
		c, resp, err := websocket.Dial(t.Context(), "ws://"+g.web+path, &websocket.DialOptions{HTTPHeader: http.Header{"X-Api-Key": {key}}})
		status := 0
		if resp != nil {
			status = resp.StatusCode
		}
		return c, status, err
	}
	for _, c := range []struct {
		path, key string
		status    int
	}{
		{"/guarded/ws", "wrong", 401},
		{"/guarded/ws?" + sqli, "alice-key", 403},
	} {
		if _, status, err := dial(c.path, c.key); err == nil || status != c.status {
			t.Errorf("%s: %d %v", c.path, status, err)
		}
	}
	ws, _, err := dial("/guarded/ws", "alice-key")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 125, 126, 4096, 32768} {
		sent := strings.Repeat("x", n)
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(sent)); err != nil {
			t.Fatal(err)
		}
		if _, b, err := ws.Read(t.Context()); err != nil || string(b) != sent {
			t.Fatalf("%d bytes: got %d, %v", n, len(b), err)
		}
	}
	g.eventually("one request in flight", func() error { return is(g.metric("gatehouse_route_requests_in_flight"), 1) })
	if err := ws.Close(websocket.StatusNormalClosure, "done"); err != nil {
		t.Errorf("close handshake: %v", err)
	}
	line := g.accessLine("the tunnel", func(m map[string]any) bool { return m["status"] == 101.0 })
	if line["consumer"] != "alice" || line["route"] != "guarded" || line["reason"] != nil || line["upstream_protocol"] != "http/1.1" {
		t.Errorf("access log line %v", line)
	}
	const sent = 0 + 1 + 125 + 126 + 4096 + 32768 // and what frames cost
	for _, key := range []string{"bytes_in", "bytes_out"} {
		if n, _ := line[key].(float64); n <= sent || n > sent+200 {
			t.Errorf("%s: %v", key, line[key])
		}
	}
	// One that is dropped without a word takes its other half with it.
	ws, _, err = dial("/guarded/ws", "alice-key")
	if err != nil {
		t.Fatal(err)
	}
	_ = ws.CloseNow()
	g.leavesNothing(before)
}

func TestChunkedBodiesAndTrailersBothWays(t *testing.T) {
	g := startStreams(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path == "/warm" {
			return
		}
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%d chunked %v sum %s", len(b), r.ContentLength < 0, r.Trailer.Get("X-Sum"))
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "of the reply")
	})
	for _, path := range []string{"/t", "/guarded/t"} {
		req, err := http.NewRequest("POST", "http://"+g.web+path, io.MultiReader(strings.NewReader(`"`), io.LimitReader(letters{}, 99_998), strings.NewReader(`"`)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", "alice-key")
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Te", "trailers")
		req.Trailer = http.Header{"X-Sum": {"of the request"}}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != "100000 chunked true sum of the request" {
			t.Errorf("%s: %s %q %v", path, resp.Status, b, err)
		}
		if got := resp.Trailer.Get("X-Sum"); got != "of the reply" {
			t.Errorf("%s: trailer %q of %v", path, got, resp.Trailer)
		}
	}
}

// letters is an endless body of text.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a' + byte(i%26)
	}
	return len(p), nil
}

func TestExpectContinue(t *testing.T) {
	var bodies atomic.Int64
	g := startStreams(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" {
			w.WriteHeader(http.StatusConflict) // without asking for the body
			return
		}
		b, err := io.ReadAll(r.Body)
		if err == nil && len(b) > 0 {
			bodies.Add(1)
		}
		fmt.Fprintf(w, "got %s", b)
	})
	for _, c := range []struct {
		path, key string
		status    int
		asked     bool // for the body
	}{
		{"/x", "", 200, true},
		{"/guarded/x", "alice-key", 200, true},
		{"/guarded/x", "wrong", 401, false}, // the body need not be sent
	} {
		conn := g.dial(t)
		r := bufio.NewReader(conn)
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nX-API-Key: %s\r\nContent-Type: application/json\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n", c.path, c.key)
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		line, err := r.ReadString('\n')
		if asked := line == "HTTP/1.1 100 Continue\r\n"; err != nil || asked != c.asked {
			t.Errorf("%s: %q %v", c.path, line, err)
		}
		if !c.asked {
			if !strings.HasPrefix(line, fmt.Sprintf("HTTP/1.1 %d ", c.status)) {
				t.Errorf("%s: %q", c.path, line)
			}
			continue
		}
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "1234")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != c.status || string(b) != "got 1234" {
			t.Errorf("%s: %s %q %v", c.path, resp.Status, b, err)
		}
	}
	if n := bodies.Load(); n != 2 {
		t.Errorf("the upstream got %d bodies", n)
	}
}

func TestInterimReplies(t *testing.T) {
	g := startStreams(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hints" && r.URL.Path != "/guarded/hints" {
			return
		}
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Link", "</b.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "page")
	})
	for _, path := range []string{"/hints", "/guarded/hints"} {
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, " ", h.Get("Link")))
			return nil
		}})
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+g.web+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", "alice-key")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != "page" || resp.StatusCode != 200 {
			t.Errorf("%s: %s %q %v", path, resp.Status, b, err)
		}
		if got, want := strings.Join(hints, ", "), "103 </a.css>; rel=preload, 103 </b.css>; rel=preload"; got != want {
			t.Errorf("%s: hints %q, want %q", path, got, want)
		}
	}
	// A client of HTTP/1.0 knows no interim replies.
	said, err := g.raw10("/hints")
	if err != nil || !strings.HasPrefix(said, "HTTP/1.1 200 ") && !strings.HasPrefix(said, "HTTP/1.0 200 ") || strings.Contains(said, " 103 ") {
		t.Errorf("said %q, %v", said, err)
	}
}

func TestRepliesWithoutBody(t *testing.T) {
	g := startStreams(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/length":
			w.Header().Set("Content-Length", "12345")
			if r.Method != "HEAD" {
				_, _ = io.CopyN(w, letters{}, 12345)
			}
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.Header().Set("ETag", `"v1"`)
			w.WriteHeader(http.StatusNotModified)
		}
	})
	// All on one connection: a byte too many would spoil what follows.
	conn := g.dial(t)
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(conn)
	for range 3 {
		for _, c := range []struct {
			method, path string
			status       int
			length       int64
			header       string
			body         int
		}{
			{"HEAD", "/length", 200, 12345, "", 0},
			{"GET", "/length", 200, 12345, "", 12345},
			{"GET", "/204", 204, 0, "", 0},
			{"HEAD", "/204", 204, -1, "", 0},
			{"GET", "/304", 304, 0, `"v1"`, 0},
			{"HEAD", "/nothing", 200, -1, "", 0},
			{"HEAD", "/guarded/x", 401, -1, "", 0},
		} {
			fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: a\r\n\r\n", c.method, c.path)
			resp, err := http.ReadResponse(r, &http.Request{Method: c.method})
			if err != nil {
				t.Fatalf("%s %s: %v", c.method, c.path, err)
			}
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != c.status || len(b) != c.body || resp.Header.Get("ETag") != c.header {
				t.Errorf("%s %s: %s %v, %d bytes, %v", c.method, c.path, resp.Status, resp.Header, len(b), err)
			}
			if c.length >= 0 && resp.ContentLength != c.length {
				t.Errorf("%s %s: length %d, want %d", c.method, c.path, resp.ContentLength, c.length)
			}
		}
	}
}
