package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// peer is a client's keep-alive connection.
type peer struct {
	net.Conn
	r *bufio.Reader
}

// dialPeer connects without waiting for ever: a gateway that cannot accept
// leaves connections in the kernel's queue.
func (g *gatehouse) dialPeer() (*peer, error) {
	c, err := net.DialTimeout("tcp", g.web, time.Minute)
	if err != nil {
		return nil, err
	}
	return &peer{c, bufio.NewReaderSize(c, 512)}, nil
}

// ask sends a request and wants a 200 for it within the time given.
func (p *peer) ask(within time.Duration) error { return p.askFor("/fixed", within) }

func (p *peer) askFor(path string, within time.Duration) error {
	if err := p.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := io.WriteString(p, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	return is(resp.StatusCode, 200)
}

const fixedConfig = `routes: { fixed: { match: { path: /fixed }, respond: { body: fixed } } }
`

func TestDescriptorsExhausted(t *testing.T) {
	app := startSwitched(t, "app")
	g := prepare(t, fmt.Sprintf(`upstreams:
  app:
    endpoints: [%q]
    connection: { max_idle: 0 }
    health_check: { path: /healthz, interval: 200ms, timeout: 200ms, unhealthy: 15 }
    load_balancer: { panic_threshold: 0 }
routes:
  fixed: { match: { path: /fixed }, respond: { body: fixed } }
  app: { match: { path: /app }, backends: [{ upstream: app }] }
`, app.addr))
	g.launch(exec.Command("bash", "-c", `ulimit -n 48; exec "$0" "$@"`, binary, "run", "-c", g.config))
	g.waitReady()
	errors := func() float64 { return g.metric(`gatehouse_listener_accept_errors_total{listener="web"}`) }
	if n := errors(); n != 0 { // keeps a connection to the admin address for when no new one can be made
		t.Fatalf("%v failed accepts before there was reason", n)
	}
	g.eventually("the endpoint is healthy", func() error {
		return is(g.metric(series("gatehouse_upstream_endpoint_healthy", "app", app.addr)), 1)
	})
	var open []*peer
	defer func() {
		for _, p := range open {
			p.Close()
		}
	}()
	// Far more connections than the node has descriptors. The first ones are
	// served, the others wait in the kernel's queue.
	for range 100 {
		p, err := g.dialPeer()
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, p)
	}
	const first = 10
	began := time.Now()
	for range 3 {
		for i, p := range open[:first] {
			if err := p.ask(time.Minute); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
		time.Sleep(50 * time.Millisecond) // lets the accept loop try again; nothing is decided by it
	}
	g.eventually("failed accepts are counted", func() error {
		if n := errors(); n < 2 {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	const told = `msg="connections cannot be accepted; they wait" listener=web`
	g.logHas(told + ` error="accept tcp ` + g.web + `: accept4: too many open files"`)
	if n, most := strings.Count(g.log.String(), told), 40+int(time.Since(began).Seconds()); n > most { // once a second at last
		t.Errorf("the log tells %d times, more than %d", n, most)
	}
	// Upstreams are not blamed for what the node lacks, by no probe either.
	g.eventually("there were as many probes as may take an endpoint out", func() error {
		if n := strings.Count(g.log.String(), "an endpoint could not be probed"); n < 15 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	for range 10 {
		if err := open[0].askFor("/app", time.Minute); err == nil || err.Error() != "got 503, want 200" {
			t.Errorf("a request that needs a connection: %v", err)
		}
	}
	line := g.accessLine("the refusal", func(m map[string]any) bool { return m["path"] == "/app" })
	if line["reason"] != "overloaded" || line["flags"] != "OM" || !strings.Contains(fmt.Sprint(line["detail"]), "too many open files") {
		t.Errorf("access log line %v", line)
	}
	for i, p := range open[:first] { // connections that are there keep being served
		if err := p.ask(time.Minute); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	if n := g.metric(series("gatehouse_upstream_endpoint_healthy", "app", app.addr)); n != 1 {
		t.Error("the endpoint is taken for dead")
	}
	// As descriptors get free, those that wait have their turn.
	last := open[len(open)-1]
	for _, p := range open[:len(open)-1] {
		p.Close()
	}
	if err := last.ask(time.Minute); err != nil {
		t.Errorf("the last one: %v", err)
	}
	g.eventually("the others are closed", func() error { // which were accepted before it
		return is(g.metric(`gatehouse_listener_connections_open{listener="web"}`), 1)
	})
	if err := last.askFor("/app", time.Minute); err != nil {
		t.Errorf("the last one, to the upstream: %v", err)
	}
	for range 20 {
		p, err := g.dialPeer()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.ask(time.Minute); err != nil {
			t.Errorf("a new one: %v", err)
		}
		p.Close()
	}
	last.Close()
	open = nil
	g.eventually("all connections are closed", func() error {
		return is(g.metric(`gatehouse_listener_connections_open{listener="web"}`), 0)
	})
	g.stop()
}

func TestManyIdleConnections(t *testing.T) {
	n := 10_000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < 12_000 {
		n = min(2000, int(limit.Cur)/2)
	}
	g := prepare(t, "")
	g.writeRaw(strings.Replace(g.text(fixedConfig), "trusted_proxies", "timeouts: { idle: 1h }, trusted_proxies", 1))
	g.run()
	g.waitReady()
	warm, err := g.dialPeer()
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if err := warm.ask(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	warm.Close()
	before := g.footprint()
	rss := g.rss()
	open := make([]*peer, n)
	var wg sync.WaitGroup
	const hands = 8
	for h := range hands {
		wg.Go(func() {
			for i := h; i < n; i += hands {
				p, err := g.dialPeer()
				if err == nil {
					err = p.ask(time.Minute)
				}
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				open[i] = p
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if got := g.metric(`gatehouse_listener_connections_open{listener="web"}`); got != float64(n) {
		t.Errorf("%v connections open, want %d", got, n)
	}
	each := (g.rss() - rss) / int64(n)
	t.Logf("%d idle connections: %d bytes each", n, each)
	if each > 16<<10 {
		t.Errorf("%d bytes for each idle connection", each)
	}
	for i := 0; i < n; i += 97 { // they are still good
		if err := open[i].ask(time.Minute); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	if r := g.get("/fixed"); r.StatusCode != 200 {
		t.Errorf("a new one: %s", r.Status)
	}
	for _, p := range open {
		p.Close()
	}
	g.leavesNothing(before)
}

// rss is the resident memory of the node in bytes.
func (g *gatehouse) rss() int64 {
	g.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		g.t.Fatal(err)
	}
	return kib << 10
}
