package plugintest

import (
	"context"
	"io"
	"log/slog"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
	"go.uber.org/goleak"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

// Bad is a config that must be refused.
type Bad struct {
	// YAML is what stands under the plugin's name.
	YAML string
	// Want is a part of the message: the key and what is wrong with it.
	Want string
}

// Options say what a plugin promises beyond the contract.
type Options struct {
	// Good are configs, as they stand under the plugin's name, that must work.
	// The first is used for load and allocations; without any, the defaults.
	Good []string
	// Bad are configs that must be refused.
	Bad []Bad
	// Settings for New; Log, Metrics and Route are filled in.
	Settings plugins.Settings
	// Request is an ordinary request that the first good config lets pass.
	// Default: a GET.
	Request Request
	// Allocs is how many allocations the plugin may make for Request.
	Allocs float64
	// Dir is the plugin's folder, default the current one.
	Dir string
}

// Run holds a plugin to the contract that every plugin keeps. Call it from a
// test of the plugin's own package that runs nothing else in parallel.
func Run(t *testing.T, f plugins.Factory, o Options) {
	if o.Request.Raw == "" {
		o.Request.Raw = "GET /v1/users?q=1 HTTP/1.1\r\nHost: api.example.com\r\nAccept: */*\r\n\r\n"
	}
	if o.Dir == "" {
		o.Dir = "."
	}
	s := &suite{f: f, o: o, registry: prometheus.NewRegistry()}
	t.Run("factory", s.factory)
	t.Run("defaults", s.defaults)
	if t.Failed() {
		return // the rest needs a config that works
	}
	t.Run("config", s.config)
	t.Run("lifecycle", s.lifecycle)
	t.Run("requests", s.requests)
	t.Run("load", s.load)
	t.Run("allocations", s.allocations)
	t.Run("metrics", s.metrics)
	t.Run("readme", s.readme)
}

type suite struct {
	f        plugins.Factory
	o        Options
	registry *prometheus.Registry
}

// good are the configs known to work.
func (s *suite) good() []string {
	if len(s.o.Good) == 0 {
		return []string{"{}"}
	}
	return s.o.Good
}

func (s *suite) settings() plugins.Settings {
	st := s.o.Settings
	st.Metrics = s.registry
	if st.Log == nil {
		st.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if st.Route.Name == "" {
		st.Route.Name = "conformance"
	}
	return st
}

// build makes an instance that has not been started.
func (s *suite) build(yaml string) (plugins.Instance, error) {
	c := s.f.Config()
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		return nil, err
	}
	return s.f.New(c, s.settings())
}

func (s *suite) start(t testing.TB, yaml string) plugins.Instance {
	t.Helper()
	in, err := s.build(yaml)
	if err != nil {
		t.Fatalf("%s: %v", yaml, err)
	}
	if err := in.Start(context.Background()); err != nil {
		t.Fatalf("%s: Start: %v", yaml, err)
	}
	t.Cleanup(func() { stop(t, in) })
	return in
}

func stop(t testing.TB, in plugins.Instance) {
	t.Helper()
	for range 2 {
		if err := in.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

var snake = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

func (s *suite) factory(t *testing.T) {
	if !snake.MatchString(s.f.Name) {
		t.Errorf("name %q is not snake_case", s.f.Name)
	}
	a, b := s.f.Config(), s.f.Config()
	if v := reflect.ValueOf(a); v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct || !v.Elem().IsZero() {
		t.Fatalf("Config returns %T, want a pointer to a new zero struct", a)
	}
	if a == b && reflect.TypeOf(a).Elem().Size() > 0 {
		t.Error("Config returns the same struct twice")
	}
	for _, fd := range strict.Fields(reflect.TypeOf(a).Elem()) {
		if !snake.MatchString(fd.Name) {
			t.Errorf("key %q is not snake_case", fd.Name)
		}
	}
}

// defaults must work, or be refused with a message that says what is missing.
func (s *suite) defaults(t *testing.T) {
	in, err := s.build("{}")
	if err == nil {
		stop(t, in)
		return
	}
	if len(s.o.Good) == 0 {
		t.Fatalf("the defaults do not work and Options.Good is empty: %v", err)
	}
	for _, fd := range strict.Fields(reflect.TypeOf(s.f.Config()).Elem()) {
		if strings.Contains(err.Error(), fd.Name) {
			return
		}
	}
	t.Errorf("the defaults are refused without naming a key: %v", err)
}

func (s *suite) config(t *testing.T) {
	for _, g := range s.good() {
		if in, err := s.build(g); err != nil {
			t.Errorf("%s: %v", g, err)
		} else {
			stop(t, in)
		}
	}
	const unknown = "no_such_key_in_any_plugin"
	if err := strict.Unmarshal([]byte(unknown+": 1"), s.f.Config()); err == nil || !strings.Contains(err.Error(), unknown) {
		t.Errorf("an unknown key is not refused by its name: %v", err)
	}
	for _, b := range s.o.Bad {
		in, err := s.build(b.YAML)
		switch {
		case err == nil:
			stop(t, in)
			t.Errorf("%s: is accepted, want %q", b.YAML, b.Want)
		case b.Want == "" || !strings.Contains(err.Error(), b.Want):
			t.Errorf("%s: got %q, want %q", b.YAML, err, b.Want)
		}
	}
}

// lifecycle: New opens nothing, Close works without Start and twice, and what
// Start began is over after Close.
func (s *suite) lifecycle(t *testing.T) {
	before := goleak.IgnoreCurrent()
	for _, g := range s.good() {
		in, err := s.build(g)
		if err != nil {
			t.Fatalf("%s: %v", g, err)
		}
		if err := leak.Find(before); err != nil {
			t.Errorf("%s: New starts a goroutine: %v", g, err)
		}
		stop(t, in)
		if in, err = s.build(g); err != nil {
			t.Fatalf("%s: a second instance: %v", g, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		if err := in.Start(ctx); err != nil {
			t.Errorf("%s: Start: %v", g, err)
		}
		cancel() // background work ends with Close, not with Start's context
		Do(t, s.o.Request, in.Handle, Upstream)
		stop(t, in)
		if err := leak.Find(before); err != nil {
			t.Errorf("%s: a goroutine outlives Close: %v", g, err)
		}
	}
}

// load runs requests in parallel, for the race detector.
func (s *suite) load(t *testing.T) {
	in := s.start(t, s.good()[0])
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				Do(t, s.o.Request, in.Handle, Upstream)
			}
		})
	}
	wg.Wait()
}

func (s *suite) allocations(t *testing.T) {
	if raceEnabled {
		t.Log("not counted: the race detector allocates too")
		return
	}
	in := s.start(t, s.good()[0])
	if n := Allocs(t, s.o.Request, in.Handle); n > s.o.Allocs {
		t.Errorf("%v allocations per request, want at most %v", n, s.o.Allocs)
	}
}

// Allocs counts the allocations that handler makes for one request. The
// request passes it many times in a row, with its headers as they were; a body
// only passes once.
func Allocs(t testing.TB, req Request, handler fiber.Handler) float64 {
	count := func(chain ...fiber.Handler) (n float64) {
		first := func(c *fiber.Ctx) error {
			var q fasthttp.RequestHeader
			var r fasthttp.ResponseHeader
			c.Request().Header.CopyTo(&q)
			c.Response().Header.CopyTo(&r)
			n = testing.AllocsPerRun(200, func() {
				_ = c.Next()
				q.CopyTo(&c.Request().Header)
				r.CopyTo(&c.Response().Header)
			})
			return nil
		}
		Do(t, req, append([]fiber.Handler{first}, chain...)...)
		return n
	}
	answer := func(c *fiber.Ctx) error {
		exchange.From(c).Upstream.Status = 200
		c.Response().SetBodyRaw(small)
		return nil
	}
	return count(handler, answer) - count(answer)
}

var small = []byte("upstream")

func (s *suite) metrics(t *testing.T) {
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	readme := s.readmeText(t)
	for _, mf := range families {
		name := mf.GetName()
		if !strings.HasPrefix(name, "gatehouse_"+s.f.Name+"_") {
			t.Errorf("%s: does not begin with gatehouse_%s_", name, s.f.Name)
		}
		if (mf.GetType().String() == "COUNTER") != strings.HasSuffix(name, "_total") {
			t.Errorf("%s: _total is for counters and for all of them", name)
		}
		if !strings.Contains(readme, name) {
			t.Errorf("%s: not in the README", name)
		}
	}
}
