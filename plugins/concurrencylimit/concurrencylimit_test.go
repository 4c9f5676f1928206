package concurrencylimit

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func start(t testing.TB, yaml string) *plugin {
	t.Helper()
	c := new(Config)
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	i, err := Factory(nil).New(c, plugins.Settings{Route: plugins.Route{Name: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	return i.(*plugin)
}

func get(head string) string { return "GET / HTTP/1.1\r\nHost: a.test\r\n" + head + "\r\n" }

// blocking is an upstream whose requests end when told.
type blocking struct {
	inside atomic.Int64
	most   atomic.Int64
	end    chan struct{}
}

func (b *blocking) handle(c *fiber.Ctx) error {
	n := b.inside.Add(1)
	for m := b.most.Load(); n > m && !b.most.CompareAndSwap(m, n); m = b.most.Load() {
	}
	<-b.end
	b.inside.Add(-1)
	return plugintest.Upstream(c)
}

func TestOnlySoManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, "{limit: 2, retry_after: 1500ms}")
		up := &blocking{end: make(chan struct{})}
		for range 2 {
			go plugintest.Do(t, plugintest.Request{Raw: get("")}, p.Handle, up.handle)
		}
		synctest.Wait()
		r := plugintest.Do(t, plugintest.Request{Raw: get("")}, p.Handle, up.handle)
		if r.Status != 503 || r.Refusal.Reason != reason.ConcurrencyLimited || string(r.Header.Peek("Retry-After")) != "2" {
			t.Errorf("%d %v, Retry-After %s", r.Status, r.Refusal, r.Header.Peek("Retry-After"))
		}
		close(up.end)
		synctest.Wait()
		if r := plugintest.Do(t, plugintest.Request{Raw: get("")}, p.Handle, up.handle); r.Status != 200 {
			t.Errorf("with nothing in flight: %d", r.Status)
		}
		if n := len(p.gates.shards[0].gates); n != 0 {
			t.Errorf("%d keys are known with nothing in flight", n)
		}
	})
}

func TestAPlaceIsHeldUntilTheReplyIsWritten(t *testing.T) {
	p := start(t, "{limit: 1}")
	during := -1
	plugintest.Do(t, plugintest.Request{Raw: get(""), After: func(*exchange.Exchange) { during = p.gates.inFlight(0) }},
		p.Handle, func(c *fiber.Ctx) error {
			return c.SendStream(strings.NewReader("a stream"))
		})
	if after := p.gates.inFlight(0); during != 1 || after != 0 {
		t.Fatalf("in flight: %d before the exchange ended, want 1; %d after, want 0", during, after)
	}
}

func TestAPanicGivesThePlaceBack(t *testing.T) {
	p := start(t, "{limit: 1}")
	panics := 0
	run := pipeline.New(func(*exchange.Exchange, any, []byte) { panics++ })
	for range 3 {
		var ctx fasthttp.RequestCtx
		e := exchange.Acquire(&ctx, nil, nil)
		e.Route = &exchange.Route{Name: "r", Steps: make([]string, 2), Chain: []fiber.Handler{
			p.Handle, func(*fiber.Ctx) error { panic("at the disco") },
		}}
		run(&ctx)
		ctx.ResetUserValues()
	}
	if panics != 3 || p.gates.inFlight(0) != 0 {
		t.Fatalf("%d panics, want 3; %d in flight, want 0", panics, p.gates.inFlight(0))
	}
}

func TestQueueIsServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, "{limit: 1, queue: 3, max_wait: 10s}")
		up := &blocking{end: make(chan struct{})}
		var mu sync.Mutex
		var order []int
		var statuses []int
		for i := range 5 {
			go func() {
				r := plugintest.Do(t, plugintest.Request{Raw: get("")}, p.Handle, func(c *fiber.Ctx) error {
					mu.Lock()
					order = append(order, i)
					mu.Unlock()
					return up.handle(c)
				})
				mu.Lock()
				statuses = append(statuses, r.Status)
				mu.Unlock()
			}()
			synctest.Wait()
		}
		if !slices.Equal(statuses, []int{503}) {
			t.Fatalf("one in flight and three in the queue, the fifth got %v", statuses)
		}
		for range 4 {
			time.Sleep(time.Second)
			up.end <- struct{}{}
			synctest.Wait()
		}
		if !slices.Equal(order, []int{0, 1, 2, 3}) || !slices.Equal(statuses, []int{503, 200, 200, 200, 200}) || up.most.Load() != 1 {
			t.Fatalf("order %v, statuses %v, at most %d at once", order, statuses, up.most.Load())
		}
	})
}

func TestWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, "{limit: 1, queue: 2, max_wait: 2s}")
		up := &blocking{end: make(chan struct{})}
		go plugintest.Do(t, plugintest.Request{Raw: get("")}, p.Handle, up.handle)
		synctest.Wait()
		began := time.Now()
		r := plugintest.Do(t, plugintest.Request{Raw: get("")}, p.Handle, up.handle)
		if took := time.Since(began); r.Status != 503 || took != 2*time.Second || !strings.Contains(r.Refusal.Detail, "waited 2s") {
			t.Errorf("%d after %v: %v", r.Status, took, r.Refusal)
		}
		deadline := func(e *exchange.Exchange) { e.Deadline = time.Now().Add(time.Second) }
		began = time.Now()
		r = plugintest.Do(t, plugintest.Request{Raw: get(""), Edit: deadline}, p.Handle, up.handle)
		if took := time.Since(began); r.Refusal.Reason != reason.RequestTimeout || took != time.Second {
			t.Errorf("deadline: %v after %v", r.Refusal, took)
		}
		close(up.end)
		synctest.Wait()
		if p.gates.inFlight(0) != 0 || len(p.gates.shards[0].gates) != 0 {
			t.Error("something is left")
		}
	})
}

func TestKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		config string
		first  string
		then   map[string]int
	}{
		"client":  {"key: client_ip", "", map[string]int{"": 503}},
		"header":  {"key: header.X", "X: 1\r\n", map[string]int{"X: 1\r\n": 503, "X: 2\r\n": 200, "": 200}},
		"shared":  {"key: header.X", "", map[string]int{"X: 1\r\n": 200, "": 503}},
		"skipped": {"key: header.X, missing_key: skip", "", map[string]int{"": 200}},
		"refused": {"key: header.X, missing_key: refuse", "X: 1\r\n", map[string]int{"": 503, "X: 2\r\n": 200}},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "{limit: 1, "+tc.config+"}")
			plugintest.Do(t, plugintest.Request{Raw: get(tc.first)}, p.Handle, func(c *fiber.Ctx) error {
				for head, want := range tc.then {
					if r := plugintest.Do(t, plugintest.Request{Raw: get(head)}, p.Handle, plugintest.Upstream); r.Status != want {
						t.Errorf("beside %q, %q got %d, want %d", tc.first, head, r.Status, want)
					}
				}
				return plugintest.Upstream(c)
			})
			for i := range p.gates.shards {
				if n := len(p.gates.shards[i].gates); n != 0 {
					t.Errorf("%d keys are known with nothing in flight", n)
				}
			}
		})
	}
}

func TestManyRequestsNeverPassTheLimit(t *testing.T) {
	p := start(t, "{limit: 3, queue: 100, max_wait: 1m, key: header.X}")
	var inside, most [2]atomic.Int64
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			k := i % 2
			for range 25 {
				r := plugintest.Do(t, plugintest.Request{Raw: get(fmt.Sprintf("X: %d\r\n", k))}, p.Handle, func(c *fiber.Ctx) error {
					n := inside[k].Add(1)
					for m := most[k].Load(); n > m && !most[k].CompareAndSwap(m, n); m = most[k].Load() {
					}
					defer inside[k].Add(-1)
					return plugintest.Upstream(c)
				})
				if r.Status != 200 {
					t.Errorf("%d %v", r.Status, r.Refusal)
				}
			}
		})
	}
	wg.Wait()
	for k := range most {
		if most[k].Load() > 3 {
			t.Errorf("key %d: %d at once", k, most[k].Load())
		}
	}
}

// backend is a service that answers in base while at most capacity requests
// are there, and proportionally slower beyond.
func backend(inFlight int, base time.Duration, capacity int) time.Duration {
	return base * time.Duration(max(capacity, inFlight)) / time.Duration(capacity)
}

func TestAdaptiveLimitFindsTheCapacity(t *testing.T) {
	p := start(t, "{limit: 20, adaptive: {min: 4, max: 500, interval: 100ms}}")
	now := int64(0)
	drive := func(intervals, capacity, offered int) int64 {
		for range intervals {
			now += int64(100 * time.Millisecond)
			n := min(offered, int(p.limit.Load()))
			for range 20 {
				p.learn.observe(now, backend(n, 10*time.Millisecond, capacity), n)
			}
		}
		return p.limit.Load()
	}
	if l := drive(300, 100, 10_000); l < 100 || l > 220 {
		t.Errorf("capacity 100, unlimited demand: the limit is %d, want 100 to 220", l)
	}
	if l := drive(60, 30, 10_000); l < 20 || l > 120 {
		t.Errorf("capacity fell to 30: the limit is %d, want 20 to 120", l)
	}
	if l := drive(600, 1000, 10_000); l != 500 {
		t.Errorf("capacity 1000: the limit is %d, want the maximum 500", l)
	}
	before := p.limit.Load()
	if l := drive(300, 1000, 3); l != before {
		t.Errorf("with hardly any traffic the limit moved from %d to %d", before, l)
	}
	if l := drive(300, 1, 10_000); l < 4 || l > 40 {
		t.Errorf("capacity 1: the limit is %d, want 4 to 40", l)
	}
}

func TestOnlyUpstreamAnswersTeach(t *testing.T) {
	p := start(t, "{limit: 20, adaptive: {}}")
	ask := func(h fiber.Handler) int {
		plugintest.Do(t, plugintest.Request{Raw: get("")}, p.Handle, h)
		return p.learn.count
	}
	if n := ask(plugintest.Upstream); n != 1 {
		t.Errorf("an answer: %d samples, want 1", n)
	}
	if n := ask(func(*fiber.Ctx) error { return reason.UpstreamConnect }); n != 1 {
		t.Errorf("a refused connection: %d samples, want 1", n)
	}
	if n := ask(func(*fiber.Ctx) error { return reason.UpstreamTimeout }); n != 2 {
		t.Errorf("a timeout: %d samples, want 2", n)
	}
}

func TestBadConfig(t *testing.T) {
	for yaml, want := range map[string]string{
		"{}":                                       "limit: ",
		"{limit: 0}":                               "limit: must be from 1",
		"{limit: 1, key: ip}":                      "key: unknown attribute",
		"{limit: 1, queue: -1}":                    "queue: must be from 0",
		"{limit: 1, max_wait: 0s}":                 "max_wait: must be from 1ms",
		"{limit: 1, missing_key: x}":               "missing_key: must be refuse, share or skip",
		"{limit: 1, adaptive: {}}":                 "limit: must be between adaptive.min (5)",
		"{limit: 9, adaptive: {min: 10, max: 9}}":  "adaptive.min: must be at most max (9)",
		"{limit: 9, key: client_ip, adaptive: {}}": "adaptive: needs key: route",
		"{limit: 9, adaptive: {tolerance: 0.5}}":   "adaptive.tolerance: must be from 1",
		"{limit: 9, adaptive: {interval: 1ms}}":    "adaptive.interval: must be from 10ms",
		"{limit: 1, max: 3}":                       "max: ",
	} {
		if err := strict.Unmarshal([]byte(yaml), new(Config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
	}
}

func TestEnteringAndLeavingDoNotAllocate(t *testing.T) {
	for _, yaml := range []string{"{limit: 5}", "{limit: 5, key: client_ip}", "{limit: 5, adaptive: {}}"} {
		p := start(t, yaml)
		e := new(exchange.Exchange)
		if n := testing.AllocsPerRun(1000, func() {
			if p.gates.enter(e, 42) != entered {
				t.Error("refused")
			}
			p.gates.leave(42)
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", yaml, n)
		}
	}
}

func BenchmarkEnterLeave(b *testing.B) {
	for _, yaml := range []string{"{limit: 5}", "{limit: 5, key: client_ip}"} {
		b.Run(yaml, func(b *testing.B) {
			p := start(b, yaml)
			e := new(exchange.Exchange)
			b.ReportAllocs()
			for b.Loop() {
				p.gates.enter(e, 42)
				p.gates.leave(42)
			}
		})
	}
}
