package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// instanceOf is an upstream that says its name.
func instanceOf(t *testing.T, name string) string {
	return upstreamServer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })
}

// tally counts what n requests for path are answered with.
func (g *gatehouse) tally(path string, n int) map[string]int {
	g.t.Helper()
	got := map[string]int{}
	for range n {
		r := g.get(path)
		got[fmt.Sprint(r.StatusCode, " ", r.body)]++
	}
	return got
}

// consulFake answers one blocking query after the other.
type consulFake struct {
	mu      sync.Mutex // guards what follows
	index   int
	address string
	gone    bool
	changed chan struct{}
}

// end leaves everybody without an answer from now on.
func (c *consulFake) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	close(c.changed)
}

func (c *consulFake) set(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index++
	c.address = address
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *consulFake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.gone && r.FormValue("index") == fmt.Sprint(c.index) {
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		c.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
	if c.gone {
		panic(http.ErrAbortHandler)
	}
	host, port, _ := net.SplitHostPort(c.address)
	w.Header().Set("X-Consul-Index", fmt.Sprint(c.index))
	fmt.Fprintf(w, `[{"Node":{"Meta":{"zone":"z1"}},"Service":{"Address":%q,"Port":%s},"Checks":[{"Status":"passing"}]}]`, host, port)
}

// TestDiscovery: a file that is replaced under load, SRV records of a real DNS
// server, and a Consul that goes away, also over a restart.
func TestDiscovery(t *testing.T) {
	one, two, three := instanceOf(t, "one"), instanceOf(t, "two"), instanceOf(t, "three")
	port := func(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
	names, _ := dnsServer(t, "127.0.0.1",
		"--srv-host=_http._tcp.users.example,a.test,"+port(one)+",10,1",
		"--srv-host=_http._tcp.users.example,b.test,"+port(two)+",10,3",
		"--srv-host=_http._tcp.users.example,c.test,"+port(three)+",20,1")
	fake := &consulFake{changed: make(chan struct{})}
	fake.set(one)
	consul := httptest.NewUnstartedServer(fake)
	consul.Listener.Close()
	var err error
	if consul.Listener, err = net.Listen("tcp", freeAddress(t)); err != nil { // nobody else's, when it is down
		t.Fatal(err)
	}
	consul.Start()
	down := sync.OnceFunc(func() { fake.end(); consul.Close() })
	t.Cleanup(down)

	g := prepare(t, fmt.Sprintf(`
upstreams:
  file: { file: batch.yaml }
  srv: { dns: { name: _http._tcp.users.example, type: srv, server: %q }, load_balancer: { algorithm: round_robin } }
  consul: { consul: { service: users, address: %q } }
routes:
  file: { match: { path: /file }, backends: [{ upstream: file }] }
  srv: { match: { path: /srv }, backends: [{ upstream: srv }] }
  consul: { match: { path: /consul }, backends: [{ upstream: consul }] }
`, names, consul.URL))
	file := filepath.Join(filepath.Dir(g.config), "batch.yaml")
	replace := func(content string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	replace(fmt.Sprintf("- %s\n- %s\n", one, two))
	g.run()
	g.waitReady()

	g.eventually("the answer of the DNS server", func() error { return is(g.get("/srv").StatusCode, 200) })
	if got := g.tally("/srv", 40); got["200 one"] != 10 || got["200 two"] != 30 {
		t.Errorf("by SRV: %v", got)
	}
	fake.set(two)
	g.eventually("Consul's change", func() error { return is(g.tally("/consul", 1)["200 two"], 1) })
	down()
	g.eventually("Consul's absence is told", func() error {
		if g.metric(`gatehouse_upstream_discovery_failures_total{source="consul",upstream="consul"}`) == 0 {
			return fmt.Errorf("no failure counted")
		}
		return nil
	})

	// Requests go on while the file is replaced, with something wrong in between.
	stop, done, seen := make(chan struct{}), make(chan struct{}), map[string]int{}
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			resp, err := http.Get("http://" + g.web + "/file")
			if err != nil {
				seen[err.Error()]++
				continue
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			seen[fmt.Sprint(resp.StatusCode, " ", string(b))]++
		}
	}()
	replace("- nonsense\n")
	g.eventually("the mistake is told", func() error { return g.statusSays("batch.yaml:1:3: [0].address: must be HOST:PORT") })
	replace(fmt.Sprintf(`[{"address": %q, "weight": 2}]`, three))
	g.eventually("the new list", func() error { return is(g.tally("/file", 20)["200 three"], 20) })
	close(stop)
	<-done
	for what := range seen {
		if !slices.Contains([]string{"200 one", "200 two", "200 three"}, what) {
			t.Errorf("while the file was replaced: %v", seen)
		}
	}
	if got := g.tally("/consul", 5); got["200 two"] != 5 {
		t.Errorf("without Consul: %v", got)
	}

	// All sources gone: what was known is on disk.
	g.stop()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	g.run()
	g.waitReady()
	for path, want := range map[string]string{"/consul": "200 two", "/file": "200 three"} {
		if got := g.tally(path, 5); got[want] != 5 {
			t.Errorf("%s after a restart: %v", path, got)
		}
	}
	if err := g.statusSays("from disk, "); err != nil {
		t.Error(err)
	}
	g.stop()
}

// statusSays looks for a text in what `gatehouse status` prints.
func (g *gatehouse) statusSays(want string) error {
	out, _ := exec.Command(binary, "status", "-c", g.config).CombinedOutput() // it fails while something is wrong
	if !strings.Contains(string(out), want) {
		return fmt.Errorf("status does not say %q:\n%s", want, out)
	}
	return nil
}
