package trace

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// exportTimeout bounds one export with all its retries.
const exportTimeout = 10 * time.Second

// newExporter makes the exporter that an OTLP URL asks for.
func newExporter(ctx context.Context, raw string) (sdk.SpanExporter, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("node.tracing.otlp: %w", err)
	}
	if u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("node.tracing.otlp %q: must be http://, https://, grpc:// or grpcs:// with a host and no user, query or fragment", raw)
	}
	switch u.Scheme {
	case "http", "https":
		path := u.Path
		if path == "" || path == "/" {
			path = "/v1/traces"
		}
		o := []otlptracehttp.Option{
			otlptracehttp.WithEndpoint(withPort(u, "4318")), otlptracehttp.WithURLPath(path),
			otlptracehttp.WithTimeout(exportTimeout), otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
			otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 2 * time.Second, MaxElapsedTime: exportTimeout}),
		}
		if u.Scheme == "http" {
			o = append(o, otlptracehttp.WithInsecure())
		}
		return otlptracehttp.New(ctx, o...)
	case "grpc", "grpcs":
		if u.Path != "" && u.Path != "/" {
			return nil, fmt.Errorf("node.tracing.otlp %q: grpc takes no path", raw)
		}
		o := []otlptracegrpc.Option{
			otlptracegrpc.WithEndpoint(withPort(u, "4317")),
			otlptracegrpc.WithTimeout(exportTimeout), otlptracegrpc.WithCompressor("gzip"),
			otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 2 * time.Second, MaxElapsedTime: exportTimeout}),
		}
		if u.Scheme == "grpc" {
			o = append(o, otlptracegrpc.WithInsecure())
		}
		return otlptracegrpc.New(ctx, o...)
	default:
		return nil, fmt.Errorf("node.tracing.otlp %q: scheme must be http, https, grpc or grpcs", raw)
	}
}

func withPort(u *url.URL, port string) string {
	if p := u.Port(); p != "" {
		port = p
	}
	return net.JoinHostPort(u.Hostname(), port)
}
