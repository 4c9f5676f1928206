// Package e2e starts the real binary and talks to it over real sockets, as
// users, their upstreams and their attackers do.
package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/socket/sockettest"
)

// binary is built once for all tests, with the tags of the Makefile.
var binary string

const buildTags = "no_fs_access,grpcnotrace,coraza.disabled_operators.validateSchema"

func TestMain(m *testing.M) {
	if what := os.Getenv(asUpstream); what != "" {
		serveUpstream(what)
		os.Exit(1)
	}
	if what := os.Getenv(interopCase); what != "" {
		if err := interopClient(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "gatehouse-e2e-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "gatehouse")
	build := exec.Command("go", "build", "-trimpath", "-tags", buildTags, "-o", binary, "github.com/gatehouse-proxy/gatehouse/cmd/gatehouse")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
	if os.Getenv("GATEHOUSE_E2E_RACE") != "" {        // by hand: skip what measures memory
		build.Args = slices.Insert(build.Args, 2, "-race")
		build.Env = os.Environ()
	}
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the binary: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// gatehouse is a running binary.
type gatehouse struct {
	t       *testing.T
	cmd     *exec.Cmd
	config  string // path of the file
	web     string // HOST:PORT of the listener "web"
	admin   string
	access  string // path of the access log
	dataDir string
	log     *lockedBuffer
	exited  chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// freeAddress is one where the test may have a server, for TCP and UDP.
func freeAddress(t testing.TB) string {
	t.Helper()
	return sockettest.Reserve(t)
}

// start runs the binary with a config that has no node and no listeners
// section: both are added, with a listener "web". It waits until it is ready.
func start(t *testing.T, config string, args ...string) *gatehouse {
	t.Helper()
	g := prepare(t, config)
	g.run(args...)
	g.waitReady()
	return g
}

func prepare(t *testing.T, config string) *gatehouse {
	t.Helper()
	dir := t.TempDir()
	g := &gatehouse{
		t: t, config: filepath.Join(dir, "gatehouse.yaml"), web: freeAddress(t), admin: freeAddress(t),
		access: filepath.Join(dir, "access.log"), dataDir: filepath.Join(dir, "data"), log: &lockedBuffer{},
	}
	g.write(config)
	return g
}

func (g *gatehouse) text(config string) string {
	return fmt.Sprintf(`node:
  name: test
  data_dir: %s
  admin: { address: %q, pprof: true }
  access_log: { path: %s }
  drain: { timeout: 30s }
listeners:
  web: { address: %q, trusted_proxies: [127.0.0.2/32] }
%s`, g.dataDir, g.admin, g.access, g.web, config)
}

// write replaces the config file in one step, as editors do.
func (g *gatehouse) write(config string) { g.writeRaw(g.text(config)) }

func (g *gatehouse) writeRaw(text string) {
	g.t.Helper()
	if err := os.WriteFile(g.config+".new", []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Rename(g.config+".new", g.config); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gatehouse) run(args ...string) {
	g.t.Helper()
	g.launch(exec.Command(binary, append([]string{"run", "-c", g.config}, args...)...))
}

// launch starts a command that becomes the node.
func (g *gatehouse) launch(cmd *exec.Cmd) {
	g.t.Helper()
	g.cmd = cmd
	g.cmd.Stderr, g.cmd.Stdout = g.log, g.log
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.exited = make(chan error, 1)
	go func() { g.exited <- g.cmd.Wait() }()
	g.t.Cleanup(func() {
		_ = g.cmd.Process.Kill() // most tests have stopped it
		if strings.Contains(g.log.String(), "DATA RACE") {
			g.t.Error("the node has a data race")
		}
		if g.t.Failed() {
			g.t.Logf("log of the node:\n%s", g.log)
		}
	})
}

func (g *gatehouse) waitReady() {
	g.t.Helper()
	g.eventually("the node is ready", func() error {
		resp, err := http.Get("http://" + g.admin + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			return fmt.Errorf("readyz says %d", resp.StatusCode)
		}
		return nil
	})
}

// eventually waits for up to a minute; it never decides by how long it took.
func (g *gatehouse) eventually(what string, ok func() error) {
	g.t.Helper()
	err := awaited(ok, g.exited)
	if errors.Is(err, errEnded) {
		g.t.Fatalf("%s: %v\n%s", what, err, g.log)
	}
	if err != nil {
		g.t.Fatalf("%s: %v", what, err)
	}
}

var errEnded = errors.New("the node ended")

// awaited asks again and again, for up to a minute, and returns the last answer
// but for nil. It gives up when a node ends.
func awaited(ok func() error, ended <-chan error) error {
	pause := 5 * time.Millisecond
	for end := time.Now().Add(time.Minute); ; pause = min(2*pause, 50*time.Millisecond) {
		err := ok()
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case err := <-ended:
			return fmt.Errorf("%w: %v", errEnded, err)
		case <-time.After(pause):
		}
	}
}

// stop sends SIGTERM and waits for a clean end.
func (g *gatehouse) stop() {
	g.t.Helper()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		g.t.Fatal(err)
	}
	select {
	case err := <-g.exited:
		if err != nil {
			g.t.Fatalf("the node ended with %v", err)
		}
	case <-time.After(time.Minute):
		g.t.Fatal("the node did not stop")
	}
}

// reload replaces the config and waits until it is live.
func (g *gatehouse) reload(config string) {
	g.t.Helper()
	before := g.status()["digest"]
	g.write(config)
	g.eventually("the new config is live", func() error {
		if s := g.status(); s["digest"] == before {
			return fmt.Errorf("still %v, error %v", before, s["error"])
		}
		return nil
	})
}

// status is the config part of /readyz.
func (g *gatehouse) status() map[string]any {
	g.t.Helper()
	resp, err := http.Get("http://" + g.admin + "/readyz")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct {
		Detail struct{ Config map[string]any }
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		g.t.Fatal(err)
	}
	return body.Detail.Config
}

// metric is the value of one series, 0 if there is none.
func (g *gatehouse) metric(series string) float64 {
	g.t.Helper()
	resp, err := http.Get("http://" + g.admin + "/metrics")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				g.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// accessLines waits until the access log has a line that matches and returns it.
func (g *gatehouse) accessLine(what string, match func(map[string]any) bool) map[string]any {
	g.t.Helper()
	var found map[string]any
	g.eventually("access log: "+what, func() error {
		b, err := os.ReadFile(g.access)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(b) {
			var m map[string]any
			if err := json.Unmarshal(line, &m); err != nil {
				return fmt.Errorf("%q: %w", line, err)
			}
			if match(m) {
				found = m
				return nil
			}
		}
		return fmt.Errorf("no such line in\n%s", b)
	})
	return found
}

// reply is an answer with its body read.
type reply struct {
	*http.Response
	body string
}

// do sends one request to the listener "web".
func (g *gatehouse) do(method, path string, body io.Reader, header ...string) reply {
	g.t.Helper()
	req, err := http.NewRequest(method, "http://"+g.web+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatalf("%s %s: body: %v", method, path, err)
	}
	return reply{resp, string(b)}
}

func (g *gatehouse) get(path string, header ...string) reply {
	g.t.Helper()
	return g.do("GET", path, nil, header...)
}

// client follows no redirect and keeps no cookies.
var client = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
	Timeout:       time.Minute,
}

// upstreamServer is a real HTTP server behind the gateway.
func upstreamServer(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// raw sends bytes on a new connection and returns all that comes back until
// the gateway closes, which it may do before it has got all of them.
func (g *gatehouse) raw(request string) string {
	g.t.Helper()
	c, err := net.Dial("tcp", g.web)
	if err != nil {
		g.t.Fatal(err)
	}
	defer c.Close()
	_, unsent := io.WriteString(c, request)
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	b, err := io.ReadAll(c)
	if unsent != nil && len(b) == 0 {
		g.t.Fatal(unsent)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		g.t.Errorf("after %.100q and its answer %q the connection is still open", request, b)
	}
	return string(b)
}
