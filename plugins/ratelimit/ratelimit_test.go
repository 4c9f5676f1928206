package ratelimit

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
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
	h := handler(t, "{limit: 1, per: 1h, headers: false}")
	ask{}.do(t, h)
	if got := headers(ask{}.do(t, h)); got != "429 policy= left= retry=3600" {
		t.Fatal(got)
	}
}

// broken is a store-backed limiter whose store is away.
type broken struct{}

func (broken) Take([]byte, uint32, *ratelimit.Decision) error { return errors.New("store is away") }

func TestALimiterThatCannotDecideRefuses(t *testing.T) {
	c := config(t, "{limit: 1, per: 1s}")
	key, err := attribute.NewKey(c.key())
	if err != nil {
		t.Fatal(err)
	}
	p := newPlugin(c, plugins.Settings{}, key, broken{}, price, c.windows())
	if r := (ask{}).do(t, p.Handle); r.Status != 429 || r.Refusal.Detail != "store is away" {
		t.Fatalf("%d %v", r.Status, r.Refusal)
	}
}

func TestBadConfig(t *testing.T) {
	for yaml, want := range map[string]string{
		"{}":                             "limit: must be at least 1, got 0; or give windows",
		"{limit: 5}":                     "per: must be at least 1ms, got 0s",
		"{limit: -1, per: 1s}":           "limit: must be at least 0, got -1",
		"{limit: 5, per: 1}":             "per: must be a duration",
		"{limit: 5, per: 1s, burst: -1}": "burst: must be at least 0",
		"{limit: 5, per: 1s, windows: [{limit: 1, per: 1s}]}": "limit: cannot be given beside windows",
		"{windows: [{per: 1s}]}":                              "windows[0].limit: ",
		"{windows: [{limit: 1}]}":                             "windows[0].per: ",
		"{limit: 5, per: 1s, key: ip}":                        "key: unknown attribute \"ip\"; known: client_ip",
		"{limit: 5, per: 1s, key: 'client_ip,,route'}":        "key: unknown attribute \"\"",
		"{limit: 5, per: 1s, cost: 6}":                        "cost: 6 can never be granted by a burst of 5",
		"{limit: 5, per: 1s, cost: 0}":                        "cost: must be from 1",
		"{limit: 5, per: 1s, name: 'a\"b'}":                   "name: must be printable ASCII",
		"{limit: 5, per: 1s, name: ''}":                       "name: must not be empty",
		"{limit: 5, per: 1s, ipv6_prefix: 129}":               "ipv6_prefix: must be from 1 to 128",
		"{limit: 5, per: 1s, missing_key: allow}":             "missing_key: must be refuse, share or skip",
		"{limit: 1, per: 7d, burst: 1000000}":                 "50 years",
		"{limit: 9000000000, per: 1s}":                        "one unit a nanosecond",
		"{limit: 5, per: 1s, rate: 3}":                        "rate: ",
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
