package h2

import (
	"errors"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// heading is the block of fields that is being read: a request's, or the
// trailers behind its body. Its fields are written down as they are decoded.
type heading struct {
	id    uint32 // 0: there is none
	end   bool   // the stream ends with it
	s     *stream
	kind  block
	limit int // bytes of fields, as SETTINGS_MAX_HEADER_LIST_SIZE counts them
	size  int // the same
	bytes int // compressed
	parts int // frames

	why    *reason.Reason // why it is refused
	resets bool           // by a reset: it is malformed (RFC 9113, 8.1.1)

	seen                            uint8 // pseudo-header fields
	method, scheme, authority, path string
	protocol                        string // of an extended CONNECT (RFC 8441)
	extended                        bool   // which the client knows that it may send
	begun                           bool   // the request line has been written
	hosts                           int
	stated                          bool // the body's length
	cookie                          []byte
	trailers                        []byte
	lines                           int
}

// block is what a block of fields is for.
type block uint8

const (
	request block = iota
	trailer
	nothing // it is decoded for the sake of the next one
)

const (
	// listOverhead is what a field counts for beside its bytes (RFC 9113, 6.5.2).
	listOverhead = 32
	// pseudoSpace is for the names of the pseudo-header fields, and what goes
	// with them, which are no part of a head of HTTP/1.
	pseudoSpace = 10 * listOverhead
	// maxParts is how many frames a block may come in. A client needs one for
	// each 16 KiB; who sends empty ones wants nothing good.
	maxParts = 64
)

// listSize is how large a list of fields may be, so that all limits of HTTP/1
// can be reached.
func listSize(l *wire.Limits) int { return l.Head + listOverhead*l.Fields + pseudoSpace }

// takeHeaders begins a block.
func (c *conn) takeHeaders(f *frames.Frame) error {
	if f.Stream%2 == 0 {
		return protocolError(frames.ProtocolError)
	}
	h := &c.head
	*h = heading{id: f.Stream, end: f.Ended(), extended: c.extended, cookie: h.cookie[:0], trailers: h.trailers[:0]}
	if err := c.classify(h); err != nil {
		return err
	}
	set := c.srv.settings.Load()
	h.limit = listSize(&set.Heads)
	if h.kind == request {
		h.s = c.srv.newStream()
		h.s.settings = set
		h.s.raw, h.s.line, h.s.connect = h.s.raw[:0], 0, false
	}
	c.dec.SetMaxStringLength(h.limit)
	c.dec.SetEmitEnabled(h.kind != nothing)
	return c.decode(f)
}

// classify finds out what a block is for.
func (c *conn) classify(h *heading) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[h.id]
	switch {
	case s != nil:
		h.kind = trailer
		switch {
		case s.ended:
			h.kind = nothing
			return c.breakHeld(h.id, frames.StreamClosed, reason.HTTP2Protocol)
		case !h.end, s.connect: // RFC 9113, 8.5
			h.malformed(reason.HTTP2Protocol)
		}
	case h.id <= c.highest:
		h.kind = nothing
		if !c.cut.has(h.id) && h.id <= c.lastID {
			return protocolError(frames.StreamClosed)
		}
	default:
		c.highest = h.id
		if c.ending == left {
			h.kind = nothing // it has been told which the last one was
		}
	}
	return nil
}

// decode reads a part of the block in progress.
func (c *conn) decode(f *frames.Frame) error {
	h := &c.head
	h.parts++
	h.bytes += len(f.Payload)
	if h.parts > maxParts || h.bytes > 2*h.limit+frames.MinFrame {
		return flood() // CVE-2024-27316
	}
	if _, err := c.dec.Write(f.Payload); err != nil {
		if errors.Is(err, hpack.ErrStringLength) {
			return &broken{frames.EnhanceYourCalm, reason.HeadTooLarge}
		}
		return protocolError(frames.CompressionError)
	}
	if !f.BlockEnded() {
		return nil
	}
	if c.dec.Close() != nil {
		return protocolError(frames.CompressionError)
	}
	id := h.id
	h.id = 0
	switch h.kind {
	case request:
		return c.begin(id)
	case trailer:
		return c.endByTrailers(id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spend(1)
}

// malformed notes that the stream is to be reset, unless there is a reason already.
func (h *heading) malformed(why *reason.Reason) {
	if !h.resets {
		h.why, h.resets = why, true
	}
}

// field is what the decoder calls.
func (c *conn) field(f hpack.HeaderField) {
	h := &c.head
	if h.size += len(f.Name) + len(f.Value) + listOverhead; h.size > h.limit {
		if h.why == nil {
			h.why = reason.HeadTooLarge
		}
		c.dec.SetEmitEnabled(false) // but the compression stays in step
		return
	}
	switch {
	case h.resets:
	case !frames.ValidValue(f.Value) || frames.Trim(f.Value) != f.Value:
		h.malformed(reason.BadHeaderValue)
	case len(f.Name) > 0 && f.Name[0] == ':':
		h.pseudo(f.Name, f.Value)
	case !frames.ValidName(f.Name):
		h.malformed(reason.BadHeaderName)
	case frames.OfConnection(f.Name), f.Name == "te" && f.Value != "trailers":
		h.malformed(reason.ConnectionHeader)
	case h.kind == trailer:
		h.trailer(f.Name, f.Value)
	default:
		h.regular(f.Name, f.Value)
	}
}

// The pseudo-header fields (RFC 9113, 8.3.1).
const (
	seenMethod = 1 << iota
	seenScheme
	seenAuthority
	seenPath
	seenProtocol
)

func (h *heading) pseudo(name, value string) {
	var which uint8
	var to *string
	switch name {
	case ":method":
		which, to = seenMethod, &h.method
	case ":scheme":
		which, to = seenScheme, &h.scheme
	case ":authority":
		which, to = seenAuthority, &h.authority
	case ":path":
		which, to = seenPath, &h.path
	case ":protocol":
		if h.extended {
			which, to = seenProtocol, &h.protocol
		}
	}
	if which == 0 || h.seen&which != 0 || h.begun || h.kind == trailer {
		h.malformed(reason.BadPseudoHeader)
		return
	}
	h.seen |= which
	*to = value
}

// version is that of the form a head is written down in.
const version = " HTTP/1.1\r\n"

// line writes the request line, before the first field or at the end.
func (h *heading) line() {
	h.begun = true
	extended := h.seen&seenProtocol != 0
	connect := h.method == "CONNECT" && !extended
	h.s.nothing = h.method == "HEAD"
	switch {
	case h.why != nil: // it is too large: not all of it has been looked at
		return
	case h.seen&seenMethod == 0,
		!connect && (h.seen&(seenScheme|seenPath) != seenScheme|seenPath || h.path == "" || h.scheme != "http" && h.scheme != "https"),
		connect && h.seen&(seenScheme|seenPath) != 0,
		extended && h.method != "CONNECT":
		h.malformed(reason.BadPseudoHeader)
		return
	case connect:
		h.why = reason.MethodRefused
		h.path = h.authority
	case strings.IndexByte(h.method, ' ') >= 0:
		h.why = reason.BadMethod // in a line it would end there
	case h.path[0] != '/' && h.path != "*":
		h.why = reason.BadTarget // HTTP/1 would allow a URI
	case extended && (h.protocol != wire.WebSocket || !h.s.settings.WebSockets): // which may have changed since
		h.why = reason.ProtocolRefused
	case extended:
		h.method, h.s.connect = "GET", true
	}
	s := h.s
	o := append(append(append(s.raw, h.method...), ' '), h.path...)
	s.line = len(o)
	o = append(o, version...)
	if h.seen&seenAuthority != 0 {
		o = append(append(append(o, "Host: "...), h.authority...), "\r\n"...)
		h.lines++
	}
	s.raw = o
}

func (h *heading) regular(name, value string) {
	if !h.begun {
		h.line()
	}
	switch name {
	case "sec-websocket-key", "sec-websocket-accept":
		if h.s.connect {
			return // they have no meaning here (RFC 8441, 5)
		}
	case "content-length":
		h.stated = true
	case "cookie": // RFC 9113, 8.2.3: they are one
		if len(h.cookie) > 0 {
			h.cookie = append(h.cookie, "; "...)
		}
		h.cookie = append(h.cookie, value...)
		return
	case "host":
		h.hosts++
		if h.seen&seenAuthority != 0 {
			switch {
			case h.why != nil:
			case h.hosts > 1:
				h.why = reason.BadHost
			case !strings.EqualFold(value, h.authority):
				h.why = reason.AuthorityDiffers
			}
			return
		}
	}
	h.add(name, value)
}

func (h *heading) add(name, value string) {
	s := h.s
	s.raw = append(append(append(append(s.raw, name...), ": "...), value...), "\r\n"...)
	h.lines++
}

func (h *heading) trailer(name, value string) {
	if h.why != nil {
		return
	}
	var ok bool
	if h.trailers, ok = wire.AppendTrailer(h.trailers, name, value); !ok {
		h.why = reason.BadTrailer
	}
}

// finish reads the whole of a request's head.
func (h *heading) finish(limits *wire.Limits) *reason.Reason {
	s := h.s
	if !h.begun {
		h.line()
	}
	if len(h.cookie) > 0 {
		h.add("cookie", frames.Text(h.cookie))
		h.cookie = little(h.cookie)
	}
	if s.connect {
		s.raw = wire.AppendHandshake(s.raw)
		h.lines += wire.HandshakeLines
	}
	s.raw = append(s.raw, "\r\n"...)
	if h.why == nil && s.connect && h.stated {
		h.why = reason.BadContentLength // what follows is no body
	}
	if h.why != nil {
		s.head.Reset()
		return h.why
	}
	n, why := s.head.Parse(s.raw, limits)
	switch {
	case why == wire.NeedMore: // an empty line that should not be: cannot be, see below
		return reason.BadHeaderValue
	case why != nil:
		return why
	case n != len(s.raw) || len(s.head.Fields) != h.lines:
		return reason.BadHeaderValue // a line end in what is to be one line
	case h.end && s.head.ContentLength > 0:
		return reason.BadContentLength
	}
	return nil
}

// begin makes the block a request.
func (c *conn) begin(id uint32) error {
	h := &c.head
	s := h.s
	s.why = h.finish(&s.settings.Heads)
	s.stated = h.stated
	h.s = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending == left { // since its first frame
		c.srv.recycle(s)
		return nil
	}
	c.lastID = id
	code, why := frames.NoError, s.why
	switch {
	case h.resets:
		code = frames.ProtocolError
	case len(c.streams) >= c.limits.MaxStreams:
		code, why = frames.RefusedStream, reason.HTTP2Protocol
	case c.running >= c.limits.MaxStreams+c.limits.MaxStreams/4: // some have been reset, and still run
		code, why = frames.RefusedStream, reason.HTTP2Flood
	}
	if code != frames.NoError {
		return c.refuseStream(s, id, code, why)
	}
	s.open(c, id, h.end)
	c.streams[id] = s
	c.busy.Add(1)
	c.running++
	c.starting = append(c.starting, s)
	c.earn(calmByFrame)
	return nil
}

// refuseStream resets a stream that has not become one. c.mu is held, but not
// while others are told.
func (c *conn) refuseStream(s *stream, id uint32, code frames.Code, why *reason.Reason) error {
	c.out = frames.AppendReset(c.room(), id, code)
	c.cut.add(id)
	c.served++
	c.mu.Unlock()
	c.refused(why, s.sent())
	c.srv.recycle(s)
	c.mu.Lock()
	return c.noteReset()
}

// endByTrailers ends a body.
func (c *conn) endByTrailers(id uint32) error {
	h := &c.head
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	switch {
	case s == nil: // it was ended meanwhile
		return nil
	case s.body.done.Load() && !h.resets: // they are behind nothing, and read without a lock
		s.endOfBody(nil)
	case h.resets:
		return c.breakHeld(id, frames.ProtocolError, h.why)
	case h.why != nil:
		s.endOfBody(h.why)
	default:
		s.body.trailers = append(s.body.trailers[:0], h.trailers...)
		h.trailers = little(h.trailers)
		s.endOfBody(nil)
	}
	return nil
}
