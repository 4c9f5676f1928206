package transport

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Failure is why a call came to nothing, or its reply broke off.
type Failure struct {
	Reason *reason.Reason
	Cause  error
	// Unsent says that the endpoint has not seen the request, or has said that
	// it did nothing about it, so that even a request that is not idempotent
	// can be repeated as far as its body can.
	Unsent bool
	// Stale says that a connection that had been used before failed without a
	// byte of a reply: most likely the endpoint closed it for its age.
	Stale bool
	// Client says that the request's own body failed, not the endpoint.
	Client bool
	// BodyRead says that the request's body had been read to its end, so that
	// what Tee has is all of it.
	BodyRead bool
}

// Error implements error.
func (f *Failure) Error() string {
	if f.Cause == nil {
		return f.Reason.Name
	}
	return f.Cause.Error()
}

// Unwrap gives the reason and the cause.
func (f *Failure) Unwrap() []error {
	if f.Cause == nil {
		return []error{f.Reason}
	}
	return []error{f.Reason, f.Cause}
}

// Fail is a failure before anything was sent.
func Fail(r *reason.Reason, cause error) *Failure {
	return &Failure{Reason: r, Cause: cause, Unsent: true}
}

// BodyReason is why a request's body could not be read: the reason in err, or
// that the client has gone.
func BodyReason(err error) *reason.Reason {
	var r *reason.Reason
	if errors.As(err, &r) {
		return r
	}
	return reason.ClientGone
}

// ErrOverflow says that a Limiter allows neither another connection nor another
// request that waits for one.
var ErrOverflow = errors.New("too many connections, and too many requests wait for one")

// ErrOtherProtocol is why a dialer gives no connection: the endpoint can be
// reached, but has chosen to speak another protocol. It is no failure of anybody.
var ErrOtherProtocol = errors.New("the endpoint has chosen another protocol")

// Waiting is a call that has no connection yet. Its context ends with the
// call's deadline, or when its client goes away.
type Waiting struct {
	context.Context

	call   *Call
	cancel context.CancelFunc
	gone   atomic.Bool
}

// longestWait bounds the wait of a call that has no deadline.
const longestWait = time.Hour

// Wait begins the wait of call; End must be called. The error of a call whose
// time is over is a *Failure.
func Wait(call *Call) (*Waiting, error) {
	wait := longestWait
	if !call.Deadline.IsZero() {
		if wait = time.Until(call.Deadline); wait <= 0 {
			return nil, Fail(reason.UpstreamTimeout, context.DeadlineExceeded)
		}
	}
	w := &Waiting{call: call}
	w.Context, w.cancel = context.WithTimeout(context.Background(), wait)
	if call.Watch != nil {
		call.Watch.OnGone(w)
	}
	return w, nil
}

// End lets go of the client and the context.
func (w *Waiting) End() {
	if w.call.Watch != nil {
		w.call.Watch.OnGone(nil)
	}
	w.cancel()
}

// Abort implements exchange.Aborter.
func (w *Waiting) Abort() {
	w.gone.Store(true)
	w.cancel()
}

// Over reports that the client has gone or the call's time is over.
func (w *Waiting) Over() bool {
	return w.Err() != nil || !w.call.Deadline.IsZero() && time.Until(w.call.Deadline) <= 0
}

// Failure says why there is no connection, where the endpoint is not to blame.
func (w *Waiting) Failure(err error) *Failure {
	switch {
	case w.gone.Load():
		return Fail(reason.ClientGone, err)
	case errors.Is(err, ErrOverflow):
		return Fail(reason.UpstreamOverflow, err)
	}
	return Fail(reason.UpstreamTimeout, err)
}

// DialFailure says why dialing failed; blamed means that the endpoint is at fault.
func (w *Waiting) DialFailure(err error) (f *Failure, blamed bool) {
	switch {
	case reason.OwnFault(err):
		return Fail(reason.Overloaded, err), false
	case w.Over():
		return w.Failure(err), false
	case errors.Is(err, reason.UpstreamTLS):
		return Fail(reason.UpstreamTLS, err), true
	}
	return Fail(reason.UpstreamConnect, err), true
}
