package proxy

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// cookies gathers the Cookie lines of a request as the client sent them.
type cookies struct {
	lines  []byte // complete lines
	values [4][2]int
	n      int
}

// add implements the callback of Front.EachField.
func (c *cookies) add(name, value []byte) bool {
	if wire.EqualFold(name, "cookie") {
		c.lines = append(append(c.lines, "Cookie: "...), value...)
		if c.n < len(c.values) {
			c.values[c.n] = [2]int{len(c.lines) - len(value), len(c.lines)}
		}
		c.n++
		c.lines = append(c.lines, "\r\n"...)
	}
	return true
}

// appendCookie sends the cookies as the client did, byte for byte, unless a
// plugin has changed them. fasthttp takes them apart and puts them together
// again as joined, which loses quotes, spaces and empty names: what the WAF
// has seen and what the upstream sees would differ.
func (f *forward) appendCookie(o, joined []byte) []byte {
	c := &f.cookies
	c.lines, c.n = c.lines[:0], 0
	f.e.Front.EachField(f.eachCookie)
	switch {
	case c.n == 0:
	case c.n == 1 && bytes.Equal(c.lines[c.values[0][0]:c.values[0][1]], joined):
		return append(o, c.lines...)
	case c.n <= len(c.values) && bytes.Equal(c.joined(), joined):
		return append(o, c.lines...)
	}
	if len(joined) == 0 {
		return o
	}
	return append(append(append(o, "Cookie: "...), joined...), "\r\n"...)
}

// joined is what fasthttp makes of the lines when nobody changes anything.
func (c *cookies) joined() []byte {
	var h fasthttp.RequestHeader
	h.DisableSpecialHeader()
	for _, v := range c.values[:c.n] {
		h.AddBytesKV(cookieName, c.lines[v[0]:v[1]])
	}
	h.EnableSpecialHeader()
	for k, v := range h.All() {
		if string(k) == "Cookie" {
			return v
		}
	}
	return nil
}

var cookieName = []byte("Cookie")
