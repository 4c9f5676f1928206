package compile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/cmd"
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// probeConfig is of a plugin that says what happens to it.
type probeConfig struct {
	Name string `yaml:"name" required:"true"`
	// Fail is where it fails: new, start or nowhere.
	Fail string `yaml:"fail" enum:"new,start,no" default:"no"`
}

// diary is what happened to all probes, by name.
type diary struct {
	mu                    sync.Mutex
	made, started, closed map[string]int
	mended                bool // Start does not fail any more
}

type probe struct {
	d *diary
	c *probeConfig
}

func (d *diary) factory() plugins.Factory {
	return plugins.Define("probe", func(c *probeConfig, _ plugins.Settings) (plugins.Instance, error) {
		if c.Fail == "new" {
			return nil, errors.New("cannot be made")
		}
		d.note(d.made, c.Name)
		return &probe{d, c}, nil
	})
}

func (d *diary) note(m map[string]int, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m[name]++
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprint("made ", d.made, " started ", d.started, " closed ", d.closed)
}

func (p *probe) Handle(c *fiber.Ctx) error { c.Set("X-Probe", p.c.Name); return c.Next() }

func (p *probe) Start(context.Context) error {
	if p.c.Fail == "start" && !p.d.mended {
		return errors.New("cannot be started")
	}
	p.d.note(p.d.started, p.c.Name)
	return nil
}

func (p *probe) Close(context.Context) error { p.d.note(p.d.closed, p.c.Name); return nil }

// world is a compiler with a gateway that runs what it makes.
type world struct {
	t        testing.TB
	dir      string
	diary    *diary
	kinds    config.Kinds
	compiler *compile.Compiler
	gateway  *gateway.Gateway
	metrics  *metrics.Metrics
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		t: t, dir: t.TempDir(), kinds: cmd.Kinds(), metrics: metrics.New(metrics.Settings{}),
		diary: &diary{made: map[string]int{}, started: map[string]int{}, closed: map[string]int{}},
	}
	f := w.diary.factory()
	w.kinds[f.Name] = f.Config
	var err error
	w.compiler, err = compile.New(compile.Settings{Plugins: append(cmd.Plugins(), f), Log: discard, Metrics: w.metrics, Zone: "z1"})
	if err != nil {
		t.Fatal(err)
	}
	w.gateway = gateway.New(gateway.Settings{Log: discard, Metrics: w.metrics})
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := w.gateway.Drain(ctx); err != nil {
		w.t.Error(err)
	}
	w.compiler.Close()
}

func (w *world) build(text string, mode compile.Mode) (*compile.Result, error) {
	w.t.Helper()
	c, src, err := config.Parse([]byte(text), "gatehouse.yaml", w.kinds, config.Options{Dir: w.dir})
	if err != nil {
		w.t.Fatalf("%v\n%s", err, text)
	}
	return w.compiler.Build(context.Background(), c, src, w.gateway.Current(), mode)
}

// apply makes text live, as a reload does.
func (w *world) apply(text string) *compile.Result {
	w.t.Helper()
	return w.applyAs(text, compile.AllOrNothing)
}

func (w *world) applyAs(text string, mode compile.Mode) *compile.Result {
	w.t.Helper()
	r, err := w.build(text, mode)
	if err != nil {
		w.t.Fatal(err)
	}
	prev := w.gateway.Current()
	if err := w.gateway.Swap(context.Background(), r.Snapshot, time.Second); err != nil {
		w.t.Fatal(err)
	}
	if prev != nil {
		<-prev.Retired()
	}
	return r
}

// units are the running units by key.
func (w *world) units() map[string]snapshot.Unit {
	out := map[string]snapshot.Unit{}
	w.gateway.Current().Units.Each(func(key string, u snapshot.Unit) { out[key] = u })
	return out
}

// get asks the listener "web".
func (w *world) get(path string, fields ...string) (status int, body string) {
	w.t.Helper()
	r := w.do(path, fields...)
	return r.StatusCode, r.Header.Get("Body")
}

// do asks the listener "web"; the body is in the header "Body".
func (w *world) do(path string, fields ...string) *http.Response {
	w.t.Helper()
	q, err := http.NewRequest("GET", "http://"+w.gateway.Addresses()["web"].String()+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range fields {
		k, v, _ := strings.Cut(f, ": ")
		q.Header.Add(k, v)
	}
	r, err := client.Do(q)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Body", string(b))
	return r
}

var discard = slog.New(slog.DiscardHandler)

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

// service is an upstream that counts the connections made to it.
type service struct {
	address string
	mu      sync.Mutex
	conns   int
}

func newService(t testing.TB, name string) *service {
	t.Helper()
	s := &service{}
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", name, r.URL.Path)
	}))
	h.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
		}
	}
	h.Start()
	t.Cleanup(h.Close)
	s.address = h.Listener.Addr().String()
	return s
}

func (s *service) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}
