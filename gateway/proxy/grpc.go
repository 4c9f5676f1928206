package proxy

import (
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// retriable are the gRPC statuses that a route can have retried: Envoy's set
// (x-envoy-retry-grpc-on). The others say something about the request, which
// another endpoint would say as well.
var retriable = [...]grpc.Code{grpc.Cancelled, grpc.DeadlineExceeded, grpc.Internal, grpc.ResourceExhausted, grpc.Unavailable}

// callWord is a code as the config names it, such as "grpc_unavailable".
func callWord(c grpc.Code) string { return "grpc_" + strings.ToLower(c.String()) }

// addCall adds the status that a word of the config names.
func (on *RetryOn) addCall(word string) error {
	var known []string
	for _, c := range retriable {
		if word == callWord(c) {
			on.calls |= 1 << c
			return nil
		}
		known = append(known, callWord(c))
	}
	return fmt.Errorf("%q is not known; known of gRPC: %s", word, strings.Join(known, ", "))
}

// isCall reports a gRPC call, in whatever form the client has made it.
func (f *forward) isCall() bool { return f.e.RPC.Kind == grpc.Native }

// mayRetryCall reports that the route retries this call for its status. Naming
// a status of gRPC allows it although a call is a POST: there is nothing else
// it could be for. A call is retried for its status only where the reply has no
// message, because then nothing has reached the client (gRFC A6); for a broken
// connection the rules of every POST hold.
func (f *forward) mayRetryCall() bool {
	return f.proxy.settings.Retries.On.calls != 0 && f.isCall()
}

// headStatus is the status in the head of a call's reply, where one without
// messages has it.
func (l *leg) headStatus() (c grpc.Code, ok bool) {
	head, raw := l.conn.Head()
	for _, field := range head.Fields {
		if name := field.Name(raw); len(name) == 11 && wire.EqualFold(name, "grpc-status") {
			c, _ = grpc.ParseCode(field.Value(raw))
			return c, true
		}
	}
	return 0, false
}

// worthReply reports whether the reply is one the route retries.
func (f *forward) worthReply(l *leg) (worth, call bool) {
	if f.mayRetryCall() {
		if c, ok := l.headStatus(); ok {
			return f.proxy.settings.Retries.On.calls&(1<<c) != 0, true
		}
	}
	return f.proxy.settings.Retries.On.Status(l.status()), false
}

// healthOf is the HTTP status that stands for a call's status where endpoints
// are judged; 0: the reply's own. Only what says that the endpoint has failed
// counts: a client must not get endpoints ejected by asking for methods that do
// not exist, or by allowing no time.
func (f *forward) healthOf(c grpc.Code) int {
	switch c {
	case grpc.Unavailable:
		return 503
	case grpc.Unknown, grpc.Internal, grpc.DataLoss:
		return 500
	case grpc.DeadlineExceeded:
		if f.e.RPC.Deadline.IsZero() {
			return 504
		}
	}
	return 0
}

// late reports that the time the caller has given the call is over.
func (f *forward) late() bool {
	d := f.e.RPC.Deadline
	return !d.IsZero() && !time.Now().Before(d)
}

// errLate is what a call is answered with whose time is over.
var errLate = reason.RequestTimeout.Because("the time in grpc-timeout is over")

// appendTimeLeft appends what is left of the caller's time as grpc-timeout.
func (f *forward) appendTimeLeft(o []byte) []byte {
	o = append(o, "Grpc-Timeout: "...)
	return append(grpc.AppendTimeout(o, time.Until(f.e.RPC.Deadline)), "\r\n"...)
}

// fail ends a call whose reply has broken off with a status of its own. Unlike
// a reply that is cut, that tells the client why.
func (s *stream) fail(err error) {
	e := s.f.e
	r := reason.From(err)
	var memory [256]byte
	lines := append(memory[:0], "grpc-status: "...)
	lines = grpc.AppendCode(lines, r.GRPC())
	lines = append(lines, "\r\ngrpc-message: "...)
	lines = grpc.AppendMessage(lines, r.Reason.Title)
	lines = append(lines, "\r\n"...)
	e.Front.ReplyTrailers(lines)
	e.NoteTrailers(lines)
}

// expire ends a call's reply when the caller's time is over.
func (s *stream) expire() {
	s.state.Lock()
	defer s.state.Unlock()
	if !s.over {
		s.late.Store(true)
		s.l.conn.Abort() // ends a Read in progress
	}
}
