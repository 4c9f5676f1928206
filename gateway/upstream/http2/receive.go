package http2

import (
	"errors"
	"io"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// headFactor is how often a head may be as large as the limit before it is no
// longer looked at: what is a little too large is told from an attack.
const headFactor = 4

// block is a header block in the making, as lines of HTTP/1.
type block struct {
	limit  uint32
	stream uint32
	end    bool

	read     int    // bytes of its frames
	size     uint32 // of its fields
	status   int    // 0: none
	lines    []byte
	regular  bool   // a field that is not a pseudo-header field has come
	trailers bool   // the fields are to be looked at as such
	announce bool   // trailers are announced
	length   int64  // announced of the body; below 0: not
	wrong    string // what is; empty: nothing
	large    bool
}

func (k *block) begin(stream uint32, end bool) {
	*k = block{limit: k.limit, stream: stream, end: end, lines: k.lines[:0], length: -1}
	if cap(k.lines) > keepHead {
		k.lines = nil
	}
}

// field takes a field that has been decoded. What concerns one connection only
// is left out, where it should not be in the first place.
func (k *block) field(f hpack.HeaderField) {
	k.size += f.Size()
	switch {
	case k.wrong != "" || k.large:
		return
	case k.size > k.limit:
		k.large = true
		return
	case f.IsPseudo():
		k.pseudo(f)
		return
	}
	k.regular = true
	switch {
	case !frames.ValidName(f.Name):
		k.wrong = "a field has a name that it must not have"
	case !frames.ValidValue(f.Value):
		k.wrong = "a field has a value that it must not have"
	case frames.OfConnection(f.Name):
	case f.Name == "trailer":
		k.announce = true
	case k.trailers && wire.ForbiddenTrailer([]byte(f.Name)):
	default:
		value := frames.Trim(f.Value)
		switch f.Name {
		case "content-length":
			if k.contentLength(value); k.status < 200 {
				return // an interim reply has no body, and nobody behind us is to wait for one
			}
		case "content-type":
			// Its status comes in the trailers, whether they are announced or not.
			k.announce = k.announce || strings.HasPrefix(value, "application/grpc")
		}
		k.lines = append(append(append(frames.Title(k.lines, f.Name), ": "...), value...), "\r\n"...)
	}
}

func (k *block) pseudo(f hpack.HeaderField) {
	if f.Name != ":status" || k.regular || k.status != 0 || k.trailers {
		k.wrong = "a pseudo-header field where it must not be"
		return
	}
	n, err := strconv.ParseUint(f.Value, 10, 16)
	if err != nil || len(f.Value) != 3 || n < 100 {
		k.wrong = "the status is not one"
		return
	}
	k.status = int(n)
}

// contentLength takes the length of the body, which wire judges once more.
func (k *block) contentLength(value string) {
	n, err := strconv.ParseUint(value, 10, 62)
	if err != nil || k.length >= 0 && k.length != int64(n) {
		k.wrong = "the body's length is not one"
		return
	}
	k.length = int64(n)
}

// fragment takes a piece of a header block.
func (in *input) fragment(f *frames.Frame) error {
	k := &in.block
	if f.Type == frames.Headers {
		if c := in.stream(k.stream); c != nil {
			k.trailers = c.headed
			c.mu.Unlock()
		}
	}
	if k.read += len(f.Payload) + frames.HeaderLen; k.read > int(k.limit)+frames.HeaderLen {
		return frames.Break(frames.EnhanceYourCalm, "a head is much too large")
	}
	_, err := in.dec.Write(f.Payload)
	if err == nil && f.BlockEnded() {
		if err = in.dec.Close(); err == nil {
			return in.headers()
		}
	}
	if err != nil {
		return frames.Break(frames.CompressionError, err.Error())
	}
	return nil
}

// headers hands a header block over that is complete.
func (in *input) headers() error {
	k := &in.block
	c := in.stream(k.stream)
	if c == nil {
		return in.spend(1) // over; the table had to be kept up with
	}
	in.moved++
	defer c.mu.Unlock()
	c.touch()
	switch {
	case k.large:
		in.refuse(c, reason.UpstreamHeadLarge, errors.New("the head is larger than the limit"))
	case c.ended:
		return &frames.Error{Code: frames.StreamClosed, Stream: k.stream, Detail: "fields behind the end"}
	case k.wrong != "":
		in.refuse(c, reason.UpstreamProtocol, errors.New(k.wrong))
	case c.headed:
		in.trailers(c)
	case k.status == 0:
		in.refuse(c, reason.UpstreamProtocol, errors.New("a reply without a status"))
	case k.status < 200:
		in.interim(c)
	default:
		c.raw = append(appendStatus(c.raw[:0], k.status), k.lines...)
		c.raw = append(c.raw, "\r\n"...)
		c.headed, c.announced, c.expect = true, k.announce, k.length
		c.headEnded = k.end
		if c.call.NoBody || k.status == 204 || k.status == 304 {
			c.expect = 0
		}
		in.bells = append(in.bells, c.bell)
		if k.end {
			in.finished(c)
		}
	}
	return nil
}

func appendStatus(b []byte, status int) []byte {
	b = strconv.AppendInt(append(b, "HTTP/1.1 "...), int64(status), 10)
	return append(b, " \r\n"...)
}

// trailers takes what follows a body. c.mu is held.
func (in *input) trailers(c *Conn) {
	k := &in.block
	if !k.end {
		in.refuse(c, reason.UpstreamProtocol, errors.New("a second head"))
		return
	}
	c.trailers = append(c.trailers[:0], k.lines...)
	in.finished(c)
}

// interim takes an interim reply. "100 Continue" stays here: the front has sent
// its own, and the endpoint was never asked. c.mu is held.
func (in *input) interim(c *Conn) {
	k := &in.block
	c.interims++
	switch {
	case k.end:
		in.refuse(c, reason.UpstreamProtocol, errors.New("an interim reply that ends"))
	case c.interims > transport.MaxInterims:
		in.refuse(c, reason.UpstreamProtocol, errTooManyInterims)
	case k.status == 101:
		in.refuse(c, reason.UpstreamProtocol, errSwitched)
	case k.status != 100 && c.call.Front != nil:
		c.informing = append(c.informing, interim{k.status, append([]byte(nil), k.lines...)})
		in.bells = append(in.bells, c.bell)
	}
}

// finished notes that the endpoint has ended its side. c.mu is held.
func (in *input) finished(c *Conn) {
	l := in.link
	c.ended = true
	if c.expect >= 0 && c.came < c.expect {
		c.err = &fault{reason: reason.UpstreamReset, cause: io.ErrUnexpectedEOF}
	}
	l.mu.Lock()
	c.got = true
	if c.sent {
		delete(l.streams, in.id(c))
	}
	l.mu.Unlock()
	in.done(c)
}

func (in *input) id(c *Conn) uint32 { return c.id.Load() }

// done wakes who reads the reply; if nobody does, the place is free. c.mu is held.
func (in *input) done(c *Conn) {
	if c.lingering {
		c.lingering = false
		go c.leave() // seldom; it takes other locks
		return
	}
	in.bells = append(in.bells, c.bell)
}

// refuse ends a stream whose endpoint has broken a rule. c.mu is held.
func (in *input) refuse(c *Conn, r *reason.Reason, cause error) {
	in.link.reset(c, frames.ProtocolError)
	c.err = &fault{reason: r, cause: cause}
	ring(c.room)
	in.done(c)
}

// broken ends a stream, but not the connection.
func (in *input) broken(e *frames.Error) {
	if c := in.stream(e.Stream); c != nil {
		defer c.mu.Unlock()
		in.refuse(c, reason.UpstreamProtocol, e)
	}
}

// data takes a piece of a body.
func (in *input) data(f *frames.Frame) error {
	l := in.link
	if err := in.known(f.Stream); err != nil {
		return err
	}
	n := len(f.Payload) + f.Padding
	if !in.inflow.Come(n) {
		return frames.Break(frames.FlowControlError, "more came than the connection's window allows")
	}
	if grow := in.inflow.Gone(n); grow > 0 {
		l.control(func(b []byte) []byte { return frames.AppendWindowUpdate(b, 0, grow) })
	}
	if len(f.Payload) == 0 && !f.Ended() {
		if err := in.spend(1); err != nil {
			return err
		}
	}
	c := in.stream(f.Stream)
	if c == nil {
		return nil // over, which the endpoint may not know yet
	}
	defer c.mu.Unlock()
	if len(f.Payload) > 0 || f.Ended() {
		in.moved++
	}
	c.touch()
	switch {
	case c.ended || c.err != nil:
		return nil
	case !c.headed:
		in.refuse(c, reason.UpstreamProtocol, errors.New("a body before its head"))
		return nil
	case !c.inflow.Come(n):
		return &frames.Error{Code: frames.FlowControlError, Stream: f.Stream, Detail: "more came than the window allows"}
	}
	c.came += int64(len(f.Payload))
	if c.expect >= 0 && c.came > c.expect && !c.lingering {
		in.refuse(c, reason.UpstreamProtocol, errors.New("the body is longer than its length"))
		return nil
	}
	grow := int32(0)
	if f.Padding > 0 {
		grow = c.inflow.Gone(f.Padding)
	}
	if len(f.Payload) > 0 && !c.lingering {
		c.body.Write(f.Payload)
		in.bells = append(in.bells, c.bell)
	}
	if f.Ended() {
		in.finished(c)
	} else if grow > 0 {
		l.control(func(b []byte) []byte { return frames.AppendWindowUpdate(b, f.Stream, grow) })
	}
	return nil
}

// reset takes the endpoint's RST_STREAM.
func (in *input) reset(f *frames.Frame) error {
	if err := in.known(f.Stream); err != nil {
		return err
	}
	l := in.link
	c := in.stream(f.Stream)
	if c == nil {
		return in.spend(1)
	}
	defer c.mu.Unlock()
	l.mu.Lock()
	delete(l.streams, f.Stream)
	c.over = true
	l.mu.Unlock()
	ring(c.room)
	if c.ended { // it wants no more of the request, which is its right
		in.done(c)
		return nil
	}
	code := frames.Code(f.Uint32())
	if c.err == nil {
		c.err = &fault{
			reason: reason.UpstreamReset, unsent: code == frames.RefusedStream && !c.headed,
			cause: errors.New("the endpoint reset the stream: " + code.String()),
		}
	}
	in.done(c)
	return nil
}
