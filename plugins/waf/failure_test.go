package waf_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corazaplugins "github.com/corazawaf/coraza/v3/experimental/plugins"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/plugins/waf"
	engine "github.com/gatehouse-proxy/gatehouse/waf"
)

// explode is an operator that panics on "boom".
type explode struct{}

func (explode) Evaluate(_ plugintypes.TransactionState, value string) bool {
	if value == "boom" {
		panic("the operator exploded")
	}
	return false
}

var registerExplode = sync.OnceFunc(func() {
	corazaplugins.RegisterOperator("explode", func(plugintypes.OperatorOptions) (plugintypes.Operator, error) {
		return explode{}, nil
	})
})

func TestPanicFailsClosed(t *testing.T) {
	registerExplode()
	bodyBoom := "a=boom"
	for _, c := range []struct {
		name, mode string
		open       bool
		phase      int
		raw        string
		status     int
	}{
		{"head", "block", false, 1, get("/", "boom"), 503},
		{"body", "block", false, 2, post("application/x-www-form-urlencoded", bodyBoom), 503},
		{"reply", "block", false, 3, get("/", "boom"), 503},
		{"reply body", "block", false, 4, get("/", "boom"), 503},
		{"open", "block", true, 2, get("/", "boom"), 200},
		{"detect", "detect", false, 2, get("/", "boom"), 200},
		{"logging", "block", false, 5, get("/", "boom"), 200}, // the decision was made before
	} {
		t.Run(c.name, func(t *testing.T) {
			pol := defaultPolicy()
			pol.Mode, pol.FailOpen = c.mode, c.open
			pol.CRS = c.name == "body" // takes seconds to build, and changes nothing else
			pol.Rules = fmt.Sprintf(`SecRule ARGS "@explode" "id:1,phase:%d,pass,nolog"`, c.phase)
			p := newInstance(t, pol)
			for range 3 {
				r, _ := send(t, p, c.raw)
				if r.Status != c.status {
					t.Fatalf("status %d, %v", r.Status, r.Refusal)
				}
				if c.status == 503 {
					refused(t, r, reason.WAFFailed)
				}
				r, _ = send(t, p, get("/", "chair"))
				passes(t, r)
			}
			if log := p.log.String(); c.phase < 5 && (!strings.Contains(log, "could not be inspected") || !strings.Contains(log, "exploded")) {
				t.Fatalf("log: %s", log)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	p := newInstance(t, defaultPolicy())
	send(t, p, get("/", "chair"))
	send(t, p, get("/", "chair"))
	send(t, p, sql("GET", "/", "q"))
	want := []string{
		`gatehouse_waf_engines{} 1`,
		`gatehouse_waf_requests_total{action="blocked",policy="default",route="test"} 1`,
		`gatehouse_waf_requests_total{action="passed",policy="default",route="test"} 2`,
		`gatehouse_waf_rule_hits_total{rule="942100"} 1`,
		`gatehouse_waf_rule_hits_total{rule="949110"} 1`,
		`gatehouse_waf_rule_hits_total{rule="980170"} 1`,
		`gatehouse_waf_inspection_seconds{policy="default"} 3`,
	}
	got := p.samples(t)
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s is missing", line)
		}
	}
	if t.Failed() || len(got) != len(want) {
		t.Fatalf("samples:\n%s", strings.Join(got, "\n"))
	}
}

// samples are the metrics as text; of a histogram, its count.
func (p *instance) samples(t testing.TB) []string {
	t.Helper()
	families, err := p.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			out = append(out, fmt.Sprintf("%s{%s} %v", f.GetName(), strings.Join(labels, ","), v))
		}
	}
	return out
}

// The node's log gets a few lines of an attack, the event log all of it.
func TestAttackDoesNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newInstance(t, defaultPolicy())
		for second := 1; second <= 2; second++ {
			for range 30 {
				send(t, p, sql("GET", "/", "q"))
			}
			if n := len(p.sink.all()); n != 30*second {
				t.Errorf("%d events", n)
			}
			if n := strings.Count(p.log.String(), "level=WARN"); n != 10*second {
				t.Errorf("%d lines, want ten a second", n)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestCredentialsAreMasked(t *testing.T) {
	pol := defaultPolicy()
	pol.ParanoiaLevel, pol.DetectionParanoiaLevel, pol.Mode = 4, 4, "detect"
	p := newInstance(t, pol)
	const secret = "1' OR '1'='1 hunter2"
	const enc = "1%27+OR+%271%27%3D%271+hunter2"
	json := `{"user":{"password":"` + secret + `"},"api_key":"` + secret + `"}`
	for _, raw := range []string{
		"GET /?password=" + enc + "&token=" + enc + " HTTP/1.1\r\nHost: a.test\r\nUser-Agent: t\r\nAccept: */*\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: t\r\nAccept: */*\r\nCookie: sid=" + secret + "\r\nAuthorization: Bearer " + secret + "\r\nX-Api-Key: " + secret + "\r\n\r\n",
		post("application/x-www-form-urlencoded", "client_secret="+enc),
		post("application/json", json),
	} {
		p.sink.reset()
		p.log.Reset()
		send(t, p, raw)
		events := p.sink.all()
		if len(events) != 1 || len(events[0].Matches) == 0 {
			t.Fatalf("nothing was found in %q", raw)
		}
		for _, f := range []engine.Format{engine.JSON, engine.ModSecurity} {
			line := string(f.Append(nil, events[0])) + p.log.String()
			if strings.Contains(line, "hunter2") {
				t.Errorf("a credential is in the log: %s", line)
			}
			if !strings.Contains(line, "[masked]") {
				t.Errorf("nothing is masked: %s", line)
			}
		}
	}
}

// Config changes come while requests are under way: each request is finished
// by the engine it began with, and every engine is closed in the end.
func TestHotSwap(t *testing.T) {
	pool := engine.NewPool()
	f := waf.Factory(pool, &sink{})
	build := func(i int) plugins.Instance {
		pol := defaultPolicy()
		pol.CRS = i%3 == 0 // others are quick to build
		pol.Rules = fmt.Sprintf(`SecRule ARGS:q "@streq bad" "id:%d,phase:2,deny,log,msg:'bad'"`, 1+i%5)
		inst, err := f.New(&waf.Config{Policy: "default"}, plugins.Settings{WAF: map[string]plugins.WAFPolicy{"default": pol}})
		if err != nil {
			t.Error(err)
		}
		return inst
	}
	type revision struct {
		inst plugins.Instance
		use  sync.WaitGroup
	}
	var mu sync.RWMutex
	current := &revision{inst: build(0)}
	var stop atomic.Bool
	var served atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				mu.RLock()
				r := current
				r.use.Add(1)
				mu.RUnlock()
				good := plugintest.Do(t, plugintest.Request{Raw: get("/", "chair")}, r.inst.Handle, plugintest.Upstream)
				bad := plugintest.Do(t, plugintest.Request{Raw: get("/", "bad")}, r.inst.Handle, plugintest.Upstream)
				r.use.Done()
				if good.Status != 200 || bad.Status != 403 {
					t.Errorf("status %d and %d", good.Status, bad.Status)
					return
				}
				served.Add(1)
			}
		})
	}
	for i := 1; i <= 12; i++ {
		next := &revision{inst: build(i)}
		mu.Lock()
		old := current
		current = next
		mu.Unlock()
		old.use.Wait()
		if err := old.inst.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	for served.Load() == 0 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	if err := current.inst.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if pool.Len() != 0 || served.Load() == 0 {
		t.Fatalf("%d engines left, %d requests", pool.Len(), served.Load())
	}
}
