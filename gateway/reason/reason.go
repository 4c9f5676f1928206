// Package reason is the closed list of why Gatehouse itself answers a request
// instead of the upstream. Each reason fixes the status, the machine name seen
// in problem replies, logs and metrics, and the access-log flag. The list is
// closed so that metrics stay bounded and every refusal can be looked up.
package reason

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
)

// Reason says why a request was refused. Values are created in this package
// only and compared by pointer. A *Reason is itself an error, so that refusing
// without detail costs no allocation.
type Reason struct {
	// Name is the stable machine name: snake_case, at most 40 bytes.
	Name string
	// Status is the HTTP status code of the reply.
	Status int
	// GRPC is the status of the reply to a gRPC call, whose HTTP status is 200.
	GRPC grpc.Code
	// Flag is the short upper-case access-log flag. Where Envoy has one for the
	// same case, it is Envoy's (RESPONSE_FLAGS in Envoy's access log manual).
	Flag string
	// Title is one sentence for the client. It never tells more than the status.
	Title string

	bare *Refusal // without detail; shared
}

// Error implements error.
func (r *Reason) Error() string { return r.Name }

// Because attaches a detail that goes to the log, never to the client.
func (r *Reason) Because(format string, args ...any) *Refusal {
	return &Refusal{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// Wrap attaches the cause. Its text goes to the log, never to the client.
func (r *Reason) Wrap(cause error) *Refusal {
	return &Refusal{Reason: r, Detail: cause.Error(), Cause: cause}
}

// Refusal is a reason with what only the operator may know. Once returned it
// must not be changed: those without detail are shared.
type Refusal struct {
	Reason *Reason
	// Status replaces Reason.Status where the user's config names one
	// (fault injection, maintenance); 0 keeps it.
	Status int
	// Detail is for the log.
	Detail string
	Cause  error
}

// Error implements error.
func (r *Refusal) Error() string {
	if r.Detail == "" {
		return r.Reason.Name
	}
	return r.Reason.Name + ": " + r.Detail
}

// Unwrap lets errors.Is find both the reason and the cause.
func (r *Refusal) Unwrap() []error {
	if r.Cause == nil {
		return []error{r.Reason}
	}
	return []error{r.Reason, r.Cause}
}

// Code is the status code to answer with.
func (r *Refusal) Code() int {
	if r.Status != 0 {
		return r.Status
	}
	return r.Reason.Status
}

// GRPC is the status to answer a gRPC call with. A Status that is no error,
// such as a redirect to a login, says less than the reason does.
func (r *Refusal) GRPC() grpc.Code {
	if r.Status >= 400 && r.Status != r.Reason.Status {
		return grpc.ForRefusal(r.Status)
	}
	return r.Reason.GRPC
}

// From turns any error into a refusal; what is not one is an internal error.
// err must not be nil.
func From(err error) *Refusal {
	switch e := err.(type) { //nolint:errorlint // the usual cases, without an allocation
	case *Reason:
		return e.bare
	case *Refusal:
		return e
	}
	var f *Refusal
	if errors.As(err, &f) {
		return f
	}
	var r *Reason
	if errors.As(err, &r) {
		return &Refusal{Reason: r, Detail: err.Error(), Cause: err}
	}
	return Internal.Wrap(err)
}

// OwnFault reports whether err is this machine's own want of descriptors or
// memory, for which the other side must not be blamed.
func OwnFault(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var all []*Reason

func add(name string, status int, flag, title string) *Reason {
	r := &Reason{Name: name, Status: status, GRPC: grpc.ForRefusal(status), Flag: flag, Title: title}
	r.bare = &Refusal{Reason: r}
	all = append(all, r)
	return r
}

// to gives a reason a gRPC status that its HTTP status does not tell.
func (r *Reason) to(c grpc.Code) *Reason {
	r.GRPC = c
	return r
}

// All lists every reason, in the order of this file. The slice is a copy.
func All() []*Reason { return append([]*Reason(nil), all...) }
