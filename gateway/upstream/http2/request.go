package http2

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"unsafe"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

var (
	errNoUpgrade = errors.New("the endpoint is spoken to in HTTP/2, which has no Upgrade")
	errBadHead   = errors.New("the request's head is not in HTTP/1 form")
)

var headEnd = []byte("\r\n\r\n")

// prepare fills in the request from its head in HTTP/1 form. What is left
// behind that is its body.
func (c *Conn) prepare(call *transport.Call) error {
	end := bytes.Index(call.Head, headEnd)
	if end < 0 {
		return errBadHead
	}
	head, first := lowered(call.Head[:end+2]), call.Head[end+len(headEnd):]
	line, rest, _ := strings.Cut(head, "\r\n")
	method, target, _ := strings.Cut(line, " ")
	target, ok := strings.CutSuffix(target, " HTTP/1.1")
	if !ok {
		return errBadHead
	}
	r := c.req
	r.Method, r.Host, r.Trailer = method, "", nil
	r.Header["user-agent"] = nil // without it net/http would send its own
	for len(rest) > 0 {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" { // HTTP/2's own names begin with a colon
			return errBadHead
		}
		c.field(name, strings.TrimPrefix(value, " "))
	}
	c.url.Scheme, c.url.Host, c.url.Opaque = c.pool.settings.Scheme, c.pool.settings.Address, target
	if strings.HasPrefix(target, "//") {
		// net/http would take it for a host; it removes what is the request's own.
		c.url.Opaque = "//" + r.Host + target
	}
	u := &c.upload
	u.start(call, first)
	r.Body, r.ContentLength = nil, 0
	if u.some {
		r.Body, r.ContentLength = u, u.length
		if u.length < 0 && r.Trailer == nil {
			r.Trailer = http.Header{} // may come unannounced
		}
	}
	return nil
}

// lowered is a copy of a head with the names of its fields in lower case, as
// HTTP/2 has them. net/http keeps parts of it in its tables for compression.
func lowered(head []byte) string {
	b := bytes.Clone(head)
	name := false // the request line has none
	for i, ch := range b {
		switch {
		case ch == '\n':
			name = true
		case ch == ':':
			name = false
		case name && ch >= 'A' && ch <= 'Z':
			b[i] |= 0x20
		}
	}
	return unsafe.String(unsafe.SliceData(b), len(b)) // nobody has b
}

// field takes one field of the head. What concerns one connection, or says how
// the body ends in HTTP/1, has no place in HTTP/2.
func (c *Conn) field(name, value string) {
	r := c.req
	switch name {
	case "host":
		r.Host = value
		return
	case "trailer":
		c.announce(value)
		return
	case "connection", "keep-alive", "proxy-connection", "upgrade", "transfer-encoding":
		return
	case "content-length":
		return // net/http writes it
	}
	if have := r.Header[name]; have != nil {
		r.Header[name] = append(have, value)
		return
	}
	c.values = append(c.values, value)
	r.Header[name] = c.values[len(c.values)-1 : len(c.values) : len(c.values)]
}

// announce notes the trailers that the client has announced.
func (c *Conn) announce(names string) {
	for name := range strings.SplitSeq(names, ",") {
		name = http.CanonicalHeaderKey(strings.TrimSpace(name))
		if name == "" || wire.ForbiddenTrailer([]byte(name)) {
			continue
		}
		if c.req.Trailer == nil {
			c.req.Trailer = http.Header{}
		}
		c.req.Trailer[name] = nil
	}
}

// trailer takes a trailer line that followed the body.
func (c *Conn) trailer(line []byte) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	key := http.CanonicalHeaderKey(string(name))
	c.req.Trailer[key] = append(c.req.Trailer[key], string(bytes.TrimSpace(value)))
}

// forget makes c ready for another call.
func (c *Conn) forget() {
	clear(c.req.Header)
	clear(c.values)
	c.values = c.values[:0]
	c.req.Method, c.req.Host, c.req.Body, c.req.Trailer = "", "", nil, nil
	c.url.Opaque = ""
	c.upload = upload{conn: c}
	c.interims.count, c.interims.ended = 0, false
	c.sent.Store(false)
	c.answered.Store(false)
	c.complete, c.lingers, c.trailing, c.got = false, false, false, false
	c.trailers = c.trailers[:0]
	if cap(c.raw) > keepHead {
		c.raw = nil
	}
}

// keepHead is how large a reply's head may be for its memory to be kept.
const keepHead = 16 << 10
