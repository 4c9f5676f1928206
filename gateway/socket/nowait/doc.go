// Package nowait makes system calls that do not wait, on sockets that are set
// not to, without telling Go's scheduler.
//
// Package syscall announces every call, since it may take any time: then the
// runtime looks every 20 µs for calls that take longer, takes their processor
// away and wakes another thread for it, and the call's own thread has to get one
// back. On a busy machine a write to a socket often takes that long, because it
// delivers what it writes, or lets the receiver run first. For calls that never
// wait all that is in vain: it was a sixth of the CPU of a request.
//
// The price is that the processor's other goroutines stay where they are until
// the call returns, or go to another processor, and that a collection begins
// only then: as with any computation. So a call writes little at a time.
package nowait
