package exchange

import (
	"bytes"
	"errors"
	"io"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// BufferRequest reads up to limit bytes of the request body and returns them;
// whole says that this is all of it. The body stays in the request for whoever
// comes next (the upstream, another plugin): afterwards ctx.Request holds the
// bytes, or a stream that begins with them. The slice is borrowed and must not
// be changed. Several plugins may call it; each gets at least what it asked for.
//
// An error means that the client broke off, was too slow or sent bad framing;
// it is a *reason.Reason or *reason.Refusal to be returned as it is.
func BufferRequest(ctx *fasthttp.RequestCtx, limit int) (body []byte, whole bool, err error) {
	req := &ctx.Request
	if !req.IsBodyStream() {
		b := req.Body()
		return b, true, nil
	}
	stream := req.BodyStream()
	// The front's own stream may have all of it at hand. The front is not
	// asked: another plugin's stream may have taken its place.
	if w, ok := stream.(interface{ Whole() []byte }); ok {
		if b := w.Whole(); b != nil {
			req.SetBodyRaw(b)
			return b, true, nil
		}
	}
	if p, ok := stream.(*prefixed); ok {
		if len(p.head) >= limit {
			return p.head, false, nil
		}
	}
	size := req.Header.ContentLength()
	buf := make([]byte, 0, bufferSize(size, limit))
	for len(buf) < limit {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		room := buf[len(buf):min(cap(buf), limit)]
		n, err := stream.Read(room)
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			req.SetBodyRaw(buf)
			return buf, true, nil
		}
		if err != nil {
			return buf, false, asRefusal(err)
		}
	}
	if size >= 0 && size == len(buf) {
		if _, err := stream.Read(make([]byte, 1)); err == io.EOF {
			req.SetBodyRaw(buf)
			return buf, true, nil
		}
	}
	req.SetBodyStream(&prefixed{head: buf, rest: stream}, size)
	return buf, false, nil
}

func bufferSize(size, limit int) int {
	switch {
	case size >= 0:
		return min(size, limit)
	default:
		return min(4096, limit)
	}
}

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

// BufferReply reads up to limit bytes of the reply body and returns them;
// whole says that this is all of it. The reply keeps its body, as with
// BufferRequest. It must not be called for a reply whose exchange has Stream set.
func BufferReply(ctx *fasthttp.RequestCtx, limit int) (body []byte, whole bool, err error) {
	resp := &ctx.Response
	if !resp.IsBodyStream() {
		return resp.Body(), true, nil
	}
	stream := resp.BodyStream()
	if p, ok := stream.(*prefixedReply); ok && len(p.head) >= limit {
		return p.head, false, nil
	}
	// A reply that breaks off while it is held can still become a refusal.
	if h, ok := stream.(holder); ok {
		h.Hold(true)
		defer h.Hold(false)
	}
	size := resp.Header.ContentLength()
	buf := bytes.NewBuffer(make([]byte, 0, bufferSize(size, limit)))
	_, err = io.CopyN(buf, stream, int64(limit))
	if err == io.EOF {
		resp.SetBodyRaw(buf.Bytes()) // closes the stream
		return buf.Bytes(), true, nil
	}
	if err != nil {
		return buf.Bytes(), false, asUpstreamFailure(err)
	}
	detachReply(resp, &prefixedReply{prefixed{head: buf.Bytes(), rest: stream}, stream}, size)
	return buf.Bytes(), false, nil
}

// asUpstreamFailure keeps the reason that the proxy's stream gives.
func asUpstreamFailure(err error) error {
	var r *reason.Reason
	if errors.As(err, &r) {
		return err
	}
	return reason.UpstreamReset.Wrap(err)
}

// detachReply replaces the reply's stream without closing the old one, which
// the new one reads from and closes.
func detachReply(resp *fasthttp.Response, s *prefixedReply, size int) {
	if h, ok := s.stream.(holder); ok {
		h.Hold(true)
		resp.SetBodyStream(s, size)
		h.Hold(false)
		return
	}
	resp.SetBodyStream(s, size)
}

// holder is a reply stream that can ignore the Close that replacing it causes.
// The proxy's streams are holders.
type holder interface{ Hold(on bool) }

func closeStream(s io.Reader) {
	if c, ok := s.(io.Closer); ok {
		_ = c.Close() // the stream was read to its end: there is nothing left to fail
	}
}

type prefixedReply struct {
	prefixed
	stream io.Reader
}

// Close closes the stream that the rest comes from.
func (p *prefixedReply) Close() error { closeStream(p.stream); return nil }

// Hold passes on to the stream below.
func (p *prefixedReply) Hold(on bool) {
	if h, ok := p.stream.(holder); ok {
		h.Hold(on)
	}
}
