//go:build long

package registries

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/socket/sockettest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) {
	leak.VerifyTestMain(m)
}

// build makes programs of a module below this folder and tells where they are.
func build(t *testing.T, module string, packages ...string) string {
	t.Helper()
	dir := t.TempDir() + "/"
	began := time.Now()
	run := func(args ...string) error {
		cmd := exec.Command("go", append(args, packages...)...)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, errs.Bytes())
		}
		return nil
	}
	// This gets their modules, from a network that may fail for a moment.
	for tries := 1; ; tries++ {
		err := run("list", "-deps")
		if err == nil {
			break
		}
		if tries == 5 {
			t.Fatal(err)
		}
		t.Log(err)
		time.Sleep(time.Duration(tries) * 5 * time.Second)
	}
	if err := run("build", "-ldflags=-s -w", "-o", dir); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s built in %v", path.Base(module), time.Since(began).Round(time.Second))
	return dir
}

// freePort is one on loopback that is the test's, also while a server is restarted.
func freePort(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(sockettest.Reserve(t))
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// process is a server that runs.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

func start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(program, args...), log: filepath.Join(t.TempDir(), "log"), done: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // it is killed in the end
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			text, _ := os.ReadFile(p.log)
			t.Logf("%s said at last:\n%s", path.Base(program), text[max(0, len(text)-4000):])
		}
	})
	return p
}

// kill ends it without a warning.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// until waits for what a server that runs does in the end.
func (p *process) until(what string, ok func() error) {
	p.t.Helper()
	var err error
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
		select {
		case <-p.done:
			text, _ := os.ReadFile(p.log)
			p.t.Fatalf("%s has ended:\n%s", p.cmd.Path, text[max(0, len(text)-4000):])
		default:
		}
	}
	p.t.Fatalf("waited in vain for %s: %v", what, err)
}

// caller sends requests to a server's API.
type caller struct {
	base   string
	header http.Header
	client *http.Client
}

func newCaller(t *testing.T, base string, header http.Header, trust *tls.Config) *caller {
	return &caller{base: base, header: header, client: &http.Client{Timeout: time.Minute, Transport: newTransport(t, trust)}}
}

// newTransport makes one whose connections end with the test.
func newTransport(t *testing.T, trust *tls.Config) *http.Transport {
	transport := &http.Transport{TLSClientConfig: trust, MaxIdleConnsPerHost: 8}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// do returns the answer's body; an error where its status is 300 or more.
func (c *caller) do(method, path, body string) (string, error) {
	req, err := http.NewRequest(method, c.base+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header = c.header.Clone()
	resp, err := c.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(text))
	}
	return string(text), err
}

// must is do where nothing may fail.
func (c *caller) must(t *testing.T, method, path, body string) string {
	t.Helper()
	text, err := c.do(method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// middle is between a source and a server: it knows what was asked and can stop
// requests on their way.
type middle struct {
	url    string
	server *httptest.Server

	mu     sync.Mutex          // guards what follows
	asked  []string            // queries
	before func(*http.Request) // may be nil
}

func newMiddle(t *testing.T, target string, trust *tls.Config) *middle {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	m := &middle{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, FlushInterval: -1, Transport: newTransport(t, trust),
		ErrorLog: log.New(io.Discard, "", 0),
	}
	m.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.asked = append(m.asked, r.URL.RawQuery)
		before := m.before
		m.mu.Unlock()
		if before != nil {
			before(r)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { m.cut(); m.server.Close() })
	m.url = m.server.URL
	return m
}

// cut breaks all connections; new ones are welcome.
func (m *middle) cut() { m.server.CloseClientConnections() }

// first sets what is done before a request is handed on; nil: nothing.
func (m *middle) first(f func(*http.Request)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = f
}

// hold keeps requests with this in their query back until let is called.
func (m *middle) hold(part string) (let func()) {
	free := make(chan struct{})
	m.first(func(r *http.Request) {
		if !strings.Contains(r.URL.RawQuery, part) {
			return
		}
		select {
		case <-free:
		case <-r.Context().Done():
		}
	})
	return sync.OnceFunc(func() { m.first(nil); close(free) })
}

// query is the last one that had this in it.
func (m *middle) query(part string) url.Values {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, text := range slices.Backward(m.asked) {
		if q, err := url.ParseQuery(text); err == nil && strings.Contains(text, part) {
			return q
		}
	}
	return nil
}

// count is how many queries had this in them.
func (m *middle) count(part string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, q := range m.asked {
		if strings.Contains(q, part) {
			n++
		}
	}
	return n
}
