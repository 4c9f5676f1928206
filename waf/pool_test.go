package waf

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/plugins"
)

func testPolicy() plugins.WAFPolicy {
	return plugins.WAFPolicy{
		Name: "default", Mode: "block", CRS: true, ParanoiaLevel: 1, DetectionParanoiaLevel: 1,
		InboundThreshold: 5, OutboundThreshold: 4, RequestBodyLimit: 1 << 20, BodyOverLimit: "reject",
		ResponseBodyLimit: 512 << 10,
	}
}

// small is a policy that compiles at once.
func small(rules string) plugins.WAFPolicy {
	p := testPolicy()
	p.CRS, p.Rules = false, rules
	return p
}

func guard(t testing.TB, pool *Pool, p plugins.WAFPolicy) *Guard {
	t.Helper()
	g, err := pool.Guard(p, plugins.Route{})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestEqualRulesShareAnEngine(t *testing.T) {
	pool := NewPool()
	a, b := small(""), small("# only a comment\n")
	b.Name, b.FailOpen, b.AllowedMethods = "other", true, []string{"GET"}
	c := small("")
	c.Mode = "detect"
	var all []*Guard
	for i, p := range []plugins.WAFPolicy{a, b, a, c} {
		all = append(all, guard(t, pool, p))
		if want := 1 + i/3; pool.Len() != want {
			t.Fatalf("%d engines after %d policies, want %d", pool.Len(), i+1, want)
		}
	}
	if all[0].engine != all[1].engine || all[0].engine == all[3].engine {
		t.Fatal("the wrong engines are shared")
	}
	for _, g := range all {
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if pool.Len() != 0 {
		t.Fatalf("%d engines left", pool.Len())
	}
}

func TestEngineIsBuiltOnceByConcurrentUsers(t *testing.T) {
	pool := NewPool()
	var mu sync.Mutex
	engines := map[*engine]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			g, err := pool.Guard(small(`SecAction "id:1,phase:1,pass,nolog"`), plugins.Route{})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			engines[g.engine] = true
		})
	}
	wg.Wait()
	if len(engines) != 1 || pool.Len() != 1 {
		t.Fatalf("%d engines, %d in the pool", len(engines), pool.Len())
	}
}

func TestBrokenRulesLeaveNothingBehind(t *testing.T) {
	pool := NewPool()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_, err := pool.Guard(small("SecRule ARGS \"@rx (\" \"id:1,phase:1,deny\""), plugins.Route{})
			if err == nil || !strings.HasPrefix(err.Error(), "waf.policies.default.rules: line 1: ") {
				t.Errorf("error %v", err)
			}
		})
	}
	wg.Wait()
	if pool.Len() != 0 {
		t.Fatalf("%d engines left", pool.Len())
	}
}

func TestInspectionOutlivesItsEngine(t *testing.T) {
	pool := NewPool()
	g := guard(t, pool, small(`SecRule ARGS:q "@streq bad" "id:1,phase:2,deny,log,msg:'m'"`))
	i := g.Begin()
	r := Request{Protocol: "HTTP/1.1", Method: "GET", Target: "/?q=bad", Path: "/"}
	if v := i.Head(&r); v.Action != Pass {
		t.Fatalf("%+v", v)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if v := i.Body(nil, true); v.Action != Deny || v.Rule != 1 {
		t.Fatalf("%+v", v)
	}
	if out := i.End(); len(out.Matches) != 1 || !out.Blocks {
		t.Fatalf("%+v", out)
	}
	if out := i.End(); out.Matches != nil {
		t.Fatalf("the second End: %+v", out)
	}
}

// reload is a config with so many routes in so many policies, reloaded so many
// times, each time with another rule in every policy. It returns how much the
// heap grew from the third reload to the last.
func reload(t *testing.T, policies, routes, times int, crs bool) int64 {
	t.Helper()
	pool := NewPool()
	var old []*Guard
	var first int64
	for n := range times {
		var next []*Guard
		for r := range routes {
			p := small(fmt.Sprintf(`SecRule ARGS "@rx ^x%d-%d[a-z]+$" "id:%d,phase:2,deny,log,msg:'m'"`, n, r%policies, 1+r%policies))
			p.CRS = crs
			next = append(next, guard(t, pool, p))
		}
		if want := policies + len(distinct(old)); pool.Len() != want {
			t.Fatalf("reload %d: %d engines, want %d", n, pool.Len(), want)
		}
		closeAll(t, old)
		old = next
		if n == 2 {
			first = heap()
		}
	}
	grown := heap() - first
	closeAll(t, old)
	if pool.Len() != 0 {
		t.Fatalf("%d engines left", pool.Len())
	}
	return grown
}

func distinct(list []*Guard) map[*engine]bool {
	out := map[*engine]bool{}
	for _, g := range list {
		out[g.engine] = true
	}
	return out
}

func closeAll(t *testing.T, list []*Guard) {
	t.Helper()
	for _, g := range list {
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func heap() int64 {
	for range 3 { // pools need two collections to be empty
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestReloadsKeepMemoryFlat(t *testing.T) {
	if grown := reload(t, 5, 40, 30, false); grown > 1<<20 {
		t.Fatalf("the heap grew by %d KiB", grown>>10)
	}
}

// TestEngineMemory holds an engine to what the program as a whole may take.
func TestEngineMemory(t *testing.T) {
	before := heap()
	began := time.Now()
	pool := NewPool()
	g := guard(t, pool, testPolicy())
	took := time.Since(began)
	one := heap() - before
	p := testPolicy()
	p.ParanoiaLevel, p.DetectionParanoiaLevel = 2, 2
	g2 := guard(t, pool, p)
	two := heap() - before - one
	t.Logf("first engine %.1f MB in %v, next %.1f MB", float64(one)/1e6, took.Round(time.Millisecond), float64(two)/1e6)
	if one > 30e6 || two > 10e6 {
		t.Errorf("engines take %d and %d bytes", one, two)
	}
	runtime.KeepAlive(g)
	closeAll(t, []*Guard{g, g2})
	if left := heap() - before; left > 2e6 {
		t.Errorf("%d bytes are left after the engines were closed", left)
	}
}

func TestCheckCompilesPoliciesThatAreOff(t *testing.T) {
	pool := NewPool()
	p := small("SecNonsense x")
	p.Mode = "off"
	if err := pool.Check(p); err == nil || !strings.Contains(err.Error(), "SecNonsense") {
		t.Fatal(err)
	}
	p.Rules = ""
	if err := pool.Check(p); err != nil || pool.Len() != 0 {
		t.Fatal(err, pool.Len())
	}
}

func TestDefaultsOfRoutes(t *testing.T) {
	p := testPolicy()
	for _, c := range []struct {
		policy, route []string
		want          string
	}{
		{nil, nil, "GET HEAD POST PUT PATCH DELETE OPTIONS"},
		{nil, []string{"GET", "REPORT"}, "GET REPORT"},
		{[]string{"PUT"}, []string{"GET"}, "PUT"},
	} {
		p.AllowedMethods = c.policy
		g := newGuard(&p, plugins.Route{Methods: c.route}, false)
		if got := strings.Join(g.methods, ","); got != c.want {
			t.Errorf("%v and %v: %q", c.policy, c.route, got)
		}
		if len(g.types) != 1 || !strings.Contains(g.types[0], "|application/json| |application/problem+json|") {
			t.Errorf("types %q", g.types)
		}
	}
	if !slices.Contains(responseTypes(&p), "text/html") || newGuard(&p, plugins.Route{}, false).WantsReplyBody("text/html") {
		t.Error("reply types")
	}
}
