package http2

import (
	"errors"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

var (
	errTooManyInterims = errors.New("too many interim replies")
	errSwitched        = errors.New("switched protocols, which HTTP/2 does not have")
)

// What net/http says without a type that others can name. TestFaults makes sure
// that it still does.
const (
	textGoAway    = "http2: Transport received Server's graceful shutdown GOAWAY"
	textUnusable  = "http2: client conn not usable"
	textNotMade   = "http2: client conn could not be established"
	textHeadLarge = "response header list larger than advertised limit"
	textTooMuch   = "more than declared Content-Length"
	textConnError = "connection error: "
	textFromPeer  = "received from peer"
)

// streamError has the fields of net/http's, which can be had as one by
// errors.As.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

// Error implements error.
func (e streamError) Error() string { return "stream error" }

// codeRefused is REFUSED_STREAM (RFC 9113, 7): nothing was done about the request.
const codeRefused = 0x7

// unprocessed reports that the endpoint has not looked at the request: it has
// said so, or the connection had ended before.
func unprocessed(err error) (yes, connection bool) {
	switch text := err.Error(); {
	case text == textGoAway, text == textUnusable, text == textNotMade:
		return true, true
	}
	var s streamError
	return errors.As(err, &s) && s.Code == codeRefused && fromPeer(s), false
}

func fromPeer(s streamError) bool { return s.Cause != nil && s.Cause.Error() == textFromPeer }

// reasonOf says whether the endpoint ended it or broke the rules.
func reasonOf(err error) *reason.Reason {
	text := err.Error()
	var s streamError
	switch {
	case strings.Contains(text, textHeadLarge):
		return reason.UpstreamHeadLarge
	case errors.As(err, &s) && !fromPeer(s), // what we said about the endpoint
		strings.HasPrefix(text, textConnError),
		strings.Contains(text, textTooMuch):
		return reason.UpstreamProtocol
	}
	return reason.UpstreamReset
}

// failed ends a call that brought no reply, and says why.
func (c *Conn) failed(err error) *transport.Failure {
	state, heard := c.state.Load(), c.interims.count > 0 || c.res != nil
	f := c.quit(&transport.Failure{Reason: reasonOf(err), Cause: err})
	bodyErr := c.upload.failure()
	unsent, connection := unprocessed(err)
	switch {
	case state == stateGone:
		f.Reason = reason.ClientGone
	case state == stateTimeout:
		f.Reason = reason.UpstreamTimeout
		c.link.silent(c.began)
	case bodyErr != nil:
		f.Reason, f.Cause, f.Client = transport.BodyReason(bodyErr), bodyErr, true
	case heard:
	case unsent || !c.sent.Load():
		f.Unsent = true
		f.Stale = connection && !c.upload.touched.Load()
	case f.Reason == reason.UpstreamReset:
		f.Stale = c.reused && c.link.client.Err() != nil
	}
	c.leave(false)
	return f
}

// refused ends a call whose reply cannot be passed on.
func (c *Conn) refused(r *reason.Reason) *transport.Failure {
	c.cut()
	f := c.quit(&transport.Failure{Reason: r, Cause: errors.New(c.head.Detail)})
	c.leave(false)
	return f
}

// quit stops everything that goes on for the call.
func (c *Conn) quit(f *transport.Failure) *transport.Failure {
	c.retire()
	c.finish()
	f.BodyRead = c.upload.allRead.Load()
	return f
}
