package http1

import (
	"errors"
	"io"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// maxInterims bounds the interim replies before the final one.
const maxInterims = 16

// errStale says that the endpoint had ended or spoiled an idle connection.
var errStale = errors.New("the idle connection was closed by the endpoint, or had unasked bytes on it")

// Watcher tells when the client goes away; exchange.Front is one.
type Watcher interface{ OnGone(exchange.Aborter) }

// Call is one request for one connection, and what is needed while it is under
// way. It is not copied and must not change until Release.
type Call struct {
	// Head is the complete request head. A small body may follow it in the
	// same bytes, so that both go out in one write.
	Head []byte
	// Body is (more of) a body that is at hand.
	Body []byte
	// Stream is a body that has yet to come, of Length bytes; below 0 it goes
	// out chunked. It is read by another goroutine until Release.
	Stream io.Reader
	Length int64
	// Tee receives a copy of what was read from Stream; nil: none.
	Tee io.Writer
	// Front receives interim replies and gives request trailers; nil: none of either.
	Front exchange.Front
	// Watch tells when the client goes away; nil: it never does.
	Watch Watcher
	// NoBody says that the reply has no body: the request is a HEAD.
	NoBody bool
	// Upgrade says that the request asks for another protocol, so that 101 is
	// a reply.
	Upgrade bool
	// Last says that the connection is not to be used again, as Head tells the
	// endpoint.
	Last bool
	// Deadline ends the waiting for the reply's head; zero means none.
	Deadline time.Time
	// Answer does so this long after Stream has been sent whole: an upload may
	// take its time. 0 means none.
	Answer time.Duration
	// Idle ends a pause in either direction; 0 means none.
	Idle time.Duration
}

// Failure is why a call came to nothing, or its reply broke off.
type Failure struct {
	Reason *reason.Reason
	Cause  error
	// Unsent says that no byte of the request was sent, so that even a request
	// that is not idempotent can be repeated.
	Unsent bool
	// Stale says that a connection that had been used before failed without a
	// byte of a reply: most likely the endpoint closed it for its age.
	Stale bool
	// Client says that the request's own body failed, not the endpoint.
	Client bool
	// BodyRead says that the request's body had been read to its end, so that
	// what Tee has is all of it.
	BodyRead bool
}

// Error implements error.
func (f *Failure) Error() string {
	if f.Cause == nil {
		return f.Reason.Name
	}
	return f.Cause.Error()
}

// Unwrap gives the reason and the cause.
func (f *Failure) Unwrap() []error {
	if f.Cause == nil {
		return []error{f.Reason}
	}
	return []error{f.Reason, f.Cause}
}

// fail is a failure before anything was sent.
func fail(r *reason.Reason, cause error) *Failure {
	return &Failure{Reason: r, Cause: cause, Unsent: true}
}

// Do sends the request and reads the reply's head. After an error, which is a
// *Failure, the connection is gone; otherwise Release must be called.
func (c *Conn) Do(call *Call) error {
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
func (c *Conn) failed(err error) *Failure {
	heard := c.w > 0 || c.interims > 0
	state := c.deadline.Load()
	if c.call.Watch != nil {
		c.call.Watch.OnGone(nil)
	}
	c.stopUpload()
	f := &Failure{Reason: reason.UpstreamReset, Cause: err, BodyRead: c.upload.allRead.Load()}
	switch {
	case err == errStale:
		f.Unsent, f.Stale = true, true
	case c.upload.readErr != nil:
		f.Reason, f.Cause, f.Client = clientReason(c.upload.readErr), c.upload.readErr, true
	case state == stateGone:
		f.Reason = reason.ClientGone
	case state == stateTimeout:
		f.Reason = reason.UpstreamTimeout
	case c.refused != nil:
		f.Reason, f.Cause = c.refused, errors.New(c.head.Detail)
	case c.writeErr != nil && !heard:
		f.Cause, f.Stale = c.writeErr, c.reused
	default:
		f.Stale = c.reused && !heard
	}
	c.close()
	return f
}

func clientReason(err error) *reason.Reason {
	var r *reason.Reason
	if errors.As(err, &r) {
		return r
	}
	return reason.ClientGone
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
		if c.interims++; c.interims > maxInterims {
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
