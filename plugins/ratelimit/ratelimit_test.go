package ratelimit

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

func config(t testing.TB, yaml string) *Config {
	t.Helper()
	c := new(Config)
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	return c
}

func handler(t testing.TB, yaml string) fiber.Handler {
	t.Helper()
	p, err := Factory(nil).New(config(t, yaml), plugins.Settings{Route: plugins.Route{Name: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	return p.Handle
}

type ask struct {
	client, head string
	edit         func(*exchange.Exchange)
}

func (a ask) do(t testing.TB, chain ...fiber.Handler) plugintest.Reply {
	t.Helper()
	return plugintest.Do(t, plugintest.Request{
		Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n" + a.head + "\r\n", Client: a.client, Edit: a.edit,
	}, append(chain, plugintest.Upstream)...)
}

func headers(r plugintest.Reply) string {
	return fmt.Sprintf("%d policy=%s left=%s retry=%s", r.Status, r.Header.Peek("RateLimit-Policy"), r.Header.Peek("RateLimit"), r.Header.Peek("Retry-After"))
}

func TestHeadersAndRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := handler(t, "{limit: 60, per: 1m, burst: 2}")
		for _, want := range []string{
			`200 policy="default";q=60;w=60 left="default";r=1;t=1 retry=`,
			`200 policy="default";q=60;w=60 left="default";r=0;t=1 retry=`,
			`429 policy="default";q=60;w=60 left="default";r=0;t=1 retry=1`,
		} {
			if got := headers(ask{}.do(t, h)); got != want {
				t.Fatalf("got  %s\nwant %s", got, want)
			}
		}
		if r := (ask{client: "192.0.2.9"}).do(t, h); r.Status != 200 {
			t.Fatalf("another client: %d", r.Status)
		}
		time.Sleep(time.Second)
		r := ask{}.do(t, h)
		if r.Status != 200 {
			t.Fatalf("a second later: %d", r.Status)
		}
		r = ask{}.do(t, h)
		if r.Refusal.Reason != reason.RateLimited {
			t.Fatalf("refusal %v", r.Refusal)
		}
	})
}

func TestWindowsAreNamedAndTheTightestIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := handler(t, `{name: api, windows: [{limit: 10, per: 1s}, {limit: 3, per: 1h}]}`)
		want := `200 policy="api";q=10;w=1, "api-2";q=3;w=3600 left="api-2";r=2;t=1200 retry=`
		if got := headers(ask{}.do(t, h)); got != want {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
		ask{}.do(t, h)
		ask{}.do(t, h)
		if r := (ask{}).do(t, h); r.Status != 429 || string(r.Header.Peek("Retry-After")) != "1200" {
			t.Fatal(headers(r))
		}
	})
}

func TestSeveralLimitsMakeOneList(t *testing.T) {
	a, b := handler(t, "{name: a, limit: 1, per: 1h}"), handler(t, "{name: b, limit: 5, per: 1h}")
	r := ask{}.do(t, a, b)
	if n := len(r.Header.PeekAll("RateLimit")); n != 2 {
		t.Fatalf("%d RateLimit fields, want 2", n)
	}
}

func TestKeys(t *testing.T) {
	alice := func(e *exchange.Exchange) { e.Identity.Consumer = &exchange.Consumer{Name: "alice"} }
	bob := func(e *exchange.Exchange) { e.Identity.Consumer = &exchange.Consumer{Name: "bob"} }
	for name, tc := range map[string]struct {
		config string
		asks   []ask
		want   string // statuses
	}{
		"ipv6 network":   {"", []ask{{client: "2001:db8::1"}, {client: "2001:db8::2"}, {client: "2001:db8:0:1::1"}}, "200 429 200"},
		"ipv6 address":   {"ipv6_prefix: 128", []ask{{client: "2001:db8::1"}, {client: "2001:db8::2"}}, "200 200"},
		"header":         {"key: header.X-Tenant", []ask{{head: "X-Tenant: a\r\n"}, {head: "x-tenant: b\r\n"}, {head: "X-Tenant: a\r\n"}}, "200 200 429"},
		"cookie":         {"key: cookie.s", []ask{{head: "Cookie: s=1\r\n"}, {head: "Cookie: t=2; s=1\r\n"}, {head: "Cookie: s=2\r\n"}}, "200 429 200"},
		"consumer":       {"key: consumer", []ask{{edit: alice}, {edit: bob}, {edit: alice, client: "192.0.2.7"}}, "200 200 429"},
		"two attributes": {"key: 'consumer, client_ip'", []ask{{edit: alice}, {edit: alice, client: "192.0.2.7"}, {edit: alice}}, "200 200 429"},
		"route":          {"key: route", []ask{{}, {client: "192.0.2.7"}}, "200 429"},
		"missing shares": {"key: header.X-Tenant", []ask{{}, {client: "192.0.2.7"}, {head: "X-Tenant: a\r\n"}}, "200 429 200"},
		"missing skips":  {"{key: header.X-Tenant, missing_key: skip}", []ask{{}, {}, {head: "X-Tenant: a\r\n"}, {head: "X-Tenant: a\r\n"}}, "200 200 200 429"},
		"missing refuse": {"{key: header.X-Tenant, missing_key: refuse}", []ask{{}, {head: "X-Tenant: a\r\n"}}, "429 200"},
		"cost":           {"{cost: 2, burst: 3}", []ask{{}, {}}, "200 429"},
		"dry run":        {"dry_run: true", []ask{{}, {}, {}}, "200 200 200"},
		"dry, missing":   {"{dry_run: true, key: header.X, missing_key: refuse}", []ask{{}}, "200"},
	} {
		t.Run(name, func(t *testing.T) {
			inner := strings.Trim(tc.config, "{}")
			if inner != "" {
				inner += ", "
			}
			limit := "limit: 1, per: 1h"
			h := handler(t, "{"+inner+limit+"}")
			var got []string
			for _, a := range tc.asks {
				got = append(got, fmt.Sprint(a.do(t, h).Status))
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Fatalf("got %s, want %s", s, tc.want)
			}
		})
	}
}

func TestNoHeadersWhenSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := handler(t, "{limit: 1, per: 1h, headers: false}")
		ask{}.do(t, h)
		if got := headers(ask{}.do(t, h)); got != "429 policy= left= retry=3600" {
			t.Fatal(got)
		}
	})
}

// fleet makes limiters that answer as a test wants.
type fleet struct {
	ratelimit.Fleet
	settings ratelimit.SharedSettings
	decision ratelimit.Decision
	err      error
	cost     uint32
}

func (f *fleet) Limiter(s ratelimit.SharedSettings) (ratelimit.Limiter, error) {
	f.settings = s
	return f, nil
}

func (f *fleet) Take(_ []byte, cost uint32, d *ratelimit.Decision) error {
	f.cost, *d = cost, f.decision
	return f.err
}

func TestGlobalLimitsAreTheFleets(t *testing.T) {
	f := &fleet{}
	registry := prometheus.NewRegistry()
	yaml := "{limit: 5, per: 1s, scope: global, mode: leased, on_store_failure: closed, name: plan, key: 'consumer, route', cost_from: {header: X-Cost}}"
	p, err := Factory(f).New(config(t, yaml), plugins.Settings{Route: plugins.Route{Name: "r"}, Metrics: registry})
	if err != nil {
		t.Fatal(err)
	}
	want := ratelimit.SharedSettings{
		Name: `"r" "plan" ["consumer" "route"] 64`, Windows: []ratelimit.Window{{Limit: 5, Per: time.Second, Burst: 5}},
		Leased: true, OnFailure: ratelimit.RefuseAll, MaxKeys: 65536,
	}
	if !reflect.DeepEqual(f.settings, want) {
		t.Errorf("got %+v", f.settings)
	}
	for _, c := range []struct {
		d    ratelimit.Decision
		err  error
		want string
		why  *reason.Reason
	}{
		{ratelimit.Decision{Allowed: true, Source: ratelimit.Store, Remaining: 3}, nil, `200 policy="plan";q=5;w=1 left="plan";r=3 retry=`, nil},
		{ratelimit.Decision{Source: ratelimit.Lease, RetryAfter: time.Second, Next: time.Second}, nil, `429 policy="plan";q=5;w=1 left="plan";r=0;t=1 retry=1`, reason.RateLimited},
		{ratelimit.Decision{Allowed: true, Source: ratelimit.Open}, nil, "200 policy= left= retry=", nil},
		{ratelimit.Decision{Source: ratelimit.Closed}, nil, "503 policy= left= retry=", reason.LimitUnavailable},
		{ratelimit.Decision{}, errors.New("broken"), "503 policy= left= retry=", reason.LimitUnavailable},
	} {
		f.decision, f.err = c.d, c.err
		r := ask{head: "X-Cost: 3\r\n"}.do(t, p.Handle)
		if got := headers(r); got != c.want || (r.Refusal == nil) != (c.why == nil) || c.why != nil && r.Refusal.Reason != c.why || f.cost != 3 {
			t.Errorf("%+v: %s, %v, cost %d", c.d, got, r.Refusal, f.cost)
		}
	}
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, family := range all {
		if family.GetName() == "gatehouse_rate_limit_decisions_total" {
			for _, m := range family.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "source" {
						counted[l.GetValue()] = m.GetCounter().GetValue()
					}
				}
			}
		}
	}
	if want := map[string]float64{"local": 0, "store": 1, "lease": 1, "share": 0, "open": 1, "closed": 1}; !maps.Equal(counted, want) {
		t.Errorf("counted %v", counted)
	}
}

// Requests whose keys share a bucket for want of room are counted.
func TestKeysWithoutABucketAreCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	p, err := Factory(nil).New(config(t, "{limit: 1, per: 1h, max_keys: 64, key: header.X-Key, name: plan}"), plugins.Settings{Route: plugins.Route{Name: "r"}, Metrics: registry})
	if err != nil {
		t.Fatal(err)
	}
	counted := func() float64 {
		all, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range all {
			if family.GetName() == "gatehouse_rate_limit_overflow_total" {
				return family.GetMetric()[0].GetCounter().GetValue()
			}
		}
		return -1
	}
	from := func(key int) { ask{head: fmt.Sprintf("X-Key: %d\r\n", key)}.do(t, p.Handle) }
	for range 100 {
		from(0)
	}
	if n := counted(); n != 0 {
		t.Errorf("%v are counted for one key", n)
	}
	const keys, room = 2000, 1000 // which is more than there is
	for i := range keys {
		from(i)
	}
	before := counted()
	if before < keys-room || before >= keys {
		t.Errorf("%v of %d are counted", before, keys)
	}
	if from(0); counted() != before {
		t.Error("who has a bucket is counted")
	}
}

func TestBadConfig(t *testing.T) {
	for yaml, want := range map[string]string{
		"{}":                             "limit: must be at least 1, got 0; or give windows",
		"{limit: 5}":                     "per: must be at least 1ms, got 0s",
		"{limit: -1, per: 1s}":           "limit: must be at least 0, got -1",
		"{limit: 5, per: 1}":             "per: must be a duration",
		"{limit: 5, per: 1s, burst: -1}": "burst: must be at least 0",
		"{limit: 5, per: 1s, windows: [{limit: 1, per: 1s}]}":  "limit: cannot be given beside windows",
		"{windows: [{per: 1s}]}":                               "windows[0].limit: ",
		"{windows: [{limit: 1}]}":                              "windows[0].per: ",
		"{limit: 5, per: 1s, key: ip}":                         "key: unknown attribute \"ip\"; known: client_ip",
		"{limit: 5, per: 1s, key: 'client_ip,,route'}":         "key: unknown attribute \"\"",
		"{limit: 5, per: 1s, cost: 6}":                         "cost: 6 can never be granted by a burst of 5",
		"{limit: 5, per: 1s, cost: 0}":                         "cost: must be from 1",
		"{limit: 5, per: 1s, name: 'a\"b'}":                    "name: must be printable ASCII",
		"{limit: 5, per: 1s, name: ''}":                        "name: must not be empty",
		"{limit: 5, per: 1s, ipv6_prefix: 129}":                "ipv6_prefix: must be from 1 to 128",
		"{limit: 5, per: 1s, missing_key: allow}":              "missing_key: must be refuse, share or skip",
		"{limit: 1, per: 7d, burst: 1000000}":                  "50 years",
		"{limit: 9000000000, per: 1s}":                         "one unit a nanosecond",
		"{limit: 5, per: 1s, rate: 3}":                         "rate: ",
		"{limit: 5, per: 1s, scope: fleet}":                    "scope: must be local or global",
		"{limit: 5, per: 1s, mode: leased}":                    "mode: is only for scope: global",
		"{limit: 5, per: 1s, shared: x}":                       "shared: is only for scope: global",
		"{limit: 5, per: 1s, on_store_failure: open}":          "on_store_failure: is only for scope: global",
		"{limit: 5, per: 1s, cost: 2, cost_from: {header: X}}": "cost: cannot be given beside cost_from",
		"{limit: 5, per: 1s, cost_from: {header: X, max: 6}}":  "cost_from.max: 6 can never be granted; at most 5 can",
		"{limit: 5, per: 1s, cost_from: {expression: '('}}":    "cost_from.expression: column",
	} {
		if err := strict.Unmarshal([]byte(yaml), new(Config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
	}
}

func TestConcurrentRequestsGetExactlyTheBurst(t *testing.T) {
	h := handler(t, "{limit: 50, per: 10h}")
	var granted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if (ask{}).do(t, h).Status == 200 {
					granted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if granted.Load() != 50 {
		t.Fatalf("%d granted, want 50", granted.Load())
	}
}

// each runs do inside a request, ahead of the plugin: every call of next is
// one pass through it. The headers of the pass before are dropped, as they
// would be with the reply.
func each(t testing.TB, yaml string, do func(next func())) {
	plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"},
		func(c *fiber.Ctx) error {
			do(func() {
				c.Response().Header.Reset()
				_ = c.Next()
			})
			return nil
		}, handler(t, yaml), func(*fiber.Ctx) error { return nil })
}

func TestAllowingDoesNotAllocate(t *testing.T) {
	for _, yaml := range []string{"{limit: 1000000, per: 1s, headers: false}", "{limit: 1000000, per: 1s}"} {
		each(t, yaml, func(next func()) {
			if n := testing.AllocsPerRun(1000, next); n > 0 {
				t.Errorf("%s: %v allocations, want 0", yaml, n)
			}
		})
	}
}

func BenchmarkAllowed(b *testing.B) {
	for _, yaml := range []string{"{limit: 1000000000, per: 1s, headers: false}", "{limit: 1000000000, per: 1s}"} {
		b.Run(yaml, func(b *testing.B) {
			b.ReportAllocs()
			each(b, yaml, func(next func()) {
				for b.Loop() {
					next()
				}
			})
		})
	}
}

// TestWhichLimitsAreOne: of the fleet's, those of a route that nothing tells
// apart, and those that say so.
func TestWhichLimitsAreOne(t *testing.T) {
	place := func(yaml, route string) (string, string) {
		c := config(t, yaml)
		name, _, everywhere := c.Counts()
		if everywhere != (c.Shared != "") {
			t.Errorf("%s: everywhere is %v", yaml, everywhere)
		}
		return name, c.place(route)
	}
	const one = "limit: 5, per: 1s, scope: global"
	for _, c := range []struct {
		other string
		twice bool // counted twice in one chain
	}{
		{"{" + one + "}", true},
		{"{" + one + ", cost: 2, mode: leased}", true},
		{"{" + one + ", name: x}", false},
		{"{" + one + ", key: host}", false},
		{"{limit: 6, per: 1s, scope: global}", false},
		{"{" + one + ", shared: x}", false},
	} {
		name, at := place("{"+one+"}", "r")
		other, there := place(c.other, "s")
		if (name == other) != c.twice || at == there {
			t.Errorf("%s: %q and %q, %q and %q", c.other, name, other, at, there)
		}
	}
	name, at := place("{"+one+", shared: x, name: a}", "r")
	if other, there := place("{"+one+", shared: x, name: b}", "s"); name != other || at != there {
		t.Errorf("%q and %q, %q and %q", name, other, at, there)
	}
	if name, _ := place("{limit: 5, per: 1s}", "r"); name != "" {
		t.Errorf("a local limit counts in %q", name)
	}
}
