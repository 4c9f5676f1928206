package http1

import (
	"errors"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// errStale says that the endpoint had ended or spoiled an idle connection.
var errStale = errors.New("the idle connection was closed by the endpoint, or had unasked bytes on it")

// Do implements transport.Conn. After an error the connection is gone.
func (c *Conn) Do(call *transport.Call) error {
	c.call = call
	c.r, c.w, c.wrote, c.interims = 0, 0, false, 0
	c.err, c.writeErr, c.refused = nil, nil, nil
	c.untilClose, c.complete = false, false
	c.upload.allRead.Store(false)
	c.answered.Store(false)
	c.limit.Store(c.pool.manager.at(call.Deadline))
	c.idle.Store(call.Idle.Milliseconds())
	c.touch()
	if call.Watch != nil {
		call.Watch.OnGone(c)
	}
	if call.Stream != nil || len(call.Body) > 0 {
		if c.reused && !c.quiet() {
			return c.failed(errStale)
		}
		c.wrote = true
		c.startUpload()
	}
	c.exchange()
	if c.err == nil && c.refused == nil {
		c.beginBody()
		return nil
	}
	return c.failed(c.err)
}

// exchangePortable is exchange with nothing but net.Conn.
func (c *Conn) exchangePortable() {
	if !c.wrote {
		if c.reused && !c.quiet() {
			c.err = errStale
			return
		}
		c.wrote = true
		_, c.writeErr = c.nc.Write(c.call.Head)
	}
	for {
		if err := c.More(); err != nil {
			c.err = err
			return
		}
		if c.parse() {
			return
		}
	}
}

// failed ends the connection and says why the call failed.
func (c *Conn) failed(err error) *transport.Failure {
	heard := c.w > 0 || c.interims > 0
	state := c.deadline.Load()
	if c.call.Watch != nil {
		c.call.Watch.OnGone(nil)
	}
	c.stopUpload()
	f := &transport.Failure{Reason: reason.UpstreamReset, Cause: err, BodyRead: c.upload.allRead.Load()}
	switch {
	case err == errStale:
		f.Unsent, f.Stale = true, true
	case c.upload.readErr != nil && c.upload.readErr != errStopped:
		f.Reason, f.Cause, f.Client = transport.BodyReason(c.upload.readErr), c.upload.readErr, true
	case state == stateGone:
		f.Reason = reason.ClientGone
	case state == stateTimeout:
		f.Reason = reason.UpstreamTimeout
	case errors.Is(err, reason.UpstreamTLS): // it refused us before it looked at the request
		f.Reason, f.Unsent = reason.UpstreamTLS, true
	case c.refused != nil:
		f.Reason, f.Cause = c.refused, errors.New(c.head.Detail)
		switch {
		case c.interims > 0:
		case isTLS(c.in[:c.w]):
			f.Cause = errSpeaksTLS
		case isHTTP2(c.in[:c.w]):
			f.Cause = errSpeaksHTTP2
		}
	case c.writeErr != nil && !heard:
		f.Cause, f.Stale = c.writeErr, c.reused
	default:
		f.Stale = c.reused && !heard
	}
	c.close()
	return f
}

// errSpeaksTLS is for who forgot to say so.
var errSpeaksTLS = errors.New("the endpoint speaks TLS, and its upstream has no tls settings")

// errSpeaksHTTP2 is for who forgot to say so; gRPC servers do.
var errSpeaksHTTP2 = errors.New("the endpoint speaks HTTP/2, and its upstream's protocol is http1; h2c is HTTP/2 without TLS")

// isHTTP2 reports that b begins like the SETTINGS frame that a server of HTTP/2
// sends first (RFC 9113, 3.4 and 6.5): a short one, of type 4, of no stream.
func isHTTP2(b []byte) bool {
	return len(b) >= 9 && b[0] == 0 && b[1] == 0 && b[3] == 4 && b[4] == 0 && b[5]|b[6]|b[7]|b[8] == 0
}

// isTLS reports that b begins like an alert or a handshake of TLS.
func isTLS(b []byte) bool {
	return len(b) >= 2 && (b[0] == 0x15 || b[0] == 0x16) && b[1] == 3
}

// parse looks for the final reply head in what has been received; true when
// there is one or it cannot come.
func (c *Conn) parse() bool {
	for {
		n, r := c.head.Parse(c.in[c.r:c.w], &c.pool.settings.Limits)
		if r == wire.NeedMore {
			c.touch()
			return false
		}
		if r != nil {
			c.refused = r
			return true
		}
		c.headRaw = c.in[c.r : c.r+n]
		c.r += n
		if c.head.Status >= 200 {
			return true
		}
		if c.head.Status == 101 {
			if !c.call.Upgrade {
				c.refuse("switched protocols without being asked")
			}
			return true
		}
		if c.interims++; c.interims > transport.MaxInterims {
			c.refuse("too many interim replies")
			return true
		}
		c.inform()
		if c.r == c.w {
			return false
		}
	}
}

func (c *Conn) refuse(detail string) {
	c.refused, c.head.Detail = reason.UpstreamProtocol, detail
}

// inform passes an interim reply on. "100 Continue" stays here: the front has
// sent its own, and the endpoint was never asked.
func (c *Conn) inform() {
	if c.call.Front == nil || c.head.Status == 100 {
		return
	}
	lines := c.scratch[:0]
	for i, f := range c.head.Fields {
		if c.head.Hop(i) {
			continue
		}
		lines = append(lines, f.Name(c.headRaw)...)
		lines = append(lines, ": "...)
		lines = append(lines, f.Value(c.headRaw)...)
		lines = append(lines, "\r\n"...)
	}
	c.scratch = lines
	// A client that cannot be reached shows when the reply is written.
	_ = c.call.Front.Inform(c.head.Status, lines)
}
