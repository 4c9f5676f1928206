package grpcweb

import (
	"bytes"
	"encoding/base64"
	"io"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
)

// front takes the place of the request's own, to get hold of the trailers.
type front struct {
	exchange.Front
	native   bool // the reply is translated: trailers go into its body
	decided  bool
	trailers []byte
}

// ReplyTrailers implements exchange.Front.
func (f *front) ReplyTrailers(lines []byte) {
	if f.decided && !f.native {
		f.Front.ReplyTrailers(lines)
		return
	}
	f.trailers = append(f.trailers, lines...)
}

// WantsUpgrade implements exchange.Front: a call is no tunnel.
func (f *front) WantsUpgrade() (protocol []byte, ok bool) { return nil, false }

// inHead are the fields that a reply without messages has in its head. They
// move into the body: a script sees a header only where CORS exposes it.
var inHead = [...]string{"Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"}

// reply translates the reply, unless it is none of gRPC: the error page of a
// load balancer stays what it is. It returns false where it cannot.
func (f *front) reply(resp *fasthttp.Response, kind grpc.Kind) bool {
	k, format := grpc.KindOf(resp.Header.ContentType())
	f.decided, f.native = true, k == grpc.Native
	if !f.native {
		if len(f.trailers) > 0 {
			f.Front.ReplyTrailers(f.trailers)
		}
		return true
	}
	var memory [64]byte
	resp.Header.SetContentTypeBytes(grpc.AppendType(memory[:0], kind, format)) // format lies in what it replaces
	resp.Header.Del(fasthttp.HeaderTrailer)
	for _, name := range inHead {
		if v := resp.Header.Peek(name); len(v) > 0 {
			f.trailers = append(append(append(append(f.trailers, name...), ": "...), v...), "\r\n"...)
			resp.Header.Del(name)
		}
	}
	if resp.IsBodyStream() {
		return exchange.WrapReply(resp, &stream{front: f, from: resp.BodyStream(), text: kind == grpc.WebText}, -1)
	}
	body := f.appendTrailers(append([]byte(nil), resp.Body()...))
	if kind == grpc.WebText {
		body = base64.StdEncoding.AppendEncode(nil, body)
	}
	resp.SetBodyRaw(body)
	return true
}

// appendTrailers appends the frame of trailers. A reply that has ended without
// a status is told to have failed, as gRPC's libraries take it.
func (f *front) appendTrailers(dst []byte) []byte {
	lowerNames(f.trailers)
	if !hasStatus(f.trailers) {
		return grpc.AppendStatusFrame(dst, grpc.Internal, "The reply ended without a status.")
	}
	at := len(dst)
	dst = append(grpc.BeginTrailers(dst), f.trailers...)
	grpc.EndTrailers(dst, at)
	return dst
}

func hasStatus(lines []byte) bool {
	const name = "grpc-status:"
	return bytes.HasPrefix(lines, []byte(name)) || bytes.Contains(lines, []byte("\n"+name))
}

// stream is the body of a reply that is translated as it comes.
type stream struct {
	front *front
	from  io.Reader
	text  bool
	raw   []byte // text: what was read; made on first use
	out   []byte // what Read gives first
	at    int
	err   error // told when out has been read
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.at < len(s.out) {
			n := copy(p, s.out[s.at:])
			s.at += n
			return n, nil
		}
		if s.err != nil {
			return 0, s.err
		}
		n := s.more(p)
		if n > 0 {
			return n, nil
		}
	}
}

// more reads once: into p, or into out what is encoded and what ends the body.
func (s *stream) more(p []byte) int {
	s.out, s.at = s.out[:0], 0
	into := p
	if s.text {
		if s.raw == nil {
			s.raw = make([]byte, chunk/4*3)
		}
		into = s.raw
	}
	n, err := s.from.Read(into)
	if s.text {
		// Padded each time: what has come must not wait for what has not.
		s.out = base64.StdEncoding.AppendEncode(s.out, into[:n])
		n = 0
	}
	if err == io.EOF {
		frame := s.front.appendTrailers(nil)
		if s.text {
			s.out = base64.StdEncoding.AppendEncode(s.out, frame)
		} else {
			s.out = append(s.out, frame...)
		}
	}
	s.err = err
	return n
}

// BufferedNow is how many bytes Read returns without waiting.
func (s *stream) BufferedNow() int {
	n := len(s.out) - s.at
	if b, ok := s.from.(interface{ BufferedNow() int }); ok && s.err == nil {
		n += b.BufferedNow()
	}
	return n
}

// Hold passes on to the stream below, so that this one can be wrapped again.
func (s *stream) Hold(on bool) {
	if h, ok := s.from.(interface{ Hold(on bool) }); ok {
		h.Hold(on)
	}
}

// Close implements io.Closer.
func (s *stream) Close() error {
	if c, ok := s.from.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
