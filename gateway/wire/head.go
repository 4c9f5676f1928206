package wire

import (
	"bytes"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Fields that may come once only.
const (
	seenHost = 1 << iota
	seenLength
	seenExpect
	seenContentType
)

// Head is one parsed request head. All slices point into Raw.
type Head struct {
	// Raw is the head as sent, from the method to the empty line.
	Raw    []byte
	Fields []Field
	Method []byte
	// Target is in origin-form, or "*"; RawTarget is as sent.
	Target, RawTarget []byte
	// Host is the Host field's value: valid, in the case sent, with its port.
	Host []byte
	// Protocol is the Upgrade field's value.
	Protocol []byte
	// ContentLength is 0 where none was sent.
	ContentLength int64
	Chunked       bool
	HTTP10        bool
	// Close, KeepAlive and WantsUpgrade are what the Connection fields list.
	Close, KeepAlive, WantsUpgrade bool
	// Expect says that the client waits for 100 Continue before it sends the body.
	Expect    bool
	HasCookie bool

	seen uint8
}

// Reset forgets the request but keeps the memory.
func (h *Head) Reset() {
	f := h.Fields[:0]
	*h = Head{Fields: f}
}

// Special reports whether field i is framing or connection management (Host,
// Content-Length, Transfer-Encoding, Connection, Keep-Alive, Proxy-Connection,
// Expect, Trailer), which is not handed to the pipeline.
func (h *Head) Special(i int) bool { return h.Fields[i].hop }

// ListsField reports whether a Connection field names name, which must be lower case.
func (h *Head) ListsField(name string) bool { return connectionLists(h.Raw, h.Fields, name) }

// HasBody reports whether a body follows the head.
func (h *Head) HasBody() bool { return h.Chunked || h.ContentLength > 0 }

// Parse reads one request head at the start of b; n is its length. It begins
// anew on every call. r is NeedMore while the head is incomplete, and any other
// reason ends the connection.
func (h *Head) Parse(b []byte, limits *Limits) (n int, r *reason.Reason) {
	h.Reset()
	p, r := h.requestLine(b, limits)
	if r != nil {
		return 0, r
	}
	for {
		f, next, r := fieldLine(b, p)
		if r != nil {
			if r == NeedMore && len(b) > limits.Head {
				r = reason.HeadTooLarge
			}
			return 0, r
		}
		p = next
		if f.N1 == 0 {
			break
		}
		if len(h.Fields) >= limits.Fields {
			return 0, reason.TooManyHeaders
		}
		if f.hop, r = h.classify(f.Name(b), f.Value(b)); r != nil {
			return 0, r
		}
		h.Fields = append(h.Fields, f)
	}
	if p > limits.Head {
		return 0, reason.HeadTooLarge
	}
	h.Raw = b[:p:p]
	if r := h.check(); r != nil {
		return 0, r
	}
	return p, nil
}

// maxMethod is longer than any registered method.
const maxMethod = 32

// requestLine reads the first line; next is where the second begins.
func (h *Head) requestLine(b []byte, limits *Limits) (next int, r *reason.Reason) {
	e := bytes.IndexByte(b, '\n')
	if e < 0 {
		if len(b) > limits.URI+maxMethod+len("  HTTP/1.1\r") {
			return 0, reason.URITooLong
		}
		return 0, NeedMore
	}
	if e == 0 || b[e-1] != '\r' {
		return 0, reason.BadLineEnd
	}
	line := b[:e-1]
	m := 0
	for m < len(line) && tokenChar[line[m]] {
		m++
	}
	if m == 0 || m > maxMethod || m == len(line) || line[m] != ' ' {
		return 0, reason.BadMethod
	}
	t := len(line) - len(" HTTP/1.1")
	if t <= m+1 || string(line[t:t+6]) != " HTTP/" {
		return 0, reason.BadRequestLine
	}
	switch v := line[t+6:]; {
	case !isDigit(v[0]) || v[1] != '.' || !isDigit(v[2]):
		return 0, reason.BadRequestLine
	case v[0] == '1' && v[2] == '1':
	case v[0] == '1' && v[2] == '0':
		h.HTTP10 = true
	default:
		return 0, reason.BadVersion
	}
	h.Method, h.Target = line[:m], line[m+1:t]
	h.RawTarget = h.Target
	if len(h.Target) > limits.URI {
		return 0, reason.URITooLong
	}
	if !validTarget(h.Target) {
		return 0, reason.BadTarget
	}
	return e + 1, nil
}

// classify notes what a field says about framing and the connection. special
// fields are not handed to the pipeline.
func (h *Head) classify(n, v []byte) (special bool, r *reason.Reason) {
	switch len(n) {
	case 4:
		if EqualFold(n, "host") {
			if !h.first(seenHost) || !validHost(v) {
				return true, reason.BadHost
			}
			h.Host = v
			return true, nil
		}
	case 6:
		if EqualFold(n, "cookie") {
			h.HasCookie = true
		} else if EqualFold(n, "expect") {
			if !h.first(seenExpect) || !EqualFold(v, "100-continue") {
				return true, reason.BadExpect
			}
			h.Expect = true
			return true, nil
		}
	case 7:
		if EqualFold(n, "upgrade") {
			h.Protocol = v
		}
		return EqualFold(n, "trailer"), nil
	case 10:
		if EqualFold(n, "connection") {
			return true, h.connection(v)
		}
		return EqualFold(n, "keep-alive"), nil
	case 12:
		// Which of two a guard and an application behind it read may differ.
		if EqualFold(n, "content-type") && !h.first(seenContentType) {
			return false, reason.RepeatedHeader
		}
	case 14:
		if EqualFold(n, "content-length") {
			length, ok := contentLength(v)
			if !ok || !h.first(seenLength) {
				return true, reason.BadContentLength
			}
			h.ContentLength = length
			return true, nil
		}
	case 16:
		return EqualFold(n, "proxy-connection"), nil
	case 17:
		if EqualFold(n, "transfer-encoding") {
			if h.Chunked || !EqualFold(v, "chunked") {
				return true, reason.BadTransferEncoding
			}
			h.Chunked = true
			return true, nil
		}
	}
	return false, nil
}

// first notes that a field was seen and reports whether it was the first time.
func (h *Head) first(field uint8) bool {
	before := h.seen & field
	h.seen |= field
	return before == 0
}

func (h *Head) connection(v []byte) *reason.Reason {
	for len(v) > 0 {
		var t []byte
		t, v = nextToken(v)
		switch {
		case EqualFold(t, "close"):
			h.Close = true
		case EqualFold(t, "keep-alive"):
			h.KeepAlive = true
		case EqualFold(t, "upgrade"):
			h.WantsUpgrade = true
		case EqualFold(t, "content-length"), EqualFold(t, "transfer-encoding"), EqualFold(t, "host"):
			return reason.ConnectionOption
		}
	}
	return nil
}

// check holds the fields against each other.
func (h *Head) check() *reason.Reason {
	if h.seen&seenHost == 0 {
		return reason.BadHost
	}
	if h.Chunked && (h.seen&seenLength != 0 || h.HTTP10) {
		return reason.TwoFramings
	}
	if h.HTTP10 {
		h.Expect = false // RFC 9110 10.1.1: ignored from 1.0
	}
	switch string(h.Method) {
	case "CONNECT", "TRACE", "PRI":
		return reason.MethodRefused
	}
	return h.resolveTarget()
}
