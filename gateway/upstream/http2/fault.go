package http2

import (
	"errors"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

var (
	errLeaving         = errors.New("the connection takes no more requests")
	errTooManyInterims = errors.New("too many interim replies")
	errSwitched        = errors.New("switched protocols, which HTTP/2 does not have")
)

// fault is why a stream brings nothing more.
type fault struct {
	reason *reason.Reason
	cause  error
	// unsent says that the endpoint has not looked at the request: it has said so,
	// or the connection had ended before.
	unsent bool
	// connection says that it has ended, or takes no more requests.
	connection bool
	// client says that the request's own body has failed.
	client bool
}

// failed ends a call that brought no reply, and says why.
func (c *Conn) failed(why *fault) *transport.Failure {
	state := c.state.Load()
	f := c.quit(&transport.Failure{Reason: why.reason, Cause: why.cause})
	bodyErr := c.upload.failure()
	c.mu.Lock()
	heard := c.interims > 0 || c.headed
	c.mu.Unlock()
	switch {
	case state == stateGone:
		f.Reason = reason.ClientGone
	case state == stateTimeout:
		f.Reason = reason.UpstreamTimeout
		c.link.silent(c.began)
	case bodyErr != nil:
		f.Reason, f.Cause, f.Client = transport.BodyReason(bodyErr), bodyErr, true
	case heard:
	case why.unsent || !c.opened:
		f.Unsent = true
		f.Stale = why.connection && !c.upload.touched.Load()
	case f.Reason == reason.UpstreamReset:
		f.Stale = c.reused && why.connection
	}
	c.leave()
	return f
}

// refused ends a call whose reply cannot be passed on.
func (c *Conn) refused(r *reason.Reason) *transport.Failure {
	f := c.quit(&transport.Failure{Reason: r, Cause: errors.New(c.head.Detail)})
	c.leave()
	return f
}

// quit stops everything that goes on for the call.
func (c *Conn) quit(f *transport.Failure) *transport.Failure {
	c.retire()
	c.finish()
	f.BodyRead = c.upload.allRead.Load()
	return f
}
