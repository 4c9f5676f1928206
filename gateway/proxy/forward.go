package proxy

import (
	"errors"
	"io"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// forward is one request on its way through the proxy, over all its tries. It
// is pooled; a reply that is streamed keeps it until the stream has ended.
type forward struct {
	proxy   *Proxy
	ctx     *fasthttp.RequestCtx
	e       *exchange.Exchange
	backend *backend
	pick    upstream.PickRequest

	body    body
	tee     tee
	again   bool // the request may be sent again even if it was sent before
	first   time.Time
	tries   int
	tried   [4]*upstream.Endpoint
	retry   bool // a place in the retry budget is taken
	leg     leg
	scratch []byte
	cookies cookies

	// Made once, because a method value allocates.
	eachCookie, eachTrailer func(name, value []byte) bool
}

// body is the request body as the proxy found it: bytes at hand, or a stream.
type body struct {
	bytes  []byte
	stream io.Reader
	length int64 // of both; below 0: unknown
	some   bool
}

// keepHead is how large a buffer a pooled forward may keep.
const keepHead = 64 << 10

// inlineBody is up to which size a body goes out in one write with the head.
const inlineBody = 16 << 10

func newForward(p *Proxy) *forward {
	f := &forward{proxy: p}
	f.eachCookie, f.eachTrailer = f.cookies.add, f.addTrailer
	return f
}

func (f *forward) free() {
	f.giveRetry()
	head, scratch, kept, cookies := f.leg.head[:0], f.scratch[:0], f.tee.kept[:0], f.cookies.lines[:0]
	if cap(head)+cap(scratch)+cap(kept)+cap(cookies) > keepHead {
		head, scratch, kept, cookies = nil, nil, nil, nil
	}
	p := f.proxy
	*f = forward{proxy: p, scratch: scratch, eachCookie: f.eachCookie, eachTrailer: f.eachTrailer}
	f.leg.head, f.tee.kept, f.cookies.lines = head, kept, cookies
	p.forwards.Put(f)
}

// run makes tries until one gives a reply or none is left. kept says that the
// reply still needs f.
func (f *forward) run() (kept bool, err error) {
	p := f.proxy
	f.backend = p.choose()
	f.preparePick()
	f.e.Upstream.Name = f.backend.up.Name()
	if p.mirror != nil {
		if err := p.mirror.offer(f); err != nil {
			return false, err
		}
	}
	f.takeBody()
	f.first = time.Now()
	f.bound(f.first)
	if f.late() {
		return false, errLate
	}
	hedge := p.settings.Hedge > 0 && f.again && !f.body.some
	for {
		l := &f.leg
		var why error
		if hedge {
			hedge = false
			l, why = f.hedged()
		} else {
			why = f.try(l)
		}
		if why == nil {
			worth, call := f.worthReply(l)
			if !worth || !f.mayRepeat(l, nil, call) {
				return f.deliver(l)
			}
			l.drop()
		} else if !p.worth(why) || !f.mayRepeat(l, why, false) {
			return false, f.refusal(why)
		}
		if err := p.backOff(f.e, f.tries); err != nil {
			return false, err
		}
	}
}

// bound sets the request's deadline once its body is at hand.
func (f *forward) bound(now time.Time) {
	if d := f.proxy.settings.Timeouts.Request; d > 0 && f.body.stream == nil {
		if by := now.Add(d); f.e.Deadline.IsZero() || by.Before(f.e.Deadline) {
			f.e.Deadline = by
		}
	}
}

// worth reports whether the failure is one the route retries.
func (p *Proxy) worth(why error) bool {
	var failure *transport.Failure
	return errors.As(why, &failure) && p.settings.Retries.On.failure(failure)
}

// mayRepeat asks whether another try is possible, and takes what it needs. why
// is nil where the try brought a reply; call says that it was one to a gRPC call
// which the route retries for its status.
func (f *forward) mayRepeat(l *leg, why error, call bool) bool {
	p := f.proxy
	if f.tries > p.settings.Retries.Attempts || f.e.Front.ReplyBytes() > 0 {
		return false
	}
	if d := f.e.Deadline; !d.IsZero() && !time.Now().Before(d) {
		return false
	}
	var failure *transport.Failure
	unsent, read := false, false
	if errors.As(why, &failure) {
		unsent, read = failure.Unsent, failure.BodyRead
	} else if why == nil {
		read = l.conn.BodyRead()
	}
	if !unsent && !f.again && !call || !f.rewind(unsent, read) {
		return false
	}
	if unsent || f.retry {
		return true
	}
	f.retry = p.takeRetry(f.backend.up)
	if o := p.settings.Observer; !f.retry && o != nil {
		o.RetryDenied(f.e.Upstream.Name)
	}
	return f.retry
}

// giveRetry gives a place in the retry budget back.
func (f *forward) giveRetry() {
	if f.retry {
		f.retry = false
		f.proxy.giveRetry(f.backend.up)
	}
}

// rewind makes the request body ready to be sent again. read says that it has
// been read to its end.
func (f *forward) rewind(unsent, read bool) bool {
	switch {
	case f.body.stream == nil:
		return true
	case unsent && f.e.Front.RequestBytes() == 0:
		return true // nobody has read of it
	case !read || f.tee.over:
		return false
	}
	// What was read is all there is.
	f.body.bytes, f.body.stream = f.tee.kept, nil
	f.body.length = int64(len(f.tee.kept))
	f.bound(time.Now())
	return true
}

// takeBody finds the request body, which plugins may have read or replaced.
func (f *forward) takeBody() {
	req := &f.ctx.Request
	s := &f.proxy.settings.Retries
	f.again = s.NonIdempotent || idempotent(req.Header.Method())
	f.body = body{}
	if !req.IsBodyStream() {
		if b := req.Body(); len(b) > 0 {
			f.body = body{bytes: b, length: int64(len(b)), some: true}
		}
		return
	}
	stream := req.BodyStream()
	if w, ok := stream.(interface{ Whole() []byte }); ok && f.e.Front.RequestBytes() == 0 {
		if b := w.Whole(); b != nil {
			f.body = body{bytes: b, length: int64(len(b)), some: true}
			return
		}
	}
	f.body = body{stream: stream, length: int64(req.Header.ContentLength()), some: true}
	f.tee = tee{kept: f.tee.kept[:0], limit: s.BufferBody, over: !f.again && !f.mayRetryCall() || s.Attempts == 0}
}

// refusal turns a try's failure into what the client gets.
func (f *forward) refusal(why error) error {
	var failure *transport.Failure
	if !errors.As(why, &failure) {
		return why
	}
	r := failure.Reason
	if f.late() && (r == reason.UpstreamTimeout || r == reason.UpstreamReset) {
		return errLate // its server may have given up just before
	}
	if d := f.e.Deadline; r == reason.UpstreamTimeout && !d.IsZero() && !time.Now().Before(d) {
		r = reason.RequestTimeout
	}
	if failure.Cause == nil {
		return &reason.Refusal{Reason: r, Detail: "endpoint " + f.e.Upstream.Endpoint}
	}
	return &reason.Refusal{Reason: r, Detail: "endpoint " + f.e.Upstream.Endpoint + ": " + failure.Cause.Error(), Cause: failure}
}
