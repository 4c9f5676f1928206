package trace_test

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	pb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/gatehouse-proxy/gatehouse/telemetry"
	"github.com/gatehouse-proxy/gatehouse/telemetry/trace"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// sink is an OTLP collector that keeps what it gets.
type sink struct {
	collector.UnimplementedTraceServiceServer
	mu       sync.Mutex
	spans    []*pb.Span
	resource map[string]string
	refuse   bool
}

func (s *sink) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		s.resource = map[string]string{}
		for _, a := range rs.Resource.Attributes {
			s.resource[a.Key] = a.Value.GetStringValue()
		}
		for _, ss := range rs.ScopeSpans {
			s.spans = append(s.spans, ss.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.refuse {
		http.Error(w, "no", http.StatusBadRequest) // not worth a retry
		return
	}
	var in collector.ExportTraceServiceRequest
	z, err := gzip.NewReader(r.Body)
	if err == nil {
		var b []byte
		if b, err = io.ReadAll(z); err == nil {
			err = proto.Unmarshal(b, &in)
		}
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, "bad", http.StatusBadRequest)
		return
	}
	_, _ = s.Export(r.Context(), &in)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (s *sink) byName(t *testing.T, name string) *pb.Span {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.spans {
		if sp.Name == name {
			return sp
		}
	}
	t.Fatalf("no span %q among %d", name, len(s.spans))
	return nil
}

func overHTTP(t *testing.T) (*sink, string) {
	s := &sink{}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return s, srv.URL
}

func overGRPC(t *testing.T) (*sink, string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, srv := &sink{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(srv, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return s, "grpc://" + l.Addr().String()
}

func start(t testing.TB, s trace.Settings) *trace.Tracer {
	t.Helper()
	tr, err := trace.New(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close(context.Background()) })
	return tr
}

const caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func attr(s *pb.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			if v := a.Value.GetStringValue(); v != "" {
				return v
			}
			return a.Value.String()
		}
	}
	return ""
}

func TestCallsHaveTheirStatus(t *testing.T) {
	s, url := overHTTP(t)
	tr := start(t, trace.Settings{OTLP: url, ServiceName: "gw"})
	for name, code := range map[string]int{"fine": 0, "theirs": 5, "ours": 14} {
		var h fasthttp.RequestHeader
		h.Set("traceparent", caller)
		_, span := tr.Begin(&h, name)
		trace.Describe(span, &trace.Request{Method: "POST", Path: "/s.S/M", Route: name, Protocol: "HTTP/2.0", Status: 200, RPC: "grpc", RPCStatus: code})
		span.End()
	}
	if err := tr.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	for name, failed := range map[string]bool{"fine": false, "theirs": false, "ours": true} {
		span := s.byName(t, name)
		status := int64(-1)
		for _, a := range span.Attributes {
			if a.Key == "rpc.grpc.status_code" {
				status = a.Value.GetIntValue()
			}
		}
		if got := span.Status.GetCode() == pb.Status_STATUS_CODE_ERROR; got != failed || attr(span, "rpc.system") != "grpc" || status < 0 {
			t.Errorf("%s: failed %v, status %d: %v", name, got, status, span)
		}
	}
}

func TestSpansReachTheCollector(t *testing.T) {
	for name, open := range map[string]func(*testing.T) (*sink, string){"http": overHTTP, "grpc": overGRPC} {
		t.Run(name, func(t *testing.T) {
			s, url := open(t)
			tr := start(t, trace.Settings{OTLP: url, ServiceName: "gw", NodeName: "edge-1", Zone: "a", Version: "v1"})
			var h fasthttp.RequestHeader
			h.Set("traceparent", caller)
			h.Set("tracestate", "v=1")
			c, server := tr.Begin(&h, "GET")
			child := server.Child("upstream api")
			child.SetInt("gatehouse.attempt", 1)
			tried := string(child.AppendTraceparent(nil))
			child.Fail("reset \xff")
			child.End()
			trace.Describe(server, &trace.Request{Method: "GET", Path: "/x\xff", Route: "users", Protocol: "HTTP/1.1", Status: 502, Reason: "upstream_reset", Detail: "EOF"})
			server.End()
			if err := tr.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			root, sub := s.byName(t, "GET"), s.byName(t, "upstream api")
			if hex.EncodeToString(root.TraceId) != "4bf92f3577b34da6a3ce929d0e0e4736" || hex.EncodeToString(root.ParentSpanId) != "00f067aa0ba902b7" {
				t.Errorf("the caller's trace is not continued: %v", root)
			}
			if string(sub.ParentSpanId) != string(root.SpanId) || sub.Kind != pb.Span_SPAN_KIND_CLIENT || root.Kind != pb.Span_SPAN_KIND_SERVER {
				t.Errorf("parent or kind is wrong: %v", sub)
			}
			if sub.Status.Message != "reset \ufffd" || root.Status.Code != pb.Status_STATUS_CODE_ERROR || attr(root, "error.type") != "upstream_reset" ||
				attr(root, "url.path") != "/x\ufffd" || attr(root, "network.protocol.version") != "1.1" {
				t.Errorf("status or attributes: %v %v", root, sub)
			}
			if want := "00-4bf92f3577b34da6a3ce929d0e0e4736-" + hex.EncodeToString(root.SpanId) + "-01"; string(h.Peek("Traceparent")) != want || string(c.AppendTraceparent(nil)) != want {
				t.Errorf("sent on %q, want %q", h.Peek("Traceparent"), want)
			}
			if !strings.HasSuffix(tried, hex.EncodeToString(sub.SpanId)+"-01") || string(h.Peek("tracestate")) != "v=1" {
				t.Errorf("try names %q; tracestate %q", tried, h.Peek("tracestate"))
			}
			if s.resource["service.name"] != "gw" || s.resource["service.instance.id"] != "edge-1" || s.resource["cloud.availability_zone"] != "a" {
				t.Errorf("resource %v", s.resource)
			}
			if ok, lost := tr.Stats(); ok != 2 || lost != 0 {
				t.Errorf("exported %d, dropped %d", ok, lost)
			}
		})
	}
}

func TestDecisions(t *testing.T) {
	_, url := overHTTP(t)
	never, always := start(t, trace.Settings{OTLP: url}), start(t, trace.Settings{OTLP: url, Sample: 1})
	off := start(t, trace.Settings{Sample: 1})
	unsampled := strings.TrimSuffix(caller, "1") + "0"
	for _, c := range []struct {
		name    string
		tracer  *trace.Tracer
		parents []string
		state   []string
		span    bool
		out     string // "": absent; "new-00", "new-01", "own-01" (same trace, own span) or the value
		stateOK bool
	}{
		{"nothing sent, not sampled", never, nil, nil, false, "new-00", false},
		{"nothing sent, sampled", always, nil, nil, true, "new-01", false},
		{"caller sampled", never, []string{caller}, []string{"a=1", "b=2"}, true, "own-01", true},
		{"caller did not sample", always, []string{unsampled}, []string{"a=1"}, false, unsampled, true},
		{"bad state", always, []string{unsampled}, []string{"a=1", "a=2"}, false, unsampled, false},
		{"malformed", never, []string{"00-xx"}, []string{"a=1"}, false, "new-00", false},
		{"twice", never, []string{caller, caller}, []string{"a=1"}, false, "new-00", false},
		{"off", off, []string{caller}, []string{"a=1"}, false, caller, true},
		{"off without a trace", off, nil, nil, false, "", false},
		{"off leaves rubbish alone", off, []string{"00-xx"}, nil, false, "00-xx", false},
	} {
		var h fasthttp.RequestHeader
		for _, p := range c.parents {
			h.Add("Traceparent", p)
		}
		for _, s := range c.state {
			h.Add("Tracestate", s)
		}
		tc, span := c.tracer.Begin(&h, "GET")
		if (span != nil) != c.span {
			t.Errorf("%s: span %v", c.name, span)
		}
		if span != nil {
			span.End()
		}
		got, n := string(h.Peek("Traceparent")), len(h.PeekAll("Traceparent"))
		switch {
		case strings.HasPrefix(c.out, "new"):
			p, ok := telemetry.ParseTraceparent([]byte(got))
			if !ok || n != 1 || strings.Contains(got, caller[3:35]) || !strings.HasSuffix(got, c.out[3:]) || p != tc {
				t.Errorf("%s: sent on %q (%d), context %v", c.name, got, n, tc)
			}
		case c.out == "own-01":
			if !strings.HasPrefix(got, caller[:36]) || got == caller || !strings.HasSuffix(got, "-01") {
				t.Errorf("%s: sent on %q", c.name, got)
			}
		case got != c.out:
			t.Errorf("%s: sent on %q, want %q", c.name, got, c.out)
		}
		if (len(h.Peek("Tracestate")) > 0) != c.stateOK {
			t.Errorf("%s: tracestate %q", c.name, h.Peek("Tracestate"))
		}
	}
	if c, s := never.Start([]byte(caller), "x"); s == nil || hex.EncodeToString(c.TraceID[:]) != caller[3:35] {
		t.Error("Start does not continue")
	} else {
		s.End()
	}
}

func TestSampleIsAShare(t *testing.T) {
	_, url := overHTTP(t)
	tr := start(t, trace.Settings{OTLP: url, Sample: 0.25})
	n := 0
	for range 4000 {
		if _, s := tr.Start(nil, "x"); s != nil {
			n++
			s.End()
		}
	}
	if n < 800 || n > 1200 { // chance alone goes no further
		t.Errorf("sampled %d of 4000, want about 1000", n)
	}
}

// A collector that accepts and never answers is worse than one that is away.
func TestHangingCollectorCostsSpansOnly(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	tr := start(t, trace.Settings{OTLP: "http://" + l.Addr().String(), Sample: 1})
	for range 10000 {
		_, s := tr.Start(nil, "x")
		s.End()
	}
	if _, lost := tr.Stats(); lost == 0 {
		t.Error("the queue is not bounded")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := tr.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v", err)
	}
	if ok, lost := tr.Stats(); ok != 0 || lost != 10000 {
		t.Errorf("exported %d, dropped %d of 10000", ok, lost)
	}
}

func TestRefusingCollectorIsToldOnce(t *testing.T) {
	s, url := overHTTP(t)
	s.refuse = true
	var mu sync.Mutex
	var told []error
	tr := start(t, trace.Settings{OTLP: url, Sample: 1, OnError: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, err)
	}})
	for range 1200 {
		_, sp := tr.Start(nil, "x")
		sp.End()
	}
	if err := tr.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 1 || !strings.HasPrefix(told[0].Error(), "node.tracing.otlp: ") {
		t.Errorf("told %v", told)
	}
	_, sp := tr.Start(nil, "late")
	sp.End()
	if err := tr.Close(context.Background()); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestBadURLs(t *testing.T) {
	for _, u := range []string{"collector:4318", "ftp://c", "http://", "http://u:p@c", "http://c?x=1", "grpc://c/path", "http://%zz", "/v1"} {
		tr, err := trace.New(context.Background(), trace.Settings{OTLP: u})
		if err == nil || !strings.HasPrefix(err.Error(), "node.tracing.otlp") {
			t.Errorf("%q: %v", u, err)
		}
		if tr != nil {
			_ = tr.Close(context.Background())
		}
	}
}

func TestUnsampledDoesNotAllocate(t *testing.T) {
	_, url := overHTTP(t)
	tr := start(t, trace.Settings{OTLP: url})
	var h fasthttp.RequestHeader
	h.Set("Traceparent", strings.TrimSuffix(caller, "1")+"0")
	if n := testing.AllocsPerRun(1000, func() { tr.Begin(&h, "GET") }); n != 0 {
		t.Errorf("continued: %v allocations", n)
	}
	if n := testing.AllocsPerRun(1000, func() { h.Del("Traceparent"); tr.Begin(&h, "GET") }); n != 0 {
		t.Errorf("new: %v allocations", n)
	}
}

func BenchmarkBeginUnsampled(b *testing.B) {
	srv := httptest.NewServer(&sink{})
	defer srv.Close()
	tr := start(b, trace.Settings{OTLP: srv.URL})
	var h fasthttp.RequestHeader
	b.ReportAllocs()
	for b.Loop() {
		h.Del("Traceparent")
		tr.Begin(&h, "GET")
	}
}

func BenchmarkSampledRequest(b *testing.B) {
	srv := httptest.NewServer(&sink{})
	defer srv.Close()
	tr := start(b, trace.Settings{OTLP: srv.URL, Sample: 1})
	b.ReportAllocs()
	for b.Loop() {
		_, s := tr.Start(nil, "GET")
		trace.Describe(s, &trace.Request{Method: "GET", Path: "/x", Route: "users", Status: 200})
		s.End()
	}
}
