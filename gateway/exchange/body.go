package exchange

import (
	"errors"
	"io"
	"math"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// BufferRequest returns the first limit bytes of the request body, or all of it
// if there are fewer; whole says that this is all of it. The body stays in the
// request for whoever comes next (the upstream, another plugin), byte for byte.
// The slice is borrowed and must not be changed.
//
// An error means that the client broke off, was too slow or sent bad framing;
// it is a *reason.Reason or *reason.Refusal to be returned as it is.
func BufferRequest(ctx *fasthttp.RequestCtx, limit int) (body []byte, whole bool, err error) {
	req := &ctx.Request
	if !req.IsBodyStream() {
		return clip(req.Body(), limit)
	}
	stream := req.BodyStream()
	// The front's own stream may have all of it at hand. The front is not
	// asked: another plugin's stream may have taken its place.
	if w, ok := stream.(interface{ Whole() []byte }); ok {
		if b := w.Whole(); b != nil {
			req.SetBodyRaw(b)
			return clip(b, limit)
		}
	}
	size := req.Header.ContentLength()
	begin, rest := ahead(stream)
	if len(begin) > limit {
		return begin[:limit:limit], false, nil
	}
	buf, ended, err := fill(begin, rest, size, limit)
	switch {
	case err != nil:
		return nil, false, asRefusal(err)
	case ended:
		req.SetBodyRaw(buf)
		return clip(buf, limit)
	}
	req.SetBodyStream(&prefixed{head: buf, rest: rest}, size)
	b, _, _ := clip(buf, limit)
	return b, false, nil
}

// clip returns what of a complete body is within limit.
func clip(b []byte, limit int) (body []byte, whole bool, err error) {
	if len(b) > limit {
		return b[:limit:limit], false, nil
	}
	return b, true, nil
}

// firstBuffer is how much memory a body gets before any of it has come: what a
// client announces costs it nothing.
const firstBuffer = 16 << 10

// fill reads a body that begins with begin until more than limit bytes are
// there, or its end: ended says that it was seen. A body that is announced to be
// longer is read to limit only. size is -1 where none is announced.
func fill(begin []byte, rest io.Reader, size, limit int) (buf []byte, ended bool, err error) {
	// One byte more than wanted tells a body of just that size from a longer one.
	most := limit
	if size <= limit && limit < math.MaxInt {
		most++
	}
	first := min(most, max(firstBuffer, 2*len(begin)))
	if size >= 0 {
		first = min(first, max(size, len(begin))+1)
	}
	buf = append(make([]byte, 0, first), begin...)
	for idle := 0; len(buf) < most; {
		if len(buf) == cap(buf) {
			next := 4 * cap(buf)
			if size >= 0 {
				next = min(next, max(size, cap(buf))+1)
			}
			larger := make([]byte, len(buf), min(most, next))
			copy(larger, buf)
			buf = larger
		}
		n, err := rest.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case err == io.EOF:
			return buf, true, nil
		case err != nil:
			return buf, false, err
		case n > 0:
			idle = 0
		default:
			if idle++; idle > maxIdleReads {
				return buf, false, io.ErrNoProgress
			}
		}
	}
	return buf, false, nil
}

// maxIdleReads is how often in a row a stream may give nothing.
const maxIdleReads = 100

func asRefusal(err error) error {
	var r *reason.Reason
	if errors.As(err, &r) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return reason.BodyCut.Wrap(err)
	}
	return reason.ClientGone.Wrap(err)
}

// prefixed is a body of which a plugin has already seen the beginning.
type prefixed struct {
	head []byte
	at   int
	rest io.Reader
}

// Read implements io.Reader.
func (p *prefixed) Read(b []byte) (int, error) {
	if p.at < len(p.head) {
		n := copy(b, p.head[p.at:])
		p.at += n
		return n, nil
	}
	return p.rest.Read(b)
}

// seen is what is at hand, and where the rest comes from.
func (p *prefixed) seen() (begin []byte, rest io.Reader) { return p.head[p.at:], p.rest }

// ahead takes a stream apart that BufferRequest or BufferReply has made, so
// that they do not pile up.
func ahead(stream io.Reader) (begin []byte, rest io.Reader) {
	if p, ok := stream.(interface{ seen() ([]byte, io.Reader) }); ok {
		return p.seen()
	}
	return nil, stream
}

// BufferReply returns the first limit bytes of the reply body, or all of it if
// there are fewer; whole says that this is all of it. The reply keeps its body,
// as with BufferRequest. It must not be called for a reply whose exchange has
// Stream set.
//
// An error means that the upstream broke off, or that the stream cannot be put
// back: one with a Close but no `Hold(on bool)` must be within limit.
func BufferReply(ctx *fasthttp.RequestCtx, limit int) (body []byte, whole bool, err error) {
	resp := &ctx.Response
	if !resp.IsBodyStream() {
		return clip(resp.Body(), limit)
	}
	stream := resp.BodyStream()
	begin, rest := ahead(stream)
	if len(begin) > limit {
		return begin[:limit:limit], false, nil
	}
	// A reply that breaks off while it is held can still become a refusal.
	h, holds := stream.(holder)
	if holds {
		h.Hold(true)
		defer h.Hold(false)
	}
	size := resp.Header.ContentLength()
	buf, ended, err := fill(begin, rest, size, limit)
	switch {
	case err != nil:
		return nil, false, asUpstreamFailure(err)
	case ended:
		if holds {
			h.Hold(false)
		}
		resp.SetBodyRaw(buf) // closes the stream
		return clip(buf, limit)
	}
	if _, closes := rest.(io.Closer); closes && !holds {
		return nil, false, reason.Internal.Because("a reply stream of type %T is longer than %d bytes and cannot be put back", rest, limit)
	}
	resp.SetBodyStream(&prefixedReply{prefixed{head: buf, rest: rest}}, size)
	b, _, _ := clip(buf, limit)
	return b, false, nil
}

// asUpstreamFailure keeps the reason that the proxy's stream gives.
func asUpstreamFailure(err error) error {
	var r *reason.Reason
	if errors.As(err, &r) {
		return err
	}
	return reason.UpstreamReset.Wrap(err)
}

// holder is a reply stream that can ignore the Close that replacing it causes.
// The proxy's streams are holders.
type holder interface{ Hold(on bool) }

// prefixedReply is prefixed for a reply, whose streams are closed.
type prefixedReply struct{ prefixed }

// Close closes the stream that the rest comes from.
func (p *prefixedReply) Close() error {
	if c, ok := p.rest.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Hold passes on to the stream below.
func (p *prefixedReply) Hold(on bool) {
	if h, ok := p.rest.(holder); ok {
		h.Hold(on)
	}
}

// BufferedNow is how many bytes Read returns without waiting.
func (p *prefixedReply) BufferedNow() int {
	n := len(p.head) - p.at
	if b, ok := p.rest.(interface{ BufferedNow() int }); ok {
		n += b.BufferedNow()
	}
	return n
}
