package proxy

import (
	"errors"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
	"github.com/gatehouse-proxy/gatehouse/telemetry"
)

// leg is one try: an endpoint, a connection to it and the call on that.
type leg struct {
	ep    *upstream.Endpoint
	conn  transport.Conn
	call  transport.Call
	head  []byte
	began time.Time
	span  telemetry.Span
	note  Try
	// health is the status that stands for the reply where endpoints are judged;
	// 0: its own.
	health int
}

// try chooses an endpoint, sends the request and waits for the reply's head.
// After an error the endpoint and the connection are given back.
func (f *forward) try(l *leg) error {
	if err := f.start(l); err != nil {
		return err
	}
	return f.finish(l, f.send(l))
}

// start chooses an endpoint that has not been tried.
func (f *forward) start(l *leg) error {
	n := min(f.tries, len(f.tried))
	f.pick.Exclude = f.tried[:n]
	ep, err := f.backend.up.Pick(&f.pick)
	if err != nil {
		return err
	}
	f.tried[min(n, len(f.tried)-1)] = ep
	f.tries++
	u := &f.e.Upstream
	u.Endpoint, u.Attempts = ep.Address, f.tries
	l.ep, l.conn, l.began, l.health = ep, nil, f.first, 0
	if f.tries > 1 {
		l.began = time.Now()
	}
	l.note = Try{Upstream: u.Name, Endpoint: ep.Address, Number: f.tries}
	if l.span = nil; f.e.Span != nil {
		l.span = f.e.Span.Child("upstream")
		l.span.SetString("gatehouse.upstream", u.Name)
		l.span.SetString("server.address", ep.Address)
		l.span.SetInt("http.request.resend_count", int64(f.tries-1))
	}
	f.prepare(l)
	return nil
}

// prepare fills in the call.
func (f *forward) prepare(l *leg) {
	f.appendHead(l)
	s := &f.proxy.settings
	c := &l.call
	*c = transport.Call{
		Front: f.e.Front, Watch: f.e.Front,
		NoBody:   f.ctx.IsHead(),
		Deadline: f.e.Deadline, Idle: s.Timeouts.Idle,
	}
	if f.body.stream != nil {
		c.Deadline, c.Answer = f.e.RPC.Deadline, shorter(s.Timeouts.Request, s.Timeouts.PerTry)
	} else if d := s.Timeouts.PerTry; d > 0 {
		if by := l.began.Add(d); c.Deadline.IsZero() || by.Before(c.Deadline) {
			c.Deadline = by
		}
	}
	_, c.Upgrade = f.upgrade()
	c.Trailers = f.version() >= 2 // HTTP/1 has them only behind chunks
	c.Last = f.last()
	b := &f.body
	switch {
	case !b.some:
	case b.stream != nil:
		c.Stream, c.Length = b.stream, b.length
		if !f.tee.over {
			f.tee.kept = f.tee.kept[:0]
			c.Tee = &f.tee
		}
	case f.trailers():
		c.Body, c.Stream, c.Length = b.bytes, nothing{}, -1
	case len(b.bytes) <= inlineBody:
		l.head = append(l.head, b.bytes...)
	default:
		c.Body = b.bytes
	}
	c.Head = l.head
}

// shorter is the shorter of two times of which 0 means none.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// trailers reports that a body at hand has trailers and so must be chunked.
func (f *forward) trailers() bool {
	return f.body.stream == nil && len(f.e.Front.RequestTrailers()) > 0
}

// send has the call made, on a fresh connection where one that had been idle
// turns out to be dead and the request can be repeated: that is the price of
// keeping connections, and no retry.
func (f *forward) send(l *leg) error {
	pool, ok := l.ep.Pool.(transport.Pool)
	if !ok {
		return reason.Internal.Because("upstream %s: its pool is a %T", l.note.Upstream, l.ep.Pool)
	}
	for fresh := false; ; fresh = true {
		conn, err := pool.Get(&l.call, fresh)
		if err != nil {
			return err
		}
		l.note.Reused, l.note.Protocol = conn.Reused(), conn.Protocol()
		if err = conn.Do(&l.call); err == nil {
			if !f.accepted(conn) {
				_ = conn.Release() // which closes it: it is no HTTP any more
				return transport.Fail(reason.UpstreamProtocol, errNotAccepted)
			}
			l.conn = conn
			return nil
		}
		var failure *transport.Failure
		if fresh || !errors.As(err, &failure) || !failure.Stale {
			return err
		}
		if !failure.Unsent && !(f.again && f.body.stream == nil) {
			return err
		}
	}
}

// finish takes a try's outcome down. A reply's endpoint is given back later.
func (f *forward) finish(l *leg, err error) error {
	l.note.Latency = time.Since(l.began)
	u := &f.e.Upstream
	u.Reused, u.Protocol = l.note.Reused, l.note.Protocol
	if err != nil {
		if l.note.Failure = failureOf(err); f.late() {
			l.note.Failure = upstream.NotTried // it was the caller who gave no more time
		}
		l.end(upstream.Result{Failure: l.note.Failure}, err)
	} else {
		l.note.Status = l.status()
		if f.isCall() {
			if c, ok := l.headStatus(); ok {
				l.health = f.healthOf(c)
			}
		}
		u.Took = l.began.Sub(f.first) + l.note.Latency
	}
	if o := f.proxy.settings.Observer; o != nil {
		o.Tried(&l.note)
	}
	return err
}

// failureOf says whether, and how, the endpoint is to blame.
func failureOf(err error) upstream.Failure {
	var failure *transport.Failure
	if !errors.As(err, &failure) || failure.Client {
		return upstream.NotTried
	}
	switch failure.Reason {
	case reason.UpstreamConnect:
		return upstream.FailedConnect
	case reason.UpstreamTLS:
		return upstream.FailedTLS
	case reason.UpstreamReset:
		return upstream.FailedReset
	case reason.UpstreamTimeout:
		return upstream.FailedTimeout
	case reason.UpstreamProtocol, reason.UpstreamHeadLarge:
		return upstream.FailedProtocol
	}
	return upstream.NotTried // the client went away, or a limit of ours refused
}

func (l *leg) status() int {
	head, _ := l.conn.Head()
	return head.Status
}

// switched gives the connection of a reply that switches protocols. Only
// protocols that can be left make such a reply.
func (l *leg) switched(head *wire.RespHead) (transport.Hijacker, bool) {
	if head.Status != 101 {
		return nil, false
	}
	conn, ok := l.conn.(transport.Hijacker)
	return conn, ok
}

// end gives the endpoint back and closes the span.
func (l *leg) end(r upstream.Result, err error) {
	if l.span != nil {
		l.describe()
		if err != nil {
			l.span.Fail(err.Error())
		}
		l.span.End()
		l.span = nil
	}
	l.ep.Done(r)
}

// describe puts on the span what is known of the reply and the connection.
func (l *leg) describe() {
	if l.note.Status != 0 {
		l.span.SetInt("http.response.status_code", int64(l.note.Status))
	}
	if p := l.note.Protocol; p != "" {
		version := "2"
		if p == transport.HTTP1 {
			version = "1.1"
		}
		l.span.SetString("network.protocol.name", "http")
		l.span.SetString("network.protocol.version", version)
	}
}

// result is that of a try which brought a reply.
func (l *leg) result() upstream.Result {
	status := l.note.Status
	if l.health != 0 {
		status = l.health
	}
	return upstream.Result{Status: status, Latency: l.note.Latency}
}

// drop gives up a reply that another try is to better.
func (l *leg) drop() {
	l.conn.Whole(inlineBody) // if it is all there, the connection can be kept
	_ = l.conn.Release()     // the request body's failure shows in the next try
	l.end(l.result(), nil)
}
