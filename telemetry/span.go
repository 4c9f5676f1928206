// Package telemetry is what a node tells about itself: access log, metrics and
// traces. It is a leaf: it imports no other package of Gatehouse and receives
// plain values, so that every layer may use it.
package telemetry

// Span is one timed step of a sampled request. A request that is not sampled
// has a nil Span, so that tracing costs it one comparison. A Span belongs to
// the goroutine that started it.
type Span interface {
	// Child begins a step inside this one.
	Child(name string) Span
	SetString(key, value string)
	SetInt(key string, value int64)
	// Fail marks the step as failed and says why.
	Fail(message string)
	// End finishes the step. Nothing may be called after it.
	End()
	// AppendTraceparent appends the W3C traceparent value that names this span
	// as the parent (https://www.w3.org/TR/trace-context/).
	AppendTraceparent(dst []byte) []byte
}
