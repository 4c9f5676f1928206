package http2

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// translate writes the reply's head in HTTP/1 form and has it parsed like any
// other: lengths that contradict each other and heads that are too long are
// found there.
func (c *Conn) translate(res *http.Response) *reason.Reason {
	c.touch()
	b := append(c.raw[:0], "HTTP/1.1 "...)
	if res.StatusCode < 100 {
		b = append(b, '0')
	}
	b = append(strconv.AppendInt(b, int64(res.StatusCode), 10), " \r\n"...)
	b = append(appendLines(b, res.Header), "\r\n"...)
	c.raw = b
	if n, r := c.head.Parse(b, &c.pool.settings.Limits); r != nil || n != len(b) {
		if r == nil || r == wire.NeedMore {
			c.head.Detail, r = "malformed fields", reason.UpstreamProtocol
		}
		return r
	}
	if len(res.Trailer) > 0 {
		c.head.ContentLength = -1 // else a client that speaks HTTP/1 could not get them
	}
	c.left = c.head.ContentLength
	status := c.head.Status
	c.complete = c.call.NoBody || status == 204 || status == 304 || res.ContentLength == 0 && c.head.ContentLength < 0
	return nil
}

// drain reads a body that is known to be empty: trailers may follow it all the
// same, as they do when a gRPC call fails at once.
func (c *Conn) drain() error {
	if c.complete || c.head.ContentLength != 0 {
		return nil
	}
	c.left = -1
	var none [1]byte
	if _, err := c.Read(none[:]); err != io.EOF {
		return err
	}
	c.trailing = len(c.trailers) > 0
	c.complete = !c.trailing
	return nil
}

// appendLines appends fields as lines, sorted by name: a map has no order, and
// replies should not differ for nothing. What concerns one connection only is
// left out, where it should not be in the first place.
func appendLines(dst []byte, fields map[string][]string) []byte {
	var room [32]string
	names := room[:0]
	for name := range fields {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade":
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range fields[name] {
			dst = append(append(append(append(dst, name...), ": "...), value...), "\r\n"...)
		}
	}
	return dst
}

// Head implements transport.Conn.
func (c *Conn) Head() (head *wire.RespHead, raw []byte) { return &c.head, c.raw }

// Complete implements transport.Conn.
func (c *Conn) Complete() bool { return c.complete }

// Length implements transport.Conn.
func (c *Conn) Length() int64 {
	switch {
	case c.complete:
		return 0
	case c.trailing:
		return -1
	}
	return c.head.ContentLength
}

// Whole implements transport.Conn. What has come behind the head net/http does
// not tell.
func (c *Conn) Whole(int) ([]byte, bool) { return nil, c.complete }

// BufferedNow implements transport.Conn.
func (c *Conn) BufferedNow() int { return 0 }

// Read implements transport.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if c.complete || c.trailing {
		c.complete = true
		return 0, io.EOF
	}
	n, err := c.res.Body.Read(p)
	if n > 0 {
		c.got = true
		c.touch()
		c.left -= int64(n)
	}
	switch {
	case err == nil && c.left == 0:
		// The end of the stream may take longer: an endpoint may still be working.
		c.complete, c.lingers = true, true
		return n, io.EOF
	case err == nil:
		return n, nil
	case err == io.EOF:
		c.complete = true
		c.takeTrailers()
		return n, io.EOF
	}
	return n, c.broken(err)
}

// takeTrailers keeps the reply's trailers, but for those that must not come
// behind a body.
func (c *Conn) takeTrailers() {
	for name, values := range c.res.Trailer {
		if len(values) == 0 || wire.ForbiddenTrailer([]byte(name)) {
			delete(c.res.Trailer, name)
		}
	}
	c.trailers = appendLines(c.trailers[:0], c.res.Trailer)
}

// Trailers implements transport.Conn.
func (c *Conn) Trailers() []byte { return c.trailers }

// broken says why a reply broke off.
func (c *Conn) broken(err error) *transport.Failure {
	f := &transport.Failure{Reason: reasonOf(err), Cause: err}
	switch c.state.Load() {
	case stateGone:
		f.Reason = reason.ClientGone
	case stateTimeout:
		f.Reason = reason.UpstreamTimeout
		c.link.silent(c.began)
	case stateCut:
		f.Reason, f.Client = reason.BodyCut, true
	default:
		if bodyErr := c.upload.failure(); bodyErr != nil && errors.Is(err, bodyErr) {
			f.Reason, f.Cause, f.Client = transport.BodyReason(bodyErr), bodyErr, true
		}
	}
	return f
}
