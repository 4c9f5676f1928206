package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/cmd"
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control"
	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

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

// take returns what was logged since the last call.
func (l *logbook) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.text.String()
	l.text.Reset()
	return s
}

// node is a control loop over a folder.
type node struct {
	*control.Loop
	t       *testing.T
	dir     string
	env     map[string]string
	log     *logbook
	metrics *metrics.Metrics
	gateway *gateway.Gateway
}

func newNode(t *testing.T, watched bool, text string) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir(), env: map[string]string{}, log: &logbook{}, metrics: metrics.New(metrics.Settings{})}
	log := slog.New(slog.NewTextHandler(n.log, nil))
	compiler, err := compile.New(compile.Settings{Plugins: cmd.Plugins(), Log: log, Metrics: n.metrics})
	if err != nil {
		t.Fatal(err)
	}
	n.gateway = gateway.New(gateway.Settings{Log: log, Metrics: n.metrics})
	s := control.Settings{Load: n.load, Compiler: compiler, Gateway: n.gateway, Metrics: n.metrics, Log: log}
	if watched {
		s.Paths = []string{n.path()}
	}
	n.Loop = control.New(s)
	t.Cleanup(func() {
		n.Close()
		n.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := n.gateway.Drain(ctx); err != nil {
			t.Error(err)
		}
		compiler.Close()
	})
	n.write(text)
	return n
}

func (n *node) path() string { return filepath.Join(n.dir, "gatehouse.yaml") }

func (n *node) load() (*config.Config, *config.Source, error) {
	return config.Load([]string{n.path()}, cmd.Kinds(), config.Options{
		Env: func(name string) (string, bool) { v, ok := n.env[name]; return v, ok },
	})
}

func (n *node) put(name, text string) {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) write(text string) { n.t.Helper(); n.put("gatehouse.yaml", text) }

func (n *node) start() {
	n.t.Helper()
	c, src, err := n.load()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.Start(context.Background(), c, src); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) reload() error { return n.Reload(context.Background(), "test") }

// get asks the running gateway.
func (n *node) get(path string, fields ...string) (int, string) {
	n.t.Helper()
	q, err := http.NewRequest("GET", "http://"+n.gateway.Addresses()["web"].String()+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range fields {
		k, v, _ := strings.Cut(f, ": ")
		q.Header.Set(k, v)
	}
	r, err := client.Do(q)
	if err != nil {
		n.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

func (n *node) want(body string) {
	n.t.Helper()
	if _, got := n.get("/"); got != body {
		n.t.Errorf("got %q, want %q", got, body)
	}
}

func (n *node) metric(name string, labels ...string) float64 {
	n.t.Helper()
	families, err := n.metrics.Gatherer().Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var have []string
			for _, l := range m.GetLabel() {
				have = append(have, l.GetValue())
			}
			if f.GetName() == name && strings.Join(have, ",") == strings.Join(labels, ",") {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	n.t.Fatalf("no metric %s %v", name, labels)
	return 0
}

const text = `
listeners: { web: { address: "127.0.0.1:0" } }
routes: { r: { respond: { body: "%s" } } }
`

func version(s string) string { return fmt.Sprintf(text, s) }

func TestReloadMakesTheNewConfigLive(t *testing.T) {
	n := newNode(t, false, version("one"))
	if err := n.Ready(); !errors.Is(err, control.ErrNotLoaded) {
		t.Errorf("before the start: %v", err)
	}
	n.start()
	n.want("one")
	first := n.Status()
	if n.Ready() != nil || first.Digest == "" || first.Reloads != 0 || first.Loaded.IsZero() {
		t.Errorf("after the start: %+v", first)
	}
	n.write(version("two"))
	n.want("one") // nobody watches
	if err := n.reload(); err != nil {
		t.Fatal(err)
	}
	n.want("two")
	if s := n.Status(); s.Digest == first.Digest || s.Reloads != 1 || s.Failures != 0 || s.Error != "" {
		t.Errorf("after a reload: %+v", s)
	}
	if v := n.metric("gatehouse_config_revision_number"); v != 2 {
		t.Errorf("revision %v", v)
	}
}

func TestTheSameConfigChangesNothing(t *testing.T) {
	n := newNode(t, false, version("one"))
	n.start()
	snapshot, before := n.gateway.Current(), n.Status()
	n.write(version("one"))
	if err := n.reload(); err != nil {
		t.Fatal(err)
	}
	if n.gateway.Current() != snapshot || n.Status().Loaded != before.Loaded {
		t.Error("it was made live again")
	}
	if v := n.metric("gatehouse_config_revision_number"); v != 1 {
		t.Errorf("revision %v", v)
	}
}

func TestABadConfigChangesNothingAndIsToldEverywhere(t *testing.T) {
	n := newNode(t, false, version("one"))
	n.start()
	before := n.Status()
	n.log.take()
	for i, bad := range []string{
		"listeners: {",
		strings.Replace(version("two"), "respond", "respnod", 1),
		strings.Replace(version("two"), "r: {", "r: { plugins: [{ jwt: { jwks_file: missing.json, audiences: [a] } }],", 1),
		strings.Replace(version("two"), "127.0.0.1:0", "192.0.2.1:80", 1),
	} {
		n.write(bad)
		err := n.reload()
		if err == nil {
			t.Fatalf("accepted: %s", bad)
		}
		s := n.Status()
		if s.Digest != before.Digest || s.Failures != i+1 || s.Error != err.Error() || s.ErrorAt.IsZero() {
			t.Errorf("status: %+v", s)
		}
		if log := n.log.take(); !strings.Contains(log, "refused") || !strings.Contains(log, "cause=test") {
			t.Errorf("log: %s", log)
		}
		if n.metric("gatehouse_config_last_reload_successful") != 0 || n.metric("gatehouse_config_reloads_total", "failure") != float64(i+1) {
			t.Error("the metrics do not say so")
		}
		if n.Ready() != nil {
			t.Error("the old config serves, so the node is ready")
		}
		n.want("one")
	}
	n.write(version("one")) // taken back
	if err := n.reload(); err != nil {
		t.Fatal(err)
	}
	if s := n.Status(); s.Error != "" || !s.ErrorAt.IsZero() {
		t.Errorf("status: %+v", s)
	}
	if n.metric("gatehouse_config_last_reload_successful") != 1 {
		t.Error("the metrics still tell of the failure")
	}
	n.write(version("three"))
	if err := n.reload(); err != nil {
		t.Fatal(err)
	}
	n.want("three")
}

func TestARotatedSecretIsAChange(t *testing.T) {
	key := func(b byte) string { return strings.Repeat(string(b), 40) }
	n := newNode(t, false, `
listeners: { web: { address: "127.0.0.1:0" } }
routes:
  r: { plugins: [{ jwt: { secret: "file:key", audiences: [a] } }], respond: { body: "${WORD:-nothing}" } }
`)
	n.put("key", key('a'))
	n.start()
	snapshot, digest := n.gateway.Current(), n.Status().Digest
	n.put("key", key('b'))
	if err := n.reload(); err != nil {
		t.Fatal(err)
	}
	if n.gateway.Current() == snapshot {
		t.Error("another key, and nothing has changed")
	}
	if n.Status().Digest != digest {
		t.Error("the digest of the text tells of a secret")
	}
	snapshot = n.gateway.Current()
	n.env["WORD"] = "something"
	if err := n.reload(); err != nil || n.gateway.Current() == snapshot {
		t.Errorf("another environment: %v", err)
	}
	snapshot = n.gateway.Current()
	if err := n.reload(); err != nil || n.gateway.Current() != snapshot {
		t.Errorf("nothing has changed: %v", err)
	}
}

func TestABrokenRouteIsTriedAgain(t *testing.T) {
	n := newNode(t, false, `
listeners: { web: { address: "127.0.0.1:0" } }
routes:
  r: { plugins: [{ basic_auth: { htpasswd_file: users } }], respond: { body: in } }
  s: { match: { path: /s }, respond: { body: s } }
`)
	n.start()
	s := n.Status()
	if len(s.Broken) != 1 || !strings.Contains(s.Broken["r"], "users") || n.Ready() != nil {
		t.Errorf("status: %+v", s)
	}
	if code, body := n.get("/"); code != 503 || strings.Contains(body, "users") {
		t.Errorf("got %d %s", code, body)
	}
	if code, _ := n.get("/s"); code != 200 {
		t.Errorf("the other route: %d", code)
	}
	if v := n.metric("gatehouse_config_routes_broken"); v != 1 {
		t.Errorf("%v routes are counted as broken", v)
	}
	if err := n.reload(); err == nil {
		t.Error("it is broken still, and nobody is told")
	}
	n.put("users", "alice:$2a$04$"+strings.Repeat("a", 53)+"\n")
	if err := n.reload(); err != nil { // the config is the same, what it names is not
		t.Fatal(err)
	}
	if s := n.Status(); len(s.Broken) != 0 {
		t.Errorf("status: %+v", s)
	}
	if code, _ := n.get("/"); code != 401 {
		t.Errorf("got %d, want the question for a password", code)
	}
}

func TestChangesUnderNodeAreSaidToNeedARestart(t *testing.T) {
	n := newNode(t, false, version("one"))
	n.start()
	n.log.take()
	n.write("node: { zone: b }" + version("two"))
	if err := n.reload(); err != nil {
		t.Fatal(err)
	}
	n.want("two")
	if log := n.log.take(); !strings.Contains(log, "restart") {
		t.Errorf("log: %s", log)
	}
}

func TestAStartThatFails(t *testing.T) {
	n := newNode(t, true, strings.Replace(version("one"), "127.0.0.1:0", "192.0.2.1:80", 1))
	c, src, err := n.load()
	if err != nil {
		t.Fatal(err)
	}
	at := n.path() + ":2:30: listeners.web.address: listen tcp 192.0.2.1:80: bind: "
	if err := n.Start(context.Background(), c, src); err == nil || !strings.HasPrefix(err.Error(), at) {
		t.Errorf("got %v, want %s…", err, at)
	}
	if n.Ready() == nil {
		t.Error("it is ready")
	}
}

func TestBusyAddressesAreToldWithTheirPlaces(t *testing.T) {
	var taken [2]string
	for i := range taken {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		taken[i] = l.Addr().String()
	}
	datagrams, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	n := newNode(t, false, version("one"))
	n.start()
	udp := datagrams.LocalAddr().String()
	const inUse = ": bind: address already in use"
	for listeners, want := range map[string]string{
		fmt.Sprintf("  b: { address: %q },\n  a: { address: %q },\n", taken[0], taken[1]):         "FILE:3:17: listeners.b.address: listen tcp " + taken[0] + inUse + "\nFILE:4:17: listeners.a.address: listen tcp " + taken[1] + inUse,
		fmt.Sprintf("  d: { address: %q, protocol: udp, backends: [{ upstream: app }] },\n", udp): "FILE:3:17: listeners.d.address: listen udp " + udp + inUse,
	} {
		n.write(strings.Replace(version("two"), "listeners: { ", "listeners: {\n"+listeners+"  ", 1) + "upstreams: { app: { endpoints: [\"127.0.0.1:1\"] } }\n")
		want = strings.ReplaceAll(want, "FILE", n.path())
		if err := n.reload(); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if s := n.Status(); s.Error != want {
			t.Errorf("the status says %q", s.Error)
		}
		n.want("one")
	}
}

func TestWatchedFilesAreFollowed(t *testing.T) {
	n := newNode(t, true, version("one"))
	n.start()
	n.want("one")
	n.write(version("two"))
	until(t, func() bool { return n.Status().Reloads == 1 })
	n.want("two")
	n.write("listeners: {")
	until(t, func() bool { return n.Status().Failures == 1 })
	n.want("two")
	n.Close()
	n.write(version("three"))
	time.Sleep(300 * time.Millisecond) // longer than the watcher waits for a burst to end
	n.want("two")
}

// until waits for what another goroutine will do.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen within a minute")
		}
	}
}

func TestManyReloadsAtOnce(t *testing.T) {
	n := newNode(t, false, version("0"))
	n.start()
	var done sync.WaitGroup
	for i := range 8 {
		done.Go(func() {
			n.write2(version(fmt.Sprint(i + 1)))
			if err := n.reload(); err != nil {
				t.Error(err)
			}
			_ = n.Status()
		})
	}
	done.Wait()
	if err := n.reload(); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(n.path())
	if err != nil {
		t.Fatal(err)
	}
	_, body := n.get("/")
	if !strings.Contains(string(now), `"`+body+`"`) {
		t.Errorf("running is %q, the file says %s", body, now)
	}
}

// write2 is write for several goroutines at once.
func (n *node) write2(text string) {
	f, err := os.CreateTemp(n.dir, "new")
	if err != nil {
		n.t.Error(err)
		return
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close(), os.Rename(f.Name(), n.path())); err != nil {
		n.t.Error(err)
	}
}
