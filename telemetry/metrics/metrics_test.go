package metrics_test

import (
	"bytes"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

func scrape(t testing.TB, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("scrape: status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func want(t *testing.T, page string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(page, l+"\n") {
			t.Errorf("missing %q in:\n%s", l, grep(page, l))
		}
	}
}

func grep(page, like string) string {
	name, _, _ := strings.Cut(like, "{")
	var out []string
	for _, l := range strings.Split(page, "\n") {
		if strings.HasPrefix(l, name) {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

func TestRoute(t *testing.T) {
	m := metrics.New(metrics.Settings{Version: "v1"})
	r := m.Route("users")
	r.Record(200, 3*time.Millisecond, 10, 1000)
	r.Record(200, 5*time.Millisecond, 0, 500)
	r.Record(218, 2*time.Minute, 1, 1)
	r.Record(-1, time.Millisecond, 0, 0)
	r.Record(70000, 0, 0, 0)
	m.Route("silent")
	page := scrape(t, m)
	want(t, page,
		`gatehouse_route_requests_total{code="200",route="users"} 2`,
		`gatehouse_route_requests_total{code="2xx",route="users"} 1`,
		`gatehouse_route_requests_total{code="unknown",route="users"} 2`,
		`gatehouse_route_request_duration_seconds_bucket{route="users",le="0.0005"} 1`,
		`gatehouse_route_request_duration_seconds_bucket{route="users",le="0.001"} 2`,
		`gatehouse_route_request_duration_seconds_bucket{route="users",le="0.005"} 4`,
		`gatehouse_route_request_duration_seconds_bucket{route="users",le="60"} 4`,
		`gatehouse_route_request_duration_seconds_bucket{route="users",le="+Inf"} 5`,
		`gatehouse_route_request_duration_seconds_sum{route="users"} 120.009`,
		`gatehouse_route_request_body_bytes_total{route="users"} 11`,
		`gatehouse_route_response_body_bytes_total{route="users"} 1501`,
		`gatehouse_build_info{go_version="`+goVersion(page)+`",version="v1"} 1`,
	)
	if strings.Contains(page, "silent") {
		t.Error("a route that was never asked for has series")
	}
}

func goVersion(page string) string {
	return regexp.MustCompile(`go_version="([^"]+)"`).FindStringSubmatch(page)[1]
}

func TestUpstreamListenerConfigRefusals(t *testing.T) {
	m := metrics.New(metrics.Settings{Reasons: []string{"no_route", "bad_host"}})
	u := m.Upstream("api")
	e := u.Endpoint("10.0.0.1:80")
	e.Try(metrics.OK, 200, time.Millisecond)
	e.Try(metrics.ConnectFailure, 0, time.Second)
	e.Ejections.Inc()
	u.Watch(func() metrics.UpstreamCounts {
		c := metrics.UpstreamCounts{Endpoints: []metrics.EndpointCounts{{
			Address: "10.0.0.1:80", Active: 3, Open: 1, Connects: 5, ConnectFailures: 4, ChecksPassed: 7, ChecksFailed: 6,
		}}}
		c.Refused[metrics.LimitPending] = 1
		return c
	})
	u.Retries.Inc()
	u.Dropped(metrics.DropTooLong)
	u.Dropped(metrics.DropUnavailable)
	u.Dropped(metrics.DropUnavailable)
	l := m.Listener("web")
	l.Watch(func() metrics.Connections {
		return metrics.Connections{Open: 1, Accepted: 2, Refused: 1, Protocols: []metrics.ProtocolConnections{{Protocol: "h3", Open: 1}}}
	})
	l.ProtocolRefusal("bad_host")
	l.ProtocolRefusal("made_up")
	m.Refusal("no_route")
	m.Refusal("made_up")
	m.InFlight.Inc()
	m.Config.Applied(7, time.Unix(1000, 0), 250*time.Millisecond, 1)
	m.Config.Failed(time.Second)
	m.AccessLog(func() (uint64, uint64) { return 5, 2 })
	m.Traces(func() (uint64, uint64) { return 3, 1 })
	m.Certificates(func() []metrics.Certificate {
		return []metrics.Certificate{
			{Name: "api", NotAfter: time.Unix(2000, 0), Loaded: 2, Failed: 1},
			{Name: "none"},
			{Name: "shop", Orders: map[string]uint64{"success": 2, "refused": 0}, Ordered: time.Unix(3000, 0)},
		}
	})
	want(t, scrape(t, m),
		`gatehouse_upstream_responses_total{code="200",upstream="api"} 1`,
		`gatehouse_upstream_tries_total{endpoint="10.0.0.1:80",outcome="ok",upstream="api"} 1`,
		`gatehouse_upstream_tries_total{endpoint="10.0.0.1:80",outcome="connect_failure",upstream="api"} 1`,
		`gatehouse_upstream_try_duration_seconds_count{upstream="api"} 2`,
		`gatehouse_upstream_ejections_total{endpoint="10.0.0.1:80",upstream="api"} 1`,
		`gatehouse_upstream_endpoint_healthy{endpoint="10.0.0.1:80",upstream="api"} 0`,
		`gatehouse_upstream_requests_in_flight{endpoint="10.0.0.1:80",upstream="api"} 3`,
		`gatehouse_upstream_connections_open{endpoint="10.0.0.1:80",upstream="api"} 1`,
		`gatehouse_upstream_connects_total{endpoint="10.0.0.1:80",upstream="api"} 5`,
		`gatehouse_upstream_connect_failures_total{endpoint="10.0.0.1:80",upstream="api"} 4`,
		`gatehouse_upstream_health_checks_total{endpoint="10.0.0.1:80",result="pass",upstream="api"} 7`,
		`gatehouse_upstream_health_checks_total{endpoint="10.0.0.1:80",result="fail",upstream="api"} 6`,
		`gatehouse_upstream_overflow_total{limit="pending",upstream="api"} 1`,
		`gatehouse_upstream_overflow_total{limit="retries",upstream="api"} 0`,
		`gatehouse_upstream_retries_total{upstream="api"} 1`,
		`gatehouse_upstream_mirror_dropped_total{cause="too_long",upstream="api"} 1`,
		`gatehouse_upstream_mirror_dropped_total{cause="unavailable",upstream="api"} 2`,
		`gatehouse_listener_connections_open{listener="web"} 1`,
		`gatehouse_listener_protocol_connections_open{listener="web",protocol="h3"} 1`,
		`gatehouse_listener_connections_total{listener="web"} 2`,
		`gatehouse_listener_connections_refused_total{listener="web"} 1`,
		`gatehouse_listener_protocol_refusals_total{listener="web",reason="bad_host"} 1`,
		`gatehouse_listener_protocol_refusals_total{listener="web",reason="other"} 1`,
		`gatehouse_route_refusals_total{reason="no_route"} 1`,
		`gatehouse_route_refusals_total{reason="bad_host"} 0`,
		`gatehouse_route_refusals_total{reason="other"} 1`,
		`gatehouse_route_requests_in_flight 1`,
		`gatehouse_config_revision_number 7`,
		`gatehouse_config_last_reload_successful 0`,
		`gatehouse_config_last_success_timestamp_seconds 1000`,
		`gatehouse_config_reloads_total{result="failure"} 1`,
		`gatehouse_config_routes_broken 1`,
		`gatehouse_accesslog_lines_total{result="dropped"} 2`,
		`gatehouse_trace_spans_total{result="exported"} 3`,
		`gatehouse_certificate_not_after_timestamp_seconds{certificate="api"} 2000`,
		`gatehouse_certificate_not_after_timestamp_seconds{certificate="none"} 0`,
		`gatehouse_certificate_loads_total{certificate="api",result="success"} 2`,
		`gatehouse_certificate_loads_total{certificate="api",result="failure"} 1`,
		`gatehouse_certificate_orders_total{certificate="shop",result="success"} 2`,
		`gatehouse_certificate_orders_total{certificate="shop",result="refused"} 0`,
		`gatehouse_certificate_last_order_timestamp_seconds{certificate="shop"} 3000`,
		`gatehouse_certificate_next_order_timestamp_seconds{certificate="shop"} 0`,
	)
}

func TestRetainDropsWhatIsGone(t *testing.T) {
	m := metrics.New(metrics.Settings{})
	old := m.Route("old")
	old.Record(200, 0, 0, 0)
	m.Route("kept").Record(200, 0, 0, 0)
	m.Upstream("u-old").Endpoint("a:1").Try(metrics.OK, 200, 0)
	u := m.Upstream("u-kept")
	u.Endpoint("a:1").Try(metrics.OK, 200, 0)
	u.Endpoint("b:1").Try(metrics.OK, 200, 0)
	m.Listener("l-old").Watch(func() metrics.Connections { return metrics.Connections{Open: 1} })
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_waf_blocked_total", Help: "x"}, []string{"route"})
	m.Registerer().MustRegister(v)
	v.WithLabelValues("old").Inc()
	v.WithLabelValues("kept").Inc()

	m.Retain([]string{"kept"}, []string{"u-kept"}, nil)
	u.Forget("a:1")
	old.Record(200, 0, 0, 0) // a request that outlives its route
	page := scrape(t, m)
	for _, gone := range []string{`"old"`, `"u-old"`, `"a:1"`, `"l-old"`} {
		if strings.Contains(page, gone) {
			t.Errorf("%s is still shown", gone)
		}
	}
	want(t, page, `gatehouse_route_requests_total{code="200",route="kept"} 1`,
		`gatehouse_waf_blocked_total{route="kept"} 1`,
		`gatehouse_upstream_tries_total{endpoint="b:1",outcome="ok",upstream="u-kept"} 1`)
	if kept := m.Route("kept"); kept != m.Route("kept") || m.Route("old") == old {
		t.Error("handles: kept must stay the same, old must be new")
	}
	if !m.Registerer().Unregister(v) || strings.Contains(scrape(t, m), "waf_blocked") {
		t.Error("Unregister left the vector")
	}
}

func TestConcurrentRecordingLosesNothing(t *testing.T) {
	m := metrics.New(metrics.Settings{})
	r, e := m.Route("r"), m.Upstream("u").Endpoint("a:1")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				r.Record(200, time.Millisecond, 1, 2)
				e.Try(metrics.OK, 200, time.Millisecond)
			}
		})
	}
	scrape(t, m)
	wg.Wait()
	want(t, scrape(t, m),
		`gatehouse_route_requests_total{code="200",route="r"} 8000`,
		`gatehouse_route_request_duration_seconds_count{route="r"} 8000`,
		`gatehouse_route_response_body_bytes_total{route="r"} 16000`,
		`gatehouse_upstream_tries_total{endpoint="a:1",outcome="ok",upstream="u"} 8000`)
}

func TestFleetIsThereForMembersOnly(t *testing.T) {
	m := metrics.New(metrics.Settings{})
	m.Fleet.Live(7, true)
	if strings.Contains(scrape(t, m), "gatehouse_fleet") {
		t.Error("a node whose config is a file has a fleet")
	}
	m.Fleet.Follows()
	m.Fleet.Asked(time.Unix(1000, 0), true)
	m.Fleet.Asked(time.Unix(2000, 0), false)
	m.Fleet.Refused(metrics.RevisionUntrusted)
	m.Fleet.Restored()
	want(t, scrape(t, m),
		`gatehouse_fleet_revision_number 7`,
		`gatehouse_fleet_revision_from_disk 1`,
		`gatehouse_fleet_store_up 0`,
		`gatehouse_fleet_store_last_answer_timestamp_seconds 1000`,
		`gatehouse_fleet_revisions_refused_total{reason="untrusted"} 1`,
		`gatehouse_fleet_revisions_refused_total{reason="old"} 0`,
		`gatehouse_fleet_revisions_restored_total 1`)
}

func TestSecretsAreThereForThoseWhoShareThem(t *testing.T) {
	m := metrics.New(metrics.Settings{})
	if strings.Contains(scrape(t, m), "gatehouse_secrets") {
		t.Error("a node that shares nothing has secrets")
	}
	m.Shared(func() metrics.Shared {
		return metrics.Shared{Up: true, Tickets: []metrics.SharedTickets{{Rotate: "12h0m0s", Shared: true, Made: time.Unix(1000, 0)}, {Rotate: "1m0s"}}}
	})
	want(t, scrape(t, m),
		`gatehouse_secrets_store_up 1`,
		`gatehouse_secrets_tickets_shared{rotate="12h0m0s"} 1`,
		`gatehouse_secrets_tickets_made_timestamp_seconds{rotate="12h0m0s"} 1000`,
		`gatehouse_secrets_tickets_shared{rotate="1m0s"} 0`)
}

func TestNames(t *testing.T) {
	shape := regexp.MustCompile(`^gatehouse_(build|certificate|node|route|upstream|listener|config|fleet|secrets|registry|accesslog|trace)(_[a-z0-9]+)+$`)
	label := regexp.MustCompile(`^[a-z][a-z_]*$`)
	seen := map[string]bool{}
	for _, f := range metrics.Families() {
		switch {
		case !shape.MatchString(f.Name):
			t.Errorf("%s: not gatehouse_AREA_WHAT_UNIT", f.Name)
		case seen[f.Name]:
			t.Errorf("%s: twice", f.Name)
		case (f.Kind == metrics.KindCounter) != strings.HasSuffix(f.Name, "_total"):
			t.Errorf("%s: _total is for counters and for all of them", f.Name)
		case f.Kind == metrics.KindHistogram && !strings.HasSuffix(f.Name, "_seconds"):
			t.Errorf("%s: a histogram names its base unit", f.Name)
		case !strings.HasSuffix(f.Help, "."):
			t.Errorf("%s: help is not a sentence: %q", f.Name, f.Help)
		}
		for _, bad := range []string{"_ms", "_milliseconds", "_kb", "_percent"} {
			if strings.Contains(f.Name, bad) {
				t.Errorf("%s: not a base unit", f.Name)
			}
		}
		for _, l := range f.Labels {
			if !label.MatchString(l) {
				t.Errorf("%s: label %q", f.Name, l)
			}
		}
		seen[f.Name] = true
	}
}

func TestDocumentIsFresh(t *testing.T) {
	var b bytes.Buffer
	if err := metrics.Document(&b); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b.Bytes()) {
		t.Error("docs/metrics.md is stale: run make gen")
	}
}

func TestRecordingDoesNotAllocate(t *testing.T) {
	m := metrics.New(metrics.Settings{Reasons: []string{"no_route"}})
	r, e, l := m.Route("r"), m.Upstream("u").Endpoint("a:1"), m.Listener("l")
	one := func() {
		m.InFlight.Inc()
		r.Record(200, time.Millisecond, 1, 2)
		e.Try(metrics.OK, 200, time.Millisecond)
		l.ProtocolRefusal("no_route")
		m.Refusal("no_route")
		m.InFlight.Dec()
	}
	one()
	if n := testing.AllocsPerRun(1000, one); n != 0 {
		t.Fatalf("%v allocations, want 0", n)
	}
}

// BenchmarkRequest is everything one proxied request costs.
func BenchmarkRequest(b *testing.B) {
	m := metrics.New(metrics.Settings{})
	r, e := m.Route("r"), m.Upstream("u").Endpoint("a:1")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.InFlight.Inc()
			r.Record(200, 1300*time.Microsecond, 100, 2000)
			e.Try(metrics.OK, 200, 1200*time.Microsecond)
			m.InFlight.Dec()
		}
	})
}

func BenchmarkScrape1000Routes(b *testing.B) {
	m := metrics.New(metrics.Settings{})
	for i := range 1000 {
		m.Route("route-"+string(rune('a'+i%26))+string(rune('0'+i/26%10))+string(rune('0'+i/260))).Record(200, 0, 0, 0)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Gatherer().Gather(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestCallsAreCountedByStatus(t *testing.T) {
	m := metrics.New(metrics.Settings{})
	r := m.Route("shop")
	r.Record(200, time.Millisecond, 1, 1)
	r.RecordCall(0, true)
	r.RecordCall(0, true)
	r.RecordCall(14, true)
	r.RecordCall(200, true)
	r.RecordCall(2, false)
	m.Route("plain").Record(200, time.Millisecond, 1, 1)
	page := scrape(t, m)
	want(t, page,
		`gatehouse_route_grpc_calls_total{grpc_status="OK",route="shop"} 2`,
		`gatehouse_route_grpc_calls_total{grpc_status="UNAVAILABLE",route="shop"} 1`,
		`gatehouse_route_grpc_calls_total{grpc_status="UNKNOWN",route="shop"} 1`,
		`gatehouse_route_grpc_calls_total{grpc_status="NONE",route="shop"} 1`,
	)
	if strings.Contains(page, `gatehouse_route_grpc_calls_total{grpc_status="OK",route="plain"}`) {
		t.Error("a route without calls has series")
	}
	if n := testing.AllocsPerRun(100, func() { r.RecordCall(14, true) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
