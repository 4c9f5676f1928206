package waf_test

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/waf"
	engine "github.com/gatehouse-proxy/gatehouse/waf"
)

// defaultPolicy is the policy "default" with the config's own defaults.
func defaultPolicy() plugins.WAFPolicy {
	return plugins.WAFPolicy{
		Name: "default", Mode: "block", CRS: true, ParanoiaLevel: 1, DetectionParanoiaLevel: 1,
		InboundThreshold: 5, OutboundThreshold: 4, RequestBodyLimit: 1 << 20, BodyOverLimit: "reject",
		ResponseBodyLimit: 512 << 10,
	}
}

// sink keeps events.
type sink struct {
	mu     sync.Mutex
	events []*engine.Event
}

func (s *sink) Send(e *engine.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

func (s *sink) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = nil
}

func (s *sink) all() []*engine.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events
}

// instance is the plugin with what it was given.
type instance struct {
	plugins.Instance
	sink    *sink
	pool    *engine.Pool
	metrics *prometheus.Registry
	log     *bytes.Buffer
}

type option func(*waf.Config, *plugins.Settings)

func route(methods ...string) option {
	return func(_ *waf.Config, s *plugins.Settings) { s.Route.Methods = methods }
}

// newInstance builds the plugin for a policy and closes it with the test.
func newInstance(t testing.TB, p plugins.WAFPolicy, opts ...option) *instance {
	t.Helper()
	in := &instance{sink: &sink{}, pool: engine.NewPool(), metrics: prometheus.NewRegistry(), log: &bytes.Buffer{}}
	c := &waf.Config{Policy: p.Name}
	s := plugins.Settings{
		Route: plugins.Route{Name: "test"}, WAF: map[string]plugins.WAFPolicy{p.Name: p}, Metrics: in.metrics,
		Log: slog.New(slog.NewTextHandler(in.log, nil)),
	}
	for _, o := range opts {
		o(c, &s)
	}
	inst, err := waf.Factory(in.pool, in.sink).New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	in.Instance = inst
	t.Cleanup(func() {
		if err := inst.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if n := in.pool.Len(); n != 0 {
			t.Errorf("%d engines left open", n)
		}
	})
	return in
}
