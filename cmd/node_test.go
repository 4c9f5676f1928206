package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket/sockettest"
)

// logbook is a log that can be read while it is written.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// settings are those of a node whose config is text; DIR stands for a folder
// of its own.
func settings(t *testing.T, text string) (s nodeSettings, path string, log *logbook) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, "gatehouse.yaml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func() (*config.Config, *config.Source, error) { return loadConfig([]string{path}, nil) }
	c, src, err := load()
	if err != nil {
		t.Fatal(err)
	}
	log = &logbook{}
	return nodeSettings{version: "v0", config: c, source: src, load: load, log: log}, path, log
}

const whole = `
node:
  name: n1
  zone: z1
  data_dir: DIR/data
  admin: { address: "127.0.0.1:0" }
  access_log: { path: DIR/access.log }
  tracing: { otlp: "http://127.0.0.1:1" }
  drain: { timeout: 1m }
waf: { event_log: { path: DIR/waf.log } }
listeners: { web: { address: "127.0.0.1:0" } }
upstreams: { app: { endpoints: ["127.0.0.1:1"] } }
routes:
  hello: { match: { path: /hello }, respond: { body: "one" } }
  app: { match: { path: /app }, backends: [{ upstream: app }] }
`

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

func get(t *testing.T, a net.Addr, path string) (int, string) {
	t.Helper()
	r, err := client.Get("http://" + a.String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestANodeFromStartToEnd(t *testing.T) {
	address := sockettest.Reserve(t) // which nobody else gets when it is closed
	s, path, log := settings(t, strings.Replace(whole, `web: { address: "127.0.0.1:0" }`, fmt.Sprintf("web: { address: %q }", address), 1))
	n, err := newNode(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	signals := make(chan os.Signal)
	ended := make(chan error, 1)
	go func() { ended <- n.follow(signals) }()
	web := n.gateway.Addresses()["web"]
	if code, body := get(t, web, "/hello"); code != 200 || body != "one" {
		t.Errorf("got %d %q", code, body)
	}
	if code, _ := get(t, web, "/app"); code != 502 && code != 503 {
		t.Errorf("a dead upstream: got %d", code)
	}
	code, body := get(t, n.admin.Addr(), "/readyz")
	var ready struct {
		Ready  bool
		Detail struct {
			Node, Zone string
			Config     struct{ Digest string }
			Upstreams  map[string]struct{ Endpoints []any }
		}
	}
	if err := json.Unmarshal([]byte(body), &ready); err != nil {
		t.Fatal(err)
	}
	d := ready.Detail
	if code != 200 || !ready.Ready || d.Node != "n1" || d.Zone != "z1" || len(d.Config.Digest) != 64 || len(d.Upstreams["app"].Endpoints) != 1 {
		t.Errorf("got %d %s", code, body)
	}
	if code, body := get(t, n.admin.Addr(), "/metrics"); code != 200 || !strings.Contains(body, `gatehouse_route_requests_total`) {
		t.Errorf("got %d %s", code, body)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(text, []byte(`"one"`), []byte(`"two"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	signals <- syscall.SIGHUP
	signals <- syscall.SIGUSR1 // taken only when SIGHUP has been dealt with
	if _, body := get(t, web, "/hello"); body != "two" {
		t.Errorf("after SIGHUP: %q", body)
	}
	signals <- syscall.SIGTERM
	if err := <-ended; err != nil {
		t.Errorf("the end: %v", err)
	}
	close(signals)
	if _, err := net.Dial("tcp", web.String()); err == nil {
		t.Error("it still listens")
	}
	access, err := os.ReadFile(filepath.Join(filepath.Dir(path), "access.log"))
	if err != nil || bytes.Count(access, []byte("\n")) != 3 {
		t.Errorf("access log: %v\n%s", err, access)
	}
	if err := n.close(context.Background()); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if strings.Contains(log.String(), "panic") {
		t.Errorf("log: %s", log)
	}
}

func TestASecondSignalEndsTheWaiting(t *testing.T) {
	s, _, _ := settings(t, strings.Replace(whole, "drain: { timeout: 1m }", "drain: { delay: 1h, timeout: 1h }", 1))
	n, err := newNode(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	signals := make(chan os.Signal)
	ended := make(chan error, 1)
	go func() { ended <- n.follow(signals) }()
	signals <- syscall.SIGTERM
	signals <- syscall.SIGHUP // no reason to hurry
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		code, body := get(t, n.admin.Addr(), "/readyz")
		if code == 503 && strings.Contains(body, "draining") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("while draining: %d %s", code, body)
		}
	}
	if code, _ := get(t, n.gateway.Addresses()["web"], "/hello"); code != 200 {
		t.Errorf("balancers may not have noticed yet: got %d", code)
	}
	signals <- syscall.SIGINT
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "second signal") {
		t.Errorf("got %v", err)
	}
	close(signals)
}

func TestAStartThatFailsLeavesNothingOpen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := fmt.Sprintf("%q", taken.Addr())
	for _, c := range []struct{ old, bad, want string }{
		{`web: { address: "127.0.0.1:0" }`, `web: { address: ` + busy + ` }`, ": listeners.web.address: listen tcp "},
		{`admin: { address: "127.0.0.1:0" }`, `admin: { address: ` + busy + ` }`, "node.admin.address"},
		{`path: DIR/access.log`, `path: DIR/none/access.log`, "node.access_log.path"},
		{`path: DIR/waf.log`, `path: DIR/none/waf.log`, "waf.event_log.path"},
		{`data_dir: DIR/data`, `data_dir: /dev/null/x`, "node.data_dir"},
	} {
		s, _, _ := settings(t, strings.Replace(whole, c.old, c.bad, 1))
		n, err := newNode(context.Background(), s)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", c.bad, err)
		}
		if err == nil {
			if err := n.close(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestBusyAddressesOfANode: whoever starts it is told where each stands, in the
// node's own file, and the demo, which looks for others, what is wrong with it.
func TestBusyAddressesOfANode(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := taken.Addr().String()
	dir := t.TempDir()
	start := func(text, want string) {
		t.Helper()
		s, path, _ := settings(t, strings.NewReplacer("DATA", filepath.Join(dir, "data"), "BUSY", busy).Replace(text))
		n, err := newNode(context.Background(), s)
		if err == nil {
			t.Error(errors.Join(errors.New("it has started"), n.close(context.Background())))
			return
		}
		if want = path + ":" + want + ": listen tcp " + busy + ": bind: address already in use"; err.Error() != want || !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	const quiet = ", data_dir: DATA, access_log: { path: \"off\" }"
	start("node: { admin: { address: \"BUSY\" }"+quiet+" }\nlisteners: { web: { address: \"127.0.0.1:0\" } }\n", "1:27: node.admin.address")
	start("node: { admin: { address: \"off\" }"+quiet+" }\nlisteners:\n  web: { address: \"BUSY\" }\n", "3:19: listeners.web.address")
	start("node:\n  registry: { eureka: { auth: none, address: \"BUSY\" } }\n  admin: { address: \"off\" }\n  data_dir: DATA\n  access_log: { path: \"off\" }\nlisteners: { web: { address: \"127.0.0.1:0\" } }\n", "2:46: node.registry.eureka.address")
	// A revision says nothing of it.
	n := newFleetNode(t, dir, "n1", "")
	n.apply(shared("one"))
	n.end()
	start("node:\n  config: store\n  admin: { address: \"BUSY\" }\n  data_dir: DATA\n  access_log: { path: \"off\" }\n", "3:21: node.admin.address")
}

func TestTheDemoServes(t *testing.T) {
	a, err := startSample("a")
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	b, err := startSample("b")
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	v := demoValues{Dir: t.TempDir(), A: a.addr(), B: b.addr(), Gateway: "127.0.0.1:0", Admin: "127.0.0.1:0"}
	n, err := startDemo(&environment{version: "devel", err: io.Discard}, v)
	if err != nil {
		t.Fatal(err)
	}
	defer n.close(context.Background())
	web := n.gateway.Addresses()["web"]
	seen := map[string]bool{}
	// On a machine that stalls one of them may not be healthy for a while.
	for end := time.Now().Add(time.Minute); len(seen) < 2; {
		code, body := get(t, web, "/hello")
		if code != 200 {
			t.Fatalf("got %d %s", code, body)
		}
		if seen[body] = true; time.Now().After(end) {
			t.Fatalf("answers: %v", seen)
		}
	}
	for path, want := range map[string]int{"/search?q=1%27%20OR%20%271%27=%271%20--%20": 403, "/private": 401, "/limited": 200} {
		if code, body := get(t, web, path); code != want {
			t.Errorf("%s: got %d %s", path, code, body)
		}
	}
}
