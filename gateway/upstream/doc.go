// Package upstream is a named set of endpoints with one balancing policy. It
// knows which endpoints exist (a list, or what a Source finds), which of them
// may be used (health checks, ejection of outliers, priorities, panic), how a
// request chooses one, and how much may go to them at once. The proxy asks it
// with Pick and tells it the outcome with Endpoint.Done; connections and
// protocols are the Pool's, which this package only opens and closes.
//
// Everything Pick reads is immutable and hangs on one atomic pointer: each
// change of health, ejection, weight or endpoints builds a new picker, so that
// Pick takes no lock and cannot block.
package upstream
