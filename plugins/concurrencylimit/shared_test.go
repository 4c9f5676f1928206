package concurrencylimit

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// places are a fleet's as a test wants them.
type places struct {
	ratelimit.Fleet
	settings ratelimit.SlotsSettings
	from     ratelimit.Source
	held     map[uint64]string
	next     uint64
	entered  []string
	closed   bool
}

func (p *places) Slots(s ratelimit.SlotsSettings) (ratelimit.Slots, error) {
	p.settings, p.held = s, map[uint64]string{}
	return p, nil
}

func (p *places) Enter(key []byte) (uint64, bool, ratelimit.Source) {
	p.entered = append(p.entered, string(key))
	if len(p.held) >= p.settings.Limit || p.from == ratelimit.Closed {
		return 0, false, p.from
	}
	p.next++
	p.held[p.next] = string(key)
	return p.next, true, p.from
}

func (p *places) Leave(id uint64) { delete(p.held, id) }
func (p *places) Close()          { p.closed = true }

func TestPlacesOfTheFleet(t *testing.T) {
	f := &places{from: ratelimit.Store}
	c := new(Config)
	if err := strict.Unmarshal([]byte("{limit: 1, scope: global, on_store_failure: closed, key: header.X-Key, retry_after: 3s}"), c); err != nil {
		t.Fatal(err)
	}
	p, err := Factory(f).New(c, plugins.Settings{Route: plugins.Route{Name: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := (ratelimit.SlotsSettings{Name: `"r" ["header.X-Key"] 64`, Limit: 1, OnFailure: ratelimit.RefuseAll}); f.settings != want {
		t.Errorf("got %+v", f.settings)
	}
	do := func() plugintest.Reply {
		return plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a\r\nX-Key: k1\r\n\r\n"}, p.Handle, plugintest.Upstream)
	}
	for range 3 {
		if r := do(); r.Status != 200 || len(f.held) != 0 {
			t.Errorf("%d, %v is still held", r.Status, slices.Collect(maps.Values(f.held)))
		}
	}
	f.held[99] = "another's"
	if r := do(); r.Status != 503 || r.Refusal.Reason != reason.ConcurrencyLimited || string(r.Header.Peek("Retry-After")) != "3" {
		t.Errorf("%d, %v", r.Status, r.Refusal)
	}
	f.from = ratelimit.Closed
	if r := do(); r.Status != 503 || r.Refusal.Reason != reason.LimitUnavailable {
		t.Errorf("%d, %v", r.Status, r.Refusal)
	}
	if strings.Join(f.entered, " ") != "k1 k1 k1 k1 k1" {
		t.Errorf("keys %q", f.entered)
	}
	if err := p.Close(t.Context()); err != nil || !f.closed {
		t.Error("not closed", err)
	}
}

func TestBadGlobalConfig(t *testing.T) {
	for yaml, want := range map[string]string{
		"{limit: 9, scope: all}":                  "scope: must be local or global",
		"{limit: 9, scope: global, adaptive: {}}": "adaptive: is only for scope: local",
		"{limit: 9, scope: global, queue: 1}":     "queue: is only for scope: local",
		"{limit: 9, on_store_failure: open}":      "on_store_failure: is only for scope: global",
	} {
		if err := strict.Unmarshal([]byte(yaml), new(Config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
	}
}
