package quota

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// fleet answers as a test wants.
type fleet struct {
	ratelimit.Fleet
	settings ratelimit.QuotaSettings
	used     ratelimit.Used
	asked    string
}

func (f *fleet) Quota(s ratelimit.QuotaSettings) (ratelimit.Quota, error) {
	f.settings = s
	return f, nil
}

func (f *fleet) Take(who string, a ratelimit.Allowance, cost uint32, u *ratelimit.Used) {
	f.asked, *u = fmt.Sprintf("%s %d/%d %d", who, a.Day, a.Month, cost), f.used
}

func instance(t testing.TB, f ratelimit.Fleet, yaml string) plugins.Instance {
	t.Helper()
	c := new(Config)
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	p, err := Factory(f).New(c, plugins.Settings{Route: plugins.Route{Name: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ask(t testing.TB, p plugins.Instance, who *exchange.Consumer) plugintest.Reply {
	t.Helper()
	return plugintest.Do(t, plugintest.Request{
		Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nX-Cost: 7\r\n\r\n", Edit: func(e *exchange.Exchange) { e.Identity.Consumer = who },
	}, p.Handle, plugintest.Upstream)
}

func said(r plugintest.Reply) string {
	return fmt.Sprintf("%d %s | %s | %s", r.Status, r.Header.Peek("RateLimit-Policy"), r.Header.Peek("RateLimit"), r.Header.Peek("Retry-After"))
}

const plans = "plans: {gold: {day: 100, month: 2000}, free: {day: 10}, monthly: {month: 50}}"

func TestPlans(t *testing.T) {
	f := &fleet{used: ratelimit.Used{Allowed: true, Remaining: 93, Reset: time.Hour}}
	p := instance(t, f, "{"+plans+", default_plan: free, name: api, time_zone: Europe/Berlin, cost_from: {header: X-Cost}, mode: exact, on_store_failure: open}")
	if s := f.settings; s.Name != "api" || s.Leased || s.OnFailure != ratelimit.LetPass || s.Location.String() != "Europe/Berlin" {
		t.Errorf("%+v", s)
	}
	for plan, want := range map[string][2]string{
		"gold":    {"ann 100/2000 7", `200 "api-day";q=100;w=86400, "api-month";q=2000;w=2592000 | "api-day";r=93;t=3600 | `},
		"monthly": {"ann 0/50 7", `200 "api-month";q=50;w=2592000 | "api-day";r=93;t=3600 | `},
		"":        {"ann 10/0 7", `200 "api-day";q=10;w=86400 | "api-day";r=93;t=3600 | `},
		"other":   {"ann 10/0 7", `200 "api-day";q=10;w=86400 | "api-day";r=93;t=3600 | `},
	} {
		if r := ask(t, p, &exchange.Consumer{Name: "ann", Plan: plan}); said(r) != want[1] || f.asked != want[0] {
			t.Errorf("plan %q: %s, asked %s", plan, said(r), f.asked)
		}
	}
}

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		yaml string
		used ratelimit.Used
		who  string // plan; "-": nobody
		want string
		why  *reason.Reason
	}{
		{"", ratelimit.Used{Month: true, Reset: 90*time.Second + 1}, "monthly", `429 "default-month";q=50;w=2592000 | "default-month";r=0;t=91 | 91`, reason.QuotaExceeded},
		{", headers: false", ratelimit.Used{Reset: time.Second}, "monthly", "429  |  | 1", reason.QuotaExceeded},
		{", headers: false", ratelimit.Used{Allowed: true}, "monthly", "200  |  | ", nil},
		{"", ratelimit.Used{Source: ratelimit.Closed}, "gold", "503  |  | ", reason.LimitUnavailable},
		{"", ratelimit.Used{Allowed: true, Source: ratelimit.Open}, "gold", "200  |  | ", nil},
		{"", ratelimit.Used{Allowed: true}, "none", "429  |  | ", reason.QuotaExceeded},
		{"", ratelimit.Used{Allowed: true}, "-", "429  |  | ", reason.QuotaExceeded},
		{", anonymous: skip", ratelimit.Used{}, "-", "200  |  | ", nil},
	} {
		who := &exchange.Consumer{Name: "ann", Plan: c.who}
		if c.who == "-" {
			who = nil
		}
		r := ask(t, instance(t, &fleet{used: c.used}, "{"+plans+c.yaml+"}"), who)
		if said(r) != c.want || (r.Refusal == nil) != (c.why == nil) || c.why != nil && r.Refusal.Reason != c.why {
			t.Errorf("%s %+v: %s, %v", c.yaml, c.used, said(r), r.Refusal)
		}
	}
	if r := ask(t, instance(t, nil, "{"+plans+"}"), &exchange.Consumer{Name: "ann", Plan: "gold"}); r.Status != 503 {
		t.Errorf("without anybody who counts: %d", r.Status)
	}
}

func TestBadConfig(t *testing.T) {
	for yaml, want := range map[string]string{
		"{}":                               "plans: ",
		"{plans: {}}":                      "plans: must not be empty",
		"{plans: {a: {}}}":                 "plans.a: needs day, month or both",
		"{plans: {a: {day: 5, month: 4}}}": "plans.a.day: must be at most month (4), got 5",
		"{plans: {a: {day: -1}}}":          "plans.a.day: ",
		"{plans: {a: {day: 5}}, default_plan: b}":                 "default_plan: ",
		"{plans: {a: {day: 5}}, time_zone: Mars/Olympus}":         `time_zone: "Mars/Olympus" is not in the IANA database`,
		"{plans: {a: {day: 5}}, time_zone: Local}":                "time_zone: must be a name that means the same",
		"{plans: {a: {day: 5}}, cost: 6}":                         "cost: 6 can never be granted by a plan of 5",
		"{plans: {a: {day: 5}}, cost: 2, cost_from: {header: X}}": "cost: cannot be given beside cost_from",
		"{plans: {a: {day: 5}}, cost_from: {}}":                   "cost_from: needs either header or expression",
		"{plans: {a: {day: 5}}, name: ''}":                        "name: must not be empty",
		"{plans: {a: {day: 5}}, mode: fast}":                      "mode: must be leased or exact",
	} {
		if err := strict.Unmarshal([]byte(yaml), new(Config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
	}
}

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(nil), plugintest.Options{
		Good: []string{
			"{" + plans + ", anonymous: skip}",
			"{plans: {a: {month: 5}}, default_plan: a, time_zone: America/New_York, mode: exact, on_store_failure: closed, headers: false, name: x, cost_from: {expression: '2'}}",
		},
		Bad: []plugintest.Bad{{YAML: "{plans: {a: {}}}", Want: "needs day, month or both"}},
	})
}
