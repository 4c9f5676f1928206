package trace

import (
	"context"
	"math/rand/v2"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-proxy/gatehouse/telemetry"
)

// Settings of a tracer.
type Settings struct {
	// OTLP is the collector: http(s)://HOST:PORT[/PATH] or grpc(s)://HOST:PORT.
	// Empty: no spans; a caller's trace still passes.
	OTLP string
	// Sample is the share of new traces to sample, 0 to 1.
	Sample float64
	// ServiceName, Version, NodeName and Zone describe who made the spans.
	ServiceName, Version, NodeName, Zone string
	// OnError is told of the first of several failed exports in a row; it may
	// be nil. It is called by the tracer's own goroutine.
	OnError func(error)
}

// Tracer starts spans. Its methods are for concurrent use.
type Tracer struct {
	threshold float64
	batch     *batcher // nil when there is no collector
	provider  *sdk.TracerProvider
	tracer    otel.Tracer
}

// spanLimits keep one span small, whatever a request contains.
var spanLimits = sdk.SpanLimits{
	AttributeValueLengthLimit: 2048, AttributeCountLimit: 64,
	EventCountLimit: 16, LinkCountLimit: 4,
	AttributePerEventCountLimit: 8, AttributePerLinkCountLimit: 8,
}

// New returns a tracer and starts its exporter. It does not wait for the
// collector: one that is away is no error.
func New(ctx context.Context, s Settings) (*Tracer, error) {
	t := &Tracer{threshold: s.Sample}
	if s.OTLP == "" {
		return t, nil
	}
	exporter, err := newExporter(ctx, s.OTLP)
	if err != nil {
		return nil, err
	}
	t.batch = newBatcher(exporter, s.OnError)
	t.provider = sdk.NewTracerProvider(
		sdk.WithSampler(sdk.AlwaysSample()), // only what we have decided to sample gets there
		sdk.WithRawSpanLimits(spanLimits),
		sdk.WithResource(describe(s)),
		sdk.WithSpanProcessor(t.batch),
	)
	t.tracer = t.provider.Tracer("github.com/gatehouse-proxy/gatehouse", otel.WithInstrumentationVersion(s.Version))
	return t, nil
}

func describe(s Settings) *resource.Resource {
	var kv []attribute.KeyValue
	for _, a := range []struct{ key, value string }{
		{"service.name", s.ServiceName},
		{"service.version", s.Version},
		{"service.instance.id", s.NodeName},
		{"cloud.availability_zone", s.Zone},
	} {
		if a.value != "" {
			kv = append(kv, attribute.String(a.key, a.value))
		}
	}
	return resource.NewSchemaless(kv...)
}

// Stats are the spans that reached the collector and those that were lost.
func (t *Tracer) Stats() (exported, dropped uint64) {
	if t.batch == nil {
		return 0, 0
	}
	return t.batch.exported.Load(), t.batch.dropped.Load()
}

// Close sends what waits, for as long as ctx allows, and ends the goroutine.
func (t *Tracer) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// Header is what Begin needs of a request; *fasthttp.RequestHeader is one.
type Header interface {
	PeekAll(name string) [][]byte
	SetBytesV(name string, value []byte)
	Del(name string)
}

const (
	headerParent = "Traceparent"
	headerState  = "Tracestate"
)

var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 64); return &b }}

// Begin decides on a request's trace and puts the decision into the request's
// headers, so that whoever is called next continues it. The caller's trace is
// continued with the caller's decision; without one, a new trace begins and
// the tracer decides. The span is nil unless the trace is sampled; the context
// is there for logs either way.
//
// A malformed or repeated traceparent is as good as none, and its tracestate
// goes with it. Without a collector headers stay as they are and no trace is
// begun, so that an upstream can still decide for itself.
func (t *Tracer) Begin(h Header, name string) (telemetry.TraceContext, telemetry.Span) {
	c, continued := incoming(h)
	if t.batch == nil {
		return c, nil
	}
	if !continued {
		c = t.decide()
	}
	var s telemetry.Span
	if c.Sampled() {
		c, s = t.start(c, continued, name)
	}
	p := scratch.Get().(*[]byte)
	*p = c.AppendTraceparent((*p)[:0])
	if !continued {
		h.Del(headerParent) // Set would leave the second of two
	}
	h.SetBytesV(headerParent, *p)
	scratch.Put(p)
	if state := h.PeekAll(headerState); len(state) > 0 && (!continued || !validStates(state)) {
		h.Del(headerState)
	}
	return c, s
}

// Start is Begin for a caller without headers: it continues traceparent if
// that is valid. The returned context is what Begin would have sent on.
func (t *Tracer) Start(traceparent []byte, name string) (telemetry.TraceContext, telemetry.Span) {
	c, continued := telemetry.ParseTraceparent(traceparent)
	if t.batch == nil {
		return c, nil
	}
	if !continued {
		c = t.decide()
	}
	if !c.Sampled() {
		return c, nil
	}
	return t.start(c, continued, name)
}

func incoming(h Header) (telemetry.TraceContext, bool) {
	all := h.PeekAll(headerParent)
	if len(all) != 1 {
		return telemetry.TraceContext{}, false
	}
	return telemetry.ParseTraceparent(all[0])
}

func validStates(all [][]byte) bool {
	if len(all) == 1 {
		return telemetry.ValidTracestate(all[0])
	}
	var joined []byte
	for i, v := range all {
		if i > 0 {
			joined = append(joined, ',')
		}
		joined = append(joined, v...)
	}
	return telemetry.ValidTracestate(joined)
}

// decide begins a new trace. The random numbers need to be distinct, not secret.
func (t *Tracer) decide() (c telemetry.TraceContext) {
	for !c.Valid() {
		put(c.TraceID[:8], rand.Uint64())
		put(c.TraceID[8:], rand.Uint64())
		put(c.SpanID[:], rand.Uint64())
	}
	c.SetSampled(rand.Float64() < t.threshold)
	return c
}

func put(b []byte, v uint64) {
	for i := range b {
		b[i] = byte(v >> (8 * i))
	}
}
