package trace

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-proxy/gatehouse/telemetry"
)

// start makes the server span of a sampled request.
func (t *Tracer) start(c telemetry.TraceContext, continued bool, name string) (telemetry.TraceContext, telemetry.Span) {
	ctx := context.Background()
	if continued {
		ctx = otel.ContextWithRemoteSpanContext(ctx, otel.NewSpanContext(otel.SpanContextConfig{
			TraceID: c.TraceID, SpanID: c.SpanID, TraceFlags: otel.TraceFlags(c.Flags), Remote: true,
		}))
	}
	ctx, s := t.tracer.Start(ctx, name, otel.WithSpanKind(otel.SpanKindServer))
	sp := &span{tracer: t.tracer, ctx: ctx, s: s}
	return sp.context(c.Flags), sp
}

type span struct {
	tracer otel.Tracer
	ctx    context.Context //nolint:containedctx // OpenTelemetry carries the parent in it
	s      otel.Span
}

var _ telemetry.Span = (*span)(nil)

func (p *span) context(flags byte) telemetry.TraceContext {
	sc := p.s.SpanContext()
	c := telemetry.TraceContext{TraceID: sc.TraceID(), SpanID: sc.SpanID(), Flags: flags}
	c.SetSampled(sc.IsSampled())
	return c
}

// Child begins a step. One whose name begins with "upstream" is a call to
// somebody else, which traces show as the client's side.
func (p *span) Child(name string) telemetry.Span {
	kind := otel.SpanKindInternal
	if strings.HasPrefix(name, "upstream") {
		kind = otel.SpanKindClient
	}
	ctx, s := p.tracer.Start(p.ctx, strings.Clone(name), otel.WithSpanKind(kind))
	return &span{tracer: p.tracer, ctx: ctx, s: s}
}

// Step adds a finished span; gatehouse.own_us is what it needed itself.
func (p *span) Step(name string, began time.Time, own time.Duration, failure string) {
	_, s := p.tracer.Start(p.ctx, strings.Clone(name), otel.WithTimestamp(began),
		otel.WithAttributes(attribute.Int64("gatehouse.own_us", own.Microseconds())))
	if failure != "" {
		s.SetStatus(codes.Error, owned(failure))
	}
	s.End()
}

// SetString clones value: spans outlive the request they borrow from.
func (p *span) SetString(key, value string) {
	p.s.SetAttributes(attribute.String(key, owned(value)))
}

// SetInt sets a number.
func (p *span) SetInt(key string, value int64) { p.s.SetAttributes(attribute.Int64(key, value)) }

// Fail marks the span as failed.
func (p *span) Fail(message string) {
	p.s.SetStatus(codes.Error, owned(message))
}

// End hands the span to the exporter.
func (p *span) End() { p.s.End() }

// AppendTraceparent names this span as the parent.
func (p *span) AppendTraceparent(dst []byte) []byte {
	c := p.context(0)
	return c.AppendTraceparent(dst)
}

// Request is what a server span says of its request, under OpenTelemetry's
// names (https://opentelemetry.io/docs/specs/semconv/http/http-spans/). Empty
// values are left out.
type Request struct {
	Method, Scheme, Host, Path, Route, Protocol string
	Client, Peer, UserAgent, RequestID          string
	Reason, Detail                              string
	// Of TLS; empty in plain text.
	TLSVersion, TLSCipher, ServerName, ClientSubject, ClientFingerprint string
	// RPC is "grpc" for a call that ended with RPCStatus; empty for others.
	RPC               string
	Status, RPCStatus int
	BytesIn, BytesOut int64
}

// Describe puts r on a server span made by this package. A status of 500 or
// more, or one of gRPC that a server is to blame for, marks it as failed.
func Describe(s telemetry.Span, r *Request) {
	p := s.(*span)
	kv := make([]attribute.KeyValue, 0, 19)
	for _, a := range [...]struct{ key, value string }{
		{"http.request.method", r.Method},
		{"url.scheme", r.Scheme},
		{"server.address", r.Host},
		{"url.path", r.Path},
		{"http.route", r.Route},
		{"network.protocol.version", version(r.Protocol)},
		{"client.address", r.Client},
		{"network.peer.address", r.Peer},
		{"user_agent.original", r.UserAgent},
		{"tls.protocol.version", strings.TrimPrefix(r.TLSVersion, "TLS ")},
		{"tls.cipher", r.TLSCipher},
		{"tls.client.server_name", r.ServerName},
		{"tls.client.subject", r.ClientSubject},
		{"tls.client.hash.sha256", r.ClientFingerprint},
		{"gatehouse.request_id", r.RequestID},
		{"error.type", r.Reason},
	} {
		if a.value != "" {
			kv = append(kv, attribute.String(a.key, owned(a.value)))
		}
	}
	p.s.SetAttributes(append(kv,
		attribute.Int("http.response.status_code", r.Status),
		attribute.Int64("http.request.body.size", r.BytesIn),
		attribute.Int64("http.response.body.size", r.BytesOut))...)
	if r.RPC != "" {
		p.s.SetAttributes(attribute.String("rpc.system", r.RPC), attribute.Int("rpc.grpc.status_code", r.RPCStatus))
	}
	if r.Status >= 500 || r.RPC != "" && serverFault(r.RPCStatus) {
		s.Fail(r.Detail)
	}
}

// version is the protocol's as OpenTelemetry writes it: HTTP/2 and 3 have no
// minor one.
func version(protocol string) string {
	v := strings.TrimPrefix(protocol, "HTTP/")
	if v == "2.0" || v == "3.0" {
		return v[:1]
	}
	return v
}

// serverFault reports the gRPC statuses that mark a server's span as failed
// (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/): UNKNOWN,
// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
func serverFault(code int) bool {
	switch code {
	case 2, 4, 12, 13, 14, 15:
		return true
	}
	return false
}

// owned is a copy of a borrowed string that a collector will accept.
func owned(s string) string {
	if utf8.ValidString(s) {
		return strings.Clone(s)
	}
	return strings.ToValidUTF8(s, "\ufffd")
}
