// Package trace takes part in distributed traces: it continues a caller's
// trace or begins one, makes spans of what is sampled, and sends them to an
// OpenTelemetry collector in the background. A collector that is slow or away
// costs spans, which are counted, never a request.
package trace
