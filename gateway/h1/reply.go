package h1

import (
	"io"
	"strconv"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// maxCopied is the largest body that is copied behind its head to save a write.
const maxCopied = 16 << 10

// reply writes the response. It returns true when the connection can be used again.
func (c *conn) reply(resp *fasthttp.Response) (keep bool) {
	c.beginReply()
	if c.cut {
		c.dropUpgrade()
		c.reset()
		return false
	}
	if c.impossible(resp) {
		c.dropUpgrade()
		pipeline.Replace(resp, reason.Internal)
		resp.SetConnectionClose()
	}
	h := &c.s.head
	if resp.StatusCode() != 101 {
		c.dropUpgrade()
	}
	keep = !h.Close && (!h.HTTP10 || h.KeepAlive) && !resp.ConnectionClose() &&
		!c.srv.closing.Load() && c.upgrade == nil && (c.s.body.done.Load() || c.s.body.drainable())
	stream := resp.BodyStream()
	if stream != nil && h.HTTP10 && resp.Header.ContentLength() < 0 {
		keep = false // its end is the connection's
	}
	o := c.appendHead(c.s.out[:0], resp)
	if c.upgrade != nil {
		o = append(o, "Connection: Upgrade\r\n\r\n"...)
		c.s.out = o[:0]
		if c.write(o) != nil {
			c.dropUpgrade()
		}
		return false
	}
	if !keep {
		o = append(o, "Connection: close\r\n"...)
	} else if h.HTTP10 {
		o = append(o, "Connection: keep-alive\r\n"...)
	}
	var ok bool
	if stream == nil || c.bodiless(resp.StatusCode()) {
		ok = c.sendBytes(resp, stream, o)
	} else {
		ok = c.sendStream(resp, stream, o)
	}
	if !ok {
		c.reset()
		return false
	}
	return keep
}

// beginReply notes that the final reply begins. From now on no interim one is sent.
func (c *conn) beginReply() {
	if !c.s.head.Expect {
		c.started = true
		return
	}
	b := c.s.body
	b.continues.Lock()
	c.started = true
	b.continues.Unlock()
}

// impossible reports a response that cannot be sent as a final reply.
func (c *conn) impossible(resp *fasthttp.Response) bool {
	status := resp.StatusCode()
	return status < 200 && status != 101 || status > lastStatus ||
		status == 101 && c.upgrade == nil ||
		c.s.ctx.Hijacked() // fasthttp's own way to own a connection does not exist here
}

// bodiless is true for replies that end with their head whatever it says.
func (c *conn) bodiless(status int) bool {
	return wire.Bodiless(status, string(c.s.head.Method) == "HEAD")
}

// appendHead appends status line and fields, without framing and connection
// fields and without the empty line.
func (c *conn) appendHead(o []byte, resp *fasthttp.Response) []byte {
	status := resp.StatusCode()
	o = append(o, statusLine(status)...)
	trailers := resp.Header.PeekTrailerKeys()
	for k, v := range resp.Header.All() {
		if wire.ServersOwn(k, trailers, status == 101) {
			continue
		}
		o = append(o, k...)
		o = append(o, ": "...)
		o = append(o, v...)
		o = append(o, "\r\n"...)
	}
	o = append(o, "Date: "...)
	if len(c.s.date) > 0 {
		o = append(o, c.s.date...)
	} else {
		o = append(o, c.srv.clock.Date()...)
	}
	return append(o, "\r\n"...)
}

// sendBytes sends a reply whose body is in memory or absent.
func (c *conn) sendBytes(resp *fasthttp.Response, stream io.Reader, o []byte) bool {
	var body []byte
	if stream == nil {
		body = resp.Body()
	}
	length := len(body)
	if c.bodiless(resp.StatusCode()) {
		length = wire.BodilessLength(resp, length, stream != nil)
		body = nil
	}
	if length >= 0 {
		o = append(o, "Content-Length: "...)
		o = strconv.AppendInt(o, int64(length), 10)
		o = append(o, "\r\n"...)
	}
	o = append(o, "\r\n"...)
	first := min(len(body), maxCopied)
	o = append(o, body[:first]...)
	c.s.out = o[:0]
	if c.write(o) != nil {
		return false
	}
	c.replied = int64(first)
	for rest := body[first:]; len(rest) > 0; {
		piece := rest[:min(len(rest), maxWrite)]
		if c.write(piece) != nil {
			return false
		}
		c.replied += int64(len(piece))
		rest = rest[len(piece):]
	}
	return true
}
