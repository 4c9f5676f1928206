package wire

import (
	"bytes"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// RespHead is one parsed response head. Slices and offsets point into the
// bytes given to Parse and move with them.
type RespHead struct {
	Status int
	HTTP10 bool
	// ContentLength is -1 where none was sent. A reply to HEAD, a 204 and a 304
	// have no body whatever it says: only the caller knows the request.
	ContentLength int64
	Chunked       bool
	// KeepAlive says that the connection may be used again after the body.
	KeepAlive bool
	// Upgrade is the Upgrade field's value where Connection lists "upgrade", else nil.
	Upgrade []byte
	Fields  []Field
	// Detail says what was wrong, for the log, when Parse refused the head.
	Detail string

	protocol              []byte
	listsClose, listsKeep bool
	listsUpgrade          bool
}

// Reset forgets the response but keeps the memory.
func (h *RespHead) Reset() {
	f := h.Fields[:0]
	*h = RespHead{Fields: f, ContentLength: -1}
}

// Hop reports whether field i concerns this connection or this message's
// framing only (Connection, Keep-Alive, Proxy-Connection, Upgrade,
// Content-Length, Transfer-Encoding, Trailer, TE) and is not to be passed on.
// Fields that Connection names besides are the caller's to drop (ListsField).
func (h *RespHead) Hop(i int) bool { return h.Fields[i].hop }

// ListsField reports whether a Connection field of the head names name, which
// must be lower case.
func (h *RespHead) ListsField(raw []byte, name string) bool {
	return connectionLists(raw, h.Fields, name)
}

// Parse reads one response head, interim ones (1xx) included, at the start of
// b; n is its length. It begins anew on every call. r is NeedMore, nil, or
// reason.UpstreamProtocol or reason.UpstreamHeadLarge with Detail set.
func (h *RespHead) Parse(b []byte, limits *Limits) (n int, r *reason.Reason) {
	h.Reset()
	p, detail := h.statusLine(b)
	if detail != "" {
		return 0, h.refuse(detail)
	}
	if p == 0 {
		if len(b) > limits.Head {
			return 0, h.tooLarge("the status line is longer than the limit")
		}
		return 0, NeedMore
	}
	for {
		f, next, r := fieldLine(b, p)
		if r == NeedMore {
			if len(b) > limits.Head {
				return 0, h.tooLarge("the head is larger than the limit")
			}
			return 0, NeedMore
		}
		if r != nil {
			return 0, h.refuse(r.Name)
		}
		p = next
		if f.N1 == 0 {
			break
		}
		if len(h.Fields) >= limits.Fields {
			return 0, h.tooLarge("too many fields")
		}
		if f.hop, detail = h.classify(f.Name(b), f.Value(b)); detail != "" {
			return 0, h.refuse(detail)
		}
		h.Fields = append(h.Fields, f)
	}
	if p > limits.Head {
		return 0, h.tooLarge("the head is larger than the limit")
	}
	if detail := h.finish(); detail != "" {
		return 0, h.refuse(detail)
	}
	return p, nil
}

func (h *RespHead) refuse(detail string) *reason.Reason {
	h.Detail = detail
	return reason.UpstreamProtocol
}

func (h *RespHead) tooLarge(detail string) *reason.Reason {
	h.Detail = detail
	return reason.UpstreamHeadLarge
}

// statusLine returns the offset behind the first line, 0 while it is
// incomplete. What cannot become a status line is refused before its end is seen.
func (h *RespHead) statusLine(b []byte) (next int, detail string) {
	const start = "HTTP/1."
	if n := min(len(b), len(start)); string(b[:n]) != start[:n] {
		return 0, "not an HTTP/1 status line"
	}
	e := bytes.IndexByte(b, '\n')
	if e < 0 {
		return 0, ""
	}
	if b[e-1] != '\r' {
		return 0, "the status line does not end with CRLF"
	}
	line := b[:e-1]
	// "HTTP/1.1 200" without the last space is common enough, and means one thing.
	if len(line) < 12 || line[7] != '0' && line[7] != '1' || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return 0, "malformed status line"
	}
	for _, c := range line[9:12] {
		if !isDigit(c) {
			return 0, "malformed status code"
		}
		h.Status = h.Status*10 + int(c-'0')
	}
	if h.Status < 100 || h.Status > 599 {
		return 0, "status code out of range"
	}
	if hasControl(line[12:]) {
		return 0, "control character in the reason phrase"
	}
	h.HTTP10 = line[7] == '0'
	return e + 1, ""
}

// classify notes what a field says about framing and the connection, and
// whether it is hop-by-hop.
func (h *RespHead) classify(n, v []byte) (hop bool, detail string) {
	switch len(n) {
	case 2:
		return EqualFold(n, "te"), ""
	case 7:
		if EqualFold(n, "upgrade") {
			h.protocol = v
			return true, ""
		}
		return EqualFold(n, "trailer"), ""
	case 10:
		if EqualFold(n, "connection") {
			h.connection(v)
			return true, ""
		}
		return EqualFold(n, "keep-alive"), ""
	case 14:
		if EqualFold(n, "content-length") {
			length, ok := contentLength(v)
			if !ok {
				return true, "malformed Content-Length"
			}
			if h.ContentLength >= 0 {
				return true, "repeated Content-Length"
			}
			h.ContentLength = length
			return true, ""
		}
	case 16:
		return EqualFold(n, "proxy-connection"), ""
	case 17:
		if EqualFold(n, "transfer-encoding") {
			if h.Chunked || !EqualFold(v, "chunked") {
				return true, "unsupported Transfer-Encoding"
			}
			h.Chunked = true
			return true, ""
		}
	}
	return false, ""
}

func (h *RespHead) connection(v []byte) {
	for len(v) > 0 {
		var t []byte
		t, v = nextToken(v)
		switch {
		case EqualFold(t, "close"):
			h.listsClose = true
		case EqualFold(t, "keep-alive"):
			h.listsKeep = true
		case EqualFold(t, "upgrade"):
			h.listsUpgrade = true
		}
	}
}

func (h *RespHead) finish() (detail string) {
	switch {
	case h.Chunked && h.ContentLength >= 0:
		return "both Content-Length and Transfer-Encoding"
	case h.Chunked && h.HTTP10:
		return "Transfer-Encoding in an HTTP/1.0 response"
	case h.Chunked && (h.Status < 200 || h.Status == 204):
		return "Transfer-Encoding in a response that has no body"
	}
	h.KeepAlive = !h.listsClose && (!h.HTTP10 || h.listsKeep)
	if h.listsUpgrade {
		h.Upgrade = h.protocol
	}
	if h.Status == 101 && h.Upgrade == nil {
		return "101 without Connection: upgrade and Upgrade"
	}
	return ""
}

func connectionLists(raw []byte, fields []Field, name string) bool {
	for _, f := range fields {
		if !EqualFold(f.Name(raw), "connection") {
			continue
		}
		for v := f.Value(raw); len(v) > 0; {
			var t []byte
			if t, v = nextToken(v); EqualFold(t, name) {
				return true
			}
		}
	}
	return false
}
