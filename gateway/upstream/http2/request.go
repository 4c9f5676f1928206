package http2

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

var (
	errNoUpgrade = errors.New("the endpoint is spoken to in HTTP/2, which has no Upgrade")
	errBadHead   = errors.New("the request's head is not in HTTP/1 form")
)

var headEnd = []byte("\r\n\r\n")

// field is one of the request's. Both point into the request's text.
type field struct{ name, value string }

// fieldSize is what a field counts besides its text (RFC 9113, 6.5.2).
const fieldSize = 32

// prepare takes the request from its head in HTTP/1 form. What is left behind
// that is its body.
func (c *Conn) prepare(call *transport.Call) error {
	end := bytes.Index(call.Head, headEnd)
	if end < 0 {
		return errBadHead
	}
	first := call.Head[end+len(headEnd):]
	c.text = lowered(c.text[:0], call.Head[:end+2])
	line, rest, _ := strings.Cut(frames.Text(c.text), "\r\n")
	method, target, _ := strings.Cut(line, " ")
	target, ok := strings.CutSuffix(target, " HTTP/1.1")
	if !ok || method == "" || target == "" || target[0] != '/' && target != "*" || !frames.ValidValue(line) {
		return errBadHead
	}
	c.listed = 0
	c.add(":method", method)
	c.add(":scheme", c.pool.settings.Scheme)
	c.add(":authority", "")
	c.add(":path", target)
	length := false
	for len(rest) > 0 {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		value = frames.Trim(value)
		if !ok || !frames.ValidName(name) || !frames.ValidValue(value) {
			return errBadHead
		}
		c.field(name, value)
		length = length || name == "content-length"
	}
	c.takeBody(call, first)
	switch {
	case c.length > 0 || c.length == 0 && length:
		c.text = strconv.AppendInt(c.text, c.length, 10) // the fields keep what it was
		digits := c.text[len(c.text)-digitsOf(c.length):]
		c.add("content-length", frames.Text(digits))
	}
	if c.fields[2].value == "" {
		c.fields[2].name = "" // no host: nothing to say
	}
	return nil
}

func digitsOf(n int64) (digits int) {
	for digits = 1; n >= 10; n /= 10 {
		digits++
	}
	return digits
}

// lowered appends a head with the names of its fields in lower case, as HTTP/2
// has them.
func lowered(b, head []byte) []byte {
	b = append(b, head...)
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
	return b
}

func (c *Conn) add(name, value string) {
	c.fields = append(c.fields, field{name, value})
	c.listed += int64(len(name) + len(value) + fieldSize)
}

// field takes one field of the head. What concerns one connection, or says how
// the body ends in HTTP/1, has no place in HTTP/2.
func (c *Conn) field(name, value string) {
	switch {
	case name == "host":
		c.fields[2].value = value
		c.listed += int64(len(value))
	case name == "content-length", frames.OfConnection(name):
	case name == "te" && !strings.EqualFold(value, "trailers"):
	case name == "trailer":
		c.announce(value)
	default:
		c.add(name, value)
	}
}

// announce passes the client's announcement of trailers on, but for those that
// must not come.
func (c *Conn) announce(names string) {
	for name := range strings.SplitSeq(names, ",") {
		name = strings.ToLower(frames.Trim(name))
		if frames.ValidName(name) && !wire.ForbiddenTrailer([]byte(name)) {
			c.add("trailer", name)
		}
	}
}

// takeBody takes the body of call, of which first has come with the head.
func (c *Conn) takeBody(call *transport.Call, first []byte) {
	c.length = int64(len(first) + len(call.Body))
	if call.Stream != nil {
		c.length, c.uploaded = call.Length, true
		c.upload.start(call, first)
		return
	}
	c.rest, c.more = first, call.Body
	if len(first) == 0 {
		c.rest, c.more = call.Body, nil
	}
	c.upload.allRead.Store(true) // it is at hand
}
