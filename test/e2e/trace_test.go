package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	pb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spanSink is an OTLP/HTTP collector.
type spanSink struct {
	mu    sync.Mutex // guards spans
	spans []*pb.Span
}

func (s *spanSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := s.take(r); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (s *spanSink) take(r *http.Request) error {
	if r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		return fmt.Errorf("%s of type %s", r.URL.Path, r.Header.Get("Content-Type"))
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return err
		}
		if b, err = io.ReadAll(z); err != nil {
			return err
		}
	}
	var in collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(b, &in); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range in.ResourceSpans {
		if v := attribute(rs.Resource.Attributes, "service.name"); v != "shop-edge" {
			return errors.New("service.name " + v)
		}
		for _, ss := range rs.ScopeSpans {
			s.spans = append(s.spans, ss.Spans...)
		}
	}
	return nil
}

// of returns the spans of a trace by name.
func (s *spanSink) of(trace string) map[string]*pb.Span {
	found := map[string]*pb.Span{}
	for _, sp := range s.all(trace) {
		found[sp.Name] = sp
	}
	return found
}

// all returns the spans of a trace.
func (s *spanSink) all(trace string) (found []*pb.Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.spans {
		if hex.EncodeToString(sp.TraceId) == trace {
			found = append(found, sp)
		}
	}
	return found
}

func (s *spanSink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.spans)
}

func TestTraceReachesTheCollector(t *testing.T) {
	sink := &spanSink{}
	sinkAt := upstreamServer(t, sink.ServeHTTP)
	app := upstreamServer(t, echoHeaders)
	g := prepare(t, "")
	config := g.text(fmt.Sprintf(`upstreams: { app: { endpoints: [%q] }, dead: { endpoints: [%q] } }
consumers: { bob: { basic_auth: { password_hash: %q } } }
plugins: [{ request_id: {} }]
routes:
  shop: { match: { path: / }, plugins: [{ basic_auth: { cache_ttl: 0s } }], backends: [{ upstream: app }] }
  dead: { match: { path: /dead }, backends: [{ upstream: dead }] }
`, app, freeAddress(t), bcryptOf(t, "builder")))
	g.writeRaw(strings.Replace(config, "  drain:", fmt.Sprintf("  tracing: { otlp: \"http://%s\", sample: 0, service_name: shop-edge }\n  drain:", sinkAt), 1))
	g.run()
	g.waitReady()

	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	r := g.get("/x?secret=1", "Traceparent", "00-"+trace+"-"+parent+"-01", "Tracestate", "a=1", "Authorization", basic("bob", "builder"))
	_, sent, _ := strings.Cut(r.body, "Traceparent: ")
	sent, _, _ = strings.Cut(sent, "\n")
	if r.StatusCode != 200 || !strings.HasPrefix(sent, "00-"+trace+"-") || !strings.HasSuffix(sent, "-01") || !strings.Contains(r.body, "Tracestate: a=1\n") {
		t.Fatalf("%s\n%s", r.Status, r.body)
	}
	var server, plugin, upstream *pb.Span
	g.eventually("the spans are there", func() error {
		spans := sink.of(trace)
		server, plugin, upstream = spans["shop"], spans["basic_auth"], spans["upstream"]
		if server == nil || plugin == nil || upstream == nil {
			return fmt.Errorf("%v", spans)
		}
		return nil
	})
	if hex.EncodeToString(server.ParentSpanId) != parent || server.Kind != pb.Span_SPAN_KIND_SERVER {
		t.Errorf("server span %v", server)
	}
	if !bytes.Equal(plugin.ParentSpanId, server.SpanId) || !bytes.Equal(upstream.ParentSpanId, server.SpanId) || upstream.Kind != pb.Span_SPAN_KIND_CLIENT {
		t.Errorf("plugin span %v, upstream span %v", plugin, upstream)
	}
	if want := "00-" + trace + "-" + hex.EncodeToString(upstream.SpanId) + "-01"; sent != want {
		t.Errorf("the upstream got %s, want %s", sent, want)
	}
	for _, c := range []struct {
		span      *pb.Span
		key, want string
	}{
		{server, "http.request.method", "GET"},
		{server, "http.route", "shop"},
		{server, "url.path", "/x"},
		{server, "http.response.status_code", "200"},
		{server, "client.address", "127.0.0.1"},
		{server, "gatehouse.request_id", r.Header.Get("X-Request-ID")},
		{upstream, "gatehouse.upstream", "app"},
		{upstream, "server.address", app},
		{upstream, "http.response.status_code", "200"},
	} {
		if got := attribute(c.span.Attributes, c.key); got != c.want {
			t.Errorf("%s of %s: %q, want %q", c.key, c.span.Name, got, c.want)
		}
	}
	line := g.accessLine("the trace", func(m map[string]any) bool { return m["trace_id"] == trace })
	if line["route"] != "shop" {
		t.Errorf("access log line %v", line)
	}

	// A failure is one in the trace as well: the server span and every try.
	const failing = "4bf92f3577b34da6a3ce929d0e0e4737"
	g.get("/dead", "Traceparent", "00-"+failing+"-"+parent+"-01")
	g.eventually("the failed spans are there", func() error {
		spans := sink.of(failing)
		for _, name := range []string{"dead", "upstream", "proxy"} {
			if sp := spans[name]; sp == nil || sp.Status.GetCode() != pb.Status_STATUS_CODE_ERROR {
				return fmt.Errorf("%s: %v", name, spans)
			}
		}
		if got := attribute(spans["dead"].Attributes, "error.type"); got != "upstream_connect_failure" {
			return fmt.Errorf("error.type %q", got)
		}
		return nil
	})

	// What nobody wants sampled is not, but its trace goes on.
	for _, header := range [][]string{nil, {"Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4738-" + parent + "-00"}, {"Traceparent", "nonsense"}} {
		r := g.get("/x", append(header, "Authorization", basic("bob", "builder"))...)
		if !strings.Contains(r.body, "\nTraceparent: 00-") || strings.Contains(r.body, "-01\n") {
			t.Errorf("%v: the upstream got\n%s", header, r.body)
		}
	}
	g.stop() // sends what waits
	if n := sink.count() - len(sink.all(trace)) - len(sink.all(failing)); n != 0 {
		t.Errorf("%d spans that were not to be sampled", n)
	}
}

// attribute is the value of a span's attribute as text, "" without it.
func attribute(list []*common.KeyValue, key string) string {
	for _, kv := range list {
		if kv.Key != key {
			continue
		}
		if v, ok := kv.Value.Value.(*common.AnyValue_IntValue); ok {
			return fmt.Sprint(v.IntValue)
		}
		return kv.Value.GetStringValue()
	}
	return ""
}
