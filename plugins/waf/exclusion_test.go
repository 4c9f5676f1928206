package waf_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

// sql is an attack that only rule 942100 finds at level 1, in the argument q.
func sql(m, path, arg string) string {
	return m + " " + path + "?" + arg + "=1%27+OR+%271%27%3D%271 HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: tests\r\nAccept: */*\r\nContent-Length: 0\r\n\r\n"
}

func TestExclusions(t *testing.T) {
	for _, c := range []struct {
		name   string
		x      plugins.WAFExclusion
		passes []string
		blocks []string
	}{
		{
			"rule",
			plugins.WAFExclusion{Rules: []string{"942100"}},
			[]string{sql("GET", "/a", "q"), sql("POST", "/b", "x")},
			nil,
		}, {
			"range",
			plugins.WAFExclusion{Rules: []string{"942000-942199"}},
			[]string{sql("GET", "/a", "q")},
			nil,
		}, {
			"tag",
			plugins.WAFExclusion{Tags: []string{"attack-sqli"}},
			[]string{sql("GET", "/a", "q")},
			[]string{get("/a", "<script>alert(1)</script>")},
		}, {
			"target",
			plugins.WAFExclusion{Rules: []string{"942100"}, Targets: []string{"ARGS:q"}},
			[]string{sql("GET", "/a", "q"), sql("GET", "/a", "Q")},
			[]string{sql("GET", "/a", "r")},
		}, {
			"target by expression",
			plugins.WAFExclusion{Rules: []string{"942100"}, Targets: []string{"ARGS:/^q[0-9]{1,2}$/"}},
			[]string{sql("GET", "/a", "q1"), sql("GET", "/a", "q22")},
			[]string{sql("GET", "/a", "q"), sql("GET", "/a", "q333")},
		}, {
			"target by tag",
			plugins.WAFExclusion{Tags: []string{"attack-sqli"}, Targets: []string{"ARGS:q"}},
			[]string{sql("GET", "/a", "q")},
			[]string{sql("GET", "/a", "r")},
		}, {
			"exact path",
			plugins.WAFExclusion{Rules: []string{"942100"}, Paths: []string{"/search"}},
			[]string{sql("GET", "/search", "q")},
			[]string{sql("GET", "/search/", "q"), sql("GET", "/searchx", "q"), sql("GET", "/x/search", "q")},
		}, {
			"prefix",
			plugins.WAFExclusion{Rules: []string{"942100"}, Paths: []string{"/other", "/api.v1/*"}},
			[]string{sql("GET", "/api.v1/a", "q"), sql("GET", "/api.v1/a/b", "q"), sql("GET", "/other", "q")},
			[]string{sql("GET", "/api.v1", "q"), sql("GET", "/apixv1/a", "q"), sql("GET", "/", "q")},
		}, {
			"method",
			plugins.WAFExclusion{Rules: []string{"942100"}, Methods: []string{"POST", "PUT"}},
			[]string{sql("POST", "/a", "q"), sql("PUT", "/a", "q")},
			[]string{sql("GET", "/a", "q")},
		}, {
			"all four",
			plugins.WAFExclusion{
				Rules: []string{"942100"}, Targets: []string{"ARGS:q"}, Paths: []string{"/a/*"}, Methods: []string{"POST"},
			},
			[]string{sql("POST", "/a/b", "q")},
			[]string{sql("GET", "/a/b", "q"), sql("POST", "/b", "q"), sql("POST", "/a/b", "r")},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			pol := defaultPolicy()
			pol.Exclusions = []plugins.WAFExclusion{c.x}
			p := newInstance(t, pol)
			for _, raw := range c.passes {
				r, info := send(t, p, raw)
				if r.Status != 200 {
					t.Errorf("blocked by %v: %s", info.Rules, firstLine(raw))
				}
			}
			for _, raw := range c.blocks {
				if r, _ := send(t, p, raw); r.Status != 403 {
					t.Errorf("passed: %s", firstLine(raw))
				}
			}
		})
	}
}

func firstLine(raw string) string {
	line, _, _ := strings.Cut(raw, "\r\n")
	return line
}

// The exclusion of a path is for what the path means, not for how it is written.
func TestExclusionsSeeTheNormalisedPath(t *testing.T) {
	pol := defaultPolicy()
	pol.Exclusions = []plugins.WAFExclusion{{Rules: []string{"942100"}, Paths: []string{"/free/*"}}}
	p := newInstance(t, pol)
	hidden := plugintest.Do(t, plugintest.Request{Raw: sql("GET", "/free/..;x/admin", "q"), Path: "/admin"}, p.Handle, plugintest.Upstream)
	refused(t, hidden, reason.WAFBlocked)
	meant := plugintest.Do(t, plugintest.Request{Raw: sql("GET", "/%66ree/a", "q"), Path: "/free/a"}, p.Handle, plugintest.Upstream)
	passes(t, meant)
}

// Two exclusions of the same rule's cookies on two paths must not mix, not
// even where the rule set has given the rule exceptions of its own.
func TestConcurrentExclusionsDoNotMix(t *testing.T) {
	pol := defaultPolicy()
	pol.ParanoiaLevel, pol.DetectionParanoiaLevel, pol.InboundThreshold = 4, 4, 1
	for _, name := range []string{"a", "b"} {
		for _, id := range []string{"942421", "942420", "942100", "942550"} {
			pol.Exclusions = append(pol.Exclusions, plugins.WAFExclusion{
				Rules: []string{id}, Targets: []string{"REQUEST_COOKIES:" + name}, Paths: []string{"/" + name},
			})
		}
	}
	p := newInstance(t, pol)
	has := func(path, cookie string) bool {
		raw := "GET /" + path + " HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: tests\r\nAccept: */*\r\nCookie: " + cookie + "=a'b'c'd'e'f'\r\n\r\n"
		_, info := send(t, p, raw)
		return slices.Contains(info.Rules, 942421)
	}
	if has("a", "a") || !has("a", "b") || has("b", "b") || !has("b", "a") {
		t.Fatal("the exclusions do not work to begin with")
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			path, other := "a", "b"
			if i%2 == 1 {
				path, other = "b", "a"
			}
			for range 25 {
				if has(path, path) || !has(path, other) {
					t.Error("an exclusion of another request was applied")
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestPatches(t *testing.T) {
	pol := defaultPolicy()
	pol.Patches = []plugins.WAFPatch{
		{Name: "one", Rule: `SecRule ARGS:cmd "@streq run" "id:1001,phase:1,deny,status:404,log,msg:'one'"`},
		{Name: "two", Rule: "SecRule REQUEST_FILENAME \"@streq /legacy\" \\\n  \"id:1002,phase:2,deny,log,msg:'two',chain\"\n SecRule ARGS:mode \"@streq raw\" \"t:lowercase\""},
	}
	p := newInstance(t, pol)
	for line, want := range map[string]int{
		"GET /?cmd=run": 404, "GET /?cmd=walk": 200, "GET /legacy?mode=RAW": 403, "GET /legacy?mode=fine": 200, "GET /new?mode=RAW": 200,
	} {
		r, _ := send(t, p, line+" HTTP/1.1\r\nHost: a.test\r\nUser-Agent: tests\r\nAccept: */*\r\n\r\n")
		if r.Status != want {
			t.Errorf("%s: status %d, want %d", line, r.Status, want)
		}
	}
}

func TestPatchesEndOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pol := defaultPolicy()
		pol.CRS = false
		for i, hours := range []int{2, 0, 1} {
			patch := plugins.WAFPatch{
				Name: fmt.Sprintf("p%d", i),
				Rule: fmt.Sprintf(`SecRule ARGS:n "@streq %d" "id:%d,phase:1,deny,log,msg:'p'"`, i, 1001+i),
			}
			if hours > 0 {
				patch.Expires = time.Now().Add(time.Duration(hours) * time.Hour)
			}
			pol.Patches = append(pol.Patches, patch)
		}
		p := newInstance(t, pol)
		active := func() string {
			out := ""
			for i := range 3 {
				r, _ := send(t, p, fmt.Sprintf("GET /?n=%d HTTP/1.1\r\nHost: a.test\r\n\r\n", i))
				if r.Status == 403 {
					out += fmt.Sprint(i)
				}
			}
			return out
		}
		for _, want := range []string{"012", "01", "1", "1"} {
			if got := active(); got != want {
				t.Fatalf("at %v patches %q are active, want %q", time.Now(), got, want)
			}
			time.Sleep(time.Hour - time.Second)
			if got := active(); got != want {
				t.Fatalf("a second before the hour patches %q are active, want %q", got, want)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestRulesAddToTheScore(t *testing.T) {
	pol := defaultPolicy()
	pol.Rules = "# ours\nSecRule ARGS:q \"@contains zebra\" \"id:1,phase:2,pass,log,msg:'zebra',setvar:tx.inbound_anomaly_score_pl1=+%{tx.critical_anomaly_score}\"\n" +
		"SecRuleRemoveById 942100\n"
	p := newInstance(t, pol)
	r, info := send(t, p, get("/", "zebra"))
	refused(t, r, reason.WAFBlocked)
	if info.Score != 5 || !slices.Contains(info.Rules, 1) {
		t.Fatalf("%+v", info)
	}
	r, _ = send(t, p, sql("GET", "/a", "q"))
	passes(t, r)
}
