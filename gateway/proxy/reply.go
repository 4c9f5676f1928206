package proxy

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// maxWhole is up to which size a reply body that has come together with its
// head is copied, so that the connection is free before the client has read.
const maxWhole = 16 << 10

// deliver makes the leg's reply the client's. kept says that l, and so f, is
// used until the reply's stream or tunnel ends.
func (f *forward) deliver(l *leg) (kept bool, err error) {
	f.giveRetry() // a stream may go on for long
	head, raw := l.conn.Head()
	out := &f.ctx.Response
	u := &f.e.Upstream
	u.Status = head.Status
	out.SetStatusCode(head.Status)
	f.copyFields(head, raw)
	f.e.NoteHead(&out.Header)
	if s := f.backend.sticky; s != nil && f.pick.Prefer != l.ep.ID() {
		s.remember(f.ctx, l.ep)
	}
	if conn, ok := l.switched(head); ok {
		f.e.Stream = true
		f.tunnel(l, conn)
		return false, nil
	}
	if isStream(out.Header.ContentType()) {
		f.e.Stream = true
	}
	if l.conn.Complete() {
		// HEAD tells the length of what a GET would bring.
		if f.ctx.IsHead() {
			out.SkipBody = true
			out.Header.SetContentLength(int(head.ContentLength))
		}
		return false, f.release(l)
	}
	if b, ok := l.conn.Whole(maxWhole); ok {
		out.SetBody(b)
		f.noteTrailers(l)
		return false, f.release(l)
	}
	l.conn.Unbounded()
	s := &stream{f: f, l: l}
	if f.isCall() && f.e.Stream {
		s.call = true
		if d := f.e.RPC.Deadline; !d.IsZero() {
			s.timer = time.AfterFunc(time.Until(d), s.expire)
		}
	}
	f.e.Hold(s, 0)
	out.SetBodyStream(s, int(l.conn.Length()))
	return true, nil
}

// release ends a try whose reply is complete. A request body that broke off
// under an early reply does not change that reply.
func (f *forward) release(l *leg) error {
	_ = l.conn.Release()
	l.end(l.result(), nil)
	return nil
}

// noteTrailers passes on what has followed the reply's body.
func (f *forward) noteTrailers(l *leg) {
	t := l.conn.Trailers()
	if len(t) == 0 {
		return
	}
	f.e.Front.ReplyTrailers(t)
	f.e.NoteTrailers(t)
	if f.e.RPC.Known {
		l.health = f.healthOf(f.e.RPC.Code)
	}
}

// copyFields passes on the reply's header fields. Those that plugins have set
// stay.
func (f *forward) copyFields(head *wire.RespHead, raw []byte) {
	h := &f.ctx.Response.Header
	listed := listsMore(head, raw)
	for i, field := range head.Fields {
		name := field.Name(raw)
		if head.Hop(i) && !(head.Status == 101 && wire.EqualFold(name, "upgrade")) {
			continue
		}
		switch len(name) {
		case 4:
			if wire.EqualFold(name, "date") {
				f.e.Front.ReplyDate(field.Value(raw))
				continue
			}
		case 18:
			if wire.EqualFold(name, "proxy-authenticate") {
				continue
			}
		}
		if listed && head.ListsField(raw, borrow(f.lower(name))) {
			continue
		}
		h.AddBytesKV(name, field.Value(raw))
	}
}

// lower is name in lower case, until the next call.
func (f *forward) lower(name []byte) []byte {
	f.scratch = f.scratch[:0]
	for _, c := range name {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		f.scratch = append(f.scratch, c)
	}
	return f.scratch
}

// listsMore reports that a Connection field names fields that are not known to
// be hop-by-hop anyway.
func listsMore(head *wire.RespHead, raw []byte) bool {
	for i, field := range head.Fields {
		if !head.Hop(i) || !wire.EqualFold(field.Name(raw), "connection") {
			continue
		}
		v := field.Value(raw)
		if !wire.EqualFold(v, "close") && !wire.EqualFold(v, "keep-alive") && !wire.EqualFold(v, "upgrade") {
			return true
		}
	}
	return false
}

// isStream reports the types of replies that go on for as long as they like.
func isStream(contentType []byte) bool {
	return hasPrefixFold(contentType, "text/event-stream") || hasPrefixFold(contentType, "application/grpc")
}

func hasPrefixFold(b []byte, lower string) bool {
	return len(b) >= len(lower) && wire.EqualFold(b[:len(lower)], lower)
}

var errOver = errors.New("the reply is over")

// stream is the body of a reply that is passed on as it comes. It is never
// pooled: whoever still holds one when its reply is over must not get hold of
// somebody else's.
type stream struct {
	f    *forward
	l    *leg
	held atomic.Bool
	call bool // a gRPC call's
	late atomic.Bool
	// timer ends a call when the caller's time is over; nil without one.
	timer *time.Timer

	reading sync.Mutex // held while reading and ending; taken before state
	state   sync.Mutex // guards over
	over    bool
}

// BufferedNow is how many bytes Read returns without waiting.
func (s *stream) BufferedNow() int {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.over {
		return 0
	}
	return s.l.conn.BufferedNow()
}

// Hold makes the stream ignore Close, and failures be told to the reader only,
// while somebody takes it out of the reply to read it himself.
func (s *stream) Hold(on bool) { s.held.Store(on) }

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.over {
		return 0, errOver
	}
	n, err := s.l.conn.Read(p)
	if err == nil {
		return n, nil
	}
	e := s.f.e
	if err == io.EOF {
		s.f.noteTrailers(s.l)
		s.end(nil)
		return n, io.EOF
	}
	blame := err
	err = s.f.refusal(err)
	if s.late.Load() {
		err = errLate
	}
	if s.call && !errors.Is(err, reason.ClientGone) {
		_ = e.Refuse(err)
		s.fail(err)
		s.end(blame)
		return n, io.EOF
	}
	if !s.held.Load() {
		// Whatever becomes of the error on its way to the client, the reply
		// must not look complete.
		e.Front.Cut()
		_ = e.Refuse(err)
	}
	s.end(err)
	return n, err
}

// Close implements io.Closer: nobody wants the rest.
func (s *stream) Close() error {
	if !s.held.Load() {
		s.abort()
	}
	return nil
}

// Release implements exchange.Releaser: the request is over, whoever else may
// still be reading.
func (s *stream) Release(*exchange.Exchange, uint64) { s.abort() }

func (s *stream) abort() {
	s.state.Lock()
	if s.over {
		s.state.Unlock()
		return
	}
	s.l.conn.Abort() // ends a Read in progress
	s.state.Unlock()
	s.reading.Lock()
	defer s.reading.Unlock()
	if !s.over {
		s.end(errOver)
	}
}

// end gives everything back. s.reading is held.
func (s *stream) end(err error) {
	s.state.Lock()
	s.over = true
	s.state.Unlock()
	f, l := s.f, s.l
	if s.timer != nil {
		s.timer.Stop()
	}
	_ = l.conn.Release()
	r := l.result()
	if err != nil && !f.late() {
		r.Failure = failureOf(err)
	}
	l.end(r, err)
	s.f, s.l = nil, nil
	f.free()
}

var _ interface {
	io.ReadCloser
	exchange.Releaser
	BufferedNow() int
	Hold(bool)
} = (*stream)(nil)
