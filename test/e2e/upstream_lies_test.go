package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const liarConfig = `upstreams:
  app:
    endpoints: [%q]
    outlier_detection: { enabled: false }
    connection: { idle: 200ms }
routes:
  all:
    match: { path: / }
    backends: [{ upstream: app }]
    timeouts: { request: 1m, idle: 1m }
    retries: { attempts: 0 }
  still:
    match: { path: /still }
    backends: [{ upstream: app }]
    timeouts: { request: 1m, idle: 3s }
    retries: { attempts: 0 }
  slow:
    match: { path: /slow }
    backends: [{ upstream: app }]
    timeouts: { request: 3s, idle: 1m }
    retries: { attempts: 0 }
`

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"

// lies are answered with a refusal: nothing of them reaches the client.
var lies = []struct {
	name   string
	script script
	status int
	reason string
	flags  string
}{
	{"closes without a word", says(""), 502, "upstream_reset", "UC"},
	{"closes in the status line", says("HTTP/1.1 20"), 502, "upstream_reset", "UC"},
	{"closes in the head", says("HTTP/1.1 200 OK\r\nContent-Le"), 502, "upstream_reset", "UC"},
	{"garbage", says("SSH-2.0-OpenSSH_9.9\r\n\r\n"), 502, "upstream_protocol_error", "UPE"},
	{"binary garbage", says("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"), 502, "upstream_protocol_error", "UPE"},
	{"unknown version", says("HTTP/9.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 502, "upstream_protocol_error", "UPE"},
	{"four digits of status", says("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"), 502, "upstream_protocol_error", "UPE"},
	{"length and chunks", says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nlies\r\n0\r\n\r\n"), 502, "upstream_protocol_error", "UPE"},
	{"two lengths", says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nlies!"), 502, "upstream_protocol_error", "UPE"},
	{"length is no number", says("HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\nlies"), 502, "upstream_protocol_error", "UPE"},
	{"negative length", says("HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nlies"), 502, "upstream_protocol_error", "UPE"},
	{"length overflows", says("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551620\r\n\r\nlies"), 502, "upstream_protocol_error", "UPE"},
	{"unknown transfer coding", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: lies\r\n\r\n4\r\nlies\r\n0\r\n\r\n"), 502, "upstream_protocol_error", "UPE"},
	{"header without colon", says("HTTP/1.1 200 OK\r\nlies\r\nContent-Length: 0\r\n\r\n"), 502, "upstream_protocol_error", "UPE"},
	{"space in a header name", says("HTTP/1.1 200 OK\r\nContent-Length : 4\r\n\r\nlies"), 502, "upstream_protocol_error", "UPE"},
	{"zero byte in a header", says("HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n"), 502, "upstream_protocol_error", "UPE"},
	{"bare CR in a header", says("HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n"), 502, "upstream_protocol_error", "UPE"},
	{"upgrade nobody asked for", says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: lies\r\n\r\nlies"), 502, "upstream_protocol_error", "UPE"},
	{"endless headers", endless("HTTP/1.1 200 OK\r\n", "X: x\r\n"), 502, "upstream_head_too_large", "UPE"},
	{"endless header", endless("HTTP/1.1 200 OK\r\nX: ", strings.Repeat("x", 4096)), 502, "upstream_head_too_large", "UPE"},
	{"endless interim replies", endless("", "HTTP/1.1 103 Early Hints\r\n\r\n"), 502, "upstream_protocol_error", "UPE"},
	{"hangs", hangs(""), 504, "upstream_timeout", "UT"},
	{"hangs in the head", hangs("HTTP/1.1 200 OK\r\n"), 504, "upstream_timeout", "UT"},
	{"drips a head", drips("HTTP/1.1 200 OK\r\n", "X: x\r\n", true), 504, "request_timeout", "UT"},
}

// endless writes the same again and again until the gateway has had enough.
func endless(first, again string) script {
	return func(c net.Conn, _ *bufio.Reader) bool {
		_, err := io.WriteString(c, first)
		for err == nil {
			_, err = io.WriteString(c, again)
		}
		return false
	}
}

// cuts are replies that begin well. The client must never take what it got for
// all of it.
var cuts = []struct {
	name   string
	script script
	reason string
	flags  string
}{
	{"closes in the body", says("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), "upstream_reset", "UC"},
	{"closes in a chunk", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf"), "upstream_reset", "UC"},
	{"closes between chunks", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"), "upstream_reset", "UC"},
	{"closes before the last line", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n"), "upstream_reset", "UC"},
	{"bad chunk size", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n-1\r\nlies\r\n0\r\n\r\n"), "upstream_protocol_error", "UPE"},
	{"chunk longer than said", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf of it\r\n0\r\n\r\n"), "upstream_protocol_error", "UPE"},
	{"endless chunk extension", endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n4;", strings.Repeat("x", 4096)), "upstream_protocol_error", "UPE"},
	{"endless trailers", endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n", "X: "+strings.Repeat("x", 4096)+"\r\n"), "upstream_protocol_error", "UPE"},
	{"hangs in the body", hangs("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), "upstream_timeout", "UT"},
	{"hangs in a chunk", hangs("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf"), "upstream_timeout", "UT"},
}

// liePath and cutPath are where lies are told: on a route with the timeout that is
// to end them, or on one that waits for as long as a busy machine needs.
func liePath(i int) string { return timed(lies[i].reason) + fmt.Sprint("/lie", i) }
func cutPath(i int) string { return timed(cuts[i].reason) + fmt.Sprint("/cut", i) }

func timed(reason string) string {
	return map[string]string{"request_timeout": "/slow", "upstream_timeout": "/still"}[reason]
}

func TestUpstreamsThatLie(t *testing.T) {
	scripts := map[string]script{"/warm": func(c net.Conn, _ *bufio.Reader) bool {
		_, err := io.WriteString(c, fine)
		return err == nil
	}}
	for i, l := range lies {
		scripts[liePath(i)] = l.script
	}
	for i, c := range cuts {
		scripts[cutPath(i)], scripts[cutPath(i)+"?old"] = c.script, c.script
	}
	g := start(t, fmt.Sprintf(liarConfig, startLiar(t, scripts).addr))
	if r := g.get("/warm"); r.body != "fine" {
		t.Fatalf("%v %q", r.Status, r.body)
	}
	var before footprint
	g.eventually("the idle connection is closed", func() error {
		before = g.footprint()
		return is(g.sum("gatehouse_upstream_connections_open")+g.sum("gatehouse_listener_connections_open"), 0)
	})
	// All at once, since some take their time.
	type answer struct {
		r     reply
		err   error  // of the body
		old   string // what an HTTP/1.0 client got
		ended error  // how its connection ended
	}
	told, cut := make([]answer, len(lies)), make([]answer, len(cuts))
	var wg sync.WaitGroup
	for i := range lies {
		wg.Go(func() { told[i].r, told[i].err = ask(g, liePath(i)) })
	}
	for i := range cuts {
		wg.Go(func() { cut[i].r, cut[i].err = ask(g, cutPath(i)) })
		wg.Go(func() { cut[i].old, cut[i].ended = g.raw10(cutPath(i) + "?old") })
	}
	wg.Wait()
	for i, l := range lies {
		t.Run(l.name, func(t *testing.T) {
			a := told[i]
			if a.err != nil {
				t.Fatal(a.err)
			}
			if a.r.StatusCode != l.status || !strings.Contains(a.r.body, `"reason":"`+l.reason+`"`) {
				t.Errorf("%s %s", a.r.Status, a.r.body)
			}
			g.logged(t, liePath(i), l.status, l.reason, l.flags)
		})
	}
	for i, c := range cuts {
		t.Run(c.name, func(t *testing.T) {
			a, status := cut[i], 200
			if a.err == nil {
				if status = a.r.StatusCode; status == 200 {
					t.Errorf("the client takes %q for complete", a.r.body)
				} // else it was noticed before anything was sent
			}
			g.logged(t, cutPath(i), status, c.reason, c.flags)
			// To a client that knows no chunks the end of the connection is the
			// end of the reply: only a reset tells that something is missing.
			if a.ended == nil && strings.Contains(a.old, " 200 ") && !short(a.old) {
				t.Errorf("the HTTP/1.0 client takes %q for complete", a.old)
			}
		})
	}
	g.leavesNothing(before)
	if n := g.metric("gatehouse_node_panics_total"); n != 0 {
		t.Errorf("%v panics", n)
	}
}

// ask is get on a connection of its own, for use in parallel tests; the error
// is that of the body.
func ask(g *gatehouse, path string) (reply, error) {
	req, err := http.NewRequest("GET", "http://"+g.web+path, nil)
	if err != nil {
		return reply{}, err
	}
	req.Close = true
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp, string(b)}, err
}

// logged wants the access log to tell of the request for path.
func (g *gatehouse) logged(t *testing.T, path string, status int, reason, flags string) {
	t.Helper()
	line := g.accessLine(path, func(m map[string]any) bool { return m["path"] == path && m["query"] == nil })
	if line["status"] != float64(status) || line["reason"] != reason || line["flags"] != flags || line["detail"] == nil {
		t.Errorf("want status %d, reason %s, flags %s and a detail; access log: %v", status, reason, flags, line)
	}
}

// raw10 asks as an HTTP/1.0 client does: the error is how the connection ended,
// nil if properly.
func (g *gatehouse) raw10(path string) (string, error) {
	c, err := net.Dial("tcp", g.web)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\nHost: a\r\n\r\n", path); err != nil {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return "", fmt.Errorf("how odd: %w", err)
	}
	return string(b), err
}

// short says that a reply has fewer bytes than its Content-Length tells.
func short(said string) bool {
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(said)), nil)
	if err != nil {
		return false
	}
	_, err = io.ReadAll(resp.Body)
	return err != nil
}

// What an upstream sends beyond its reply never becomes the reply to somebody
// else's request.
func TestSurplusIsNobodysReply(t *testing.T) {
	const stolen = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
	keeps := func(text string) script {
		return func(c net.Conn, _ *bufio.Reader) bool {
			_, err := io.WriteString(c, text)
			return err == nil
		}
	}
	var mu sync.Mutex // guards late
	var late []net.Conn
	l := startLiar(t, map[string]script{
		"/fine":   keeps(fine),
		"/double": keeps(fine + stolen),
		"/longer": keeps("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine" + stolen),
		"/204":    keeps("HTTP/1.1 204 No Content\r\n\r\n" + stolen),
		"/304":    keeps("HTTP/1.1 304 Not Modified\r\nContent-Length: 40\r\n\r\n" + stolen),
		"/1.0":    keeps("HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine" + stolen),
		"/later": func(c net.Conn, _ *bufio.Reader) bool {
			mu.Lock()
			late = append(late, c)
			mu.Unlock()
			_, err := io.WriteString(c, fine)
			return err == nil
		},
	})
	g := start(t, fmt.Sprintf(liarConfig, l.addr))
	want := map[string]string{"/204": "", "/304": ""}
	for range 20 {
		for _, path := range []string{"/double", "/longer", "/204", "/304", "/1.0", "/later"} {
			body, ok := want[path]
			if !ok {
				body = "fine"
			}
			if r := g.get(path); r.body != body {
				t.Fatalf("%s: %s %q", path, r.Status, r.body)
			}
			if path == "/later" { // a reply on an idle connection
				mu.Lock()
				for _, c := range late {
					_, _ = io.WriteString(c, stolen) // may be closed
				}
				late = nil
				mu.Unlock()
			}
			if r := g.get("/fine"); r.StatusCode != 200 || r.body != "fine" {
				t.Fatalf("after %s: %s %q", path, r.Status, r.body)
			}
		}
	}
}

func TestEarlyReplies(t *testing.T) {
	refuses := func(rest string) script {
		return func(c net.Conn, r *bufio.Reader) bool {
			_, _ = io.CopyN(io.Discard, r, 1000)
			_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n"+rest+"\r\ntoo much")
			return false
		}
	}
	l := startLiar(t, map[string]script{
		"/closes":  refuses("Connection: close\r\n"),
		"/resets":  refuses(""), // it closes with unread data, which resets
		"/replies": func(c net.Conn, r *bufio.Reader) bool { return refuses("")(c, r) || drain(r) },
	})
	g := start(t, strings.Replace(fmt.Sprintf(liarConfig, l.addr), "idle: 200ms", "max_idle: 0", 1))
	for _, path := range []string{"/closes", "/resets", "/replies"} {
		for _, size := range []int64{2000, 1 << 20, 64 << 20} {
			var resp *http.Response
			var err error
			for began := time.Now(); ; began = time.Now() {
				resp, err = client.Post("http://"+g.web+path, "text/plain", io.LimitReader(zeros{}, size))
				// Who still sends gets two seconds to read the reply before the connection
				// is closed; on a busy machine they may pass without a chance to do so.
				if err == nil || time.Since(began) < 2*time.Second {
					break
				}
			}
			if err != nil {
				t.Errorf("%s, %d bytes: %v", path, size, err)
				continue
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != 413 || string(b) != "too much" {
				t.Errorf("%s, %d bytes: %s %q %v", path, size, resp.Status, b, err)
			}
		}
	}
}

func drain(r io.Reader) bool {
	_, err := io.Copy(io.Discard, r)
	return err == nil
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
