// Package telemetry is what a node tells about itself: access log, metrics and
// traces. It is a leaf: it imports no other package of Gatehouse and receives
// plain values, so that every layer may use it.
package telemetry

import "time"

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
	// Step adds a step that is already over: it began then, and of the time
	// since it needed own itself, the rest being steps inside it. failure says
	// why it failed; empty: it did not.
	Step(name string, began time.Time, own time.Duration, failure string)
	// End finishes the step. Nothing may be called after it.
	End()
	// AppendTraceparent appends the W3C traceparent value that names this span
	// as the parent (https://www.w3.org/TR/trace-context/).
	AppendTraceparent(dst []byte) []byte
}
