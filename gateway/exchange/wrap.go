package exchange

import (
	"io"

	"github.com/valyala/fasthttp"
)

// WrapReply makes s the reply's body stream. s reads from the stream that was
// there, and closes it when it is closed itself. size is the length of what s
// gives, -1 if that is not known. ok is false, and nothing has changed, if the
// old stream cannot be taken out of the reply without being closed.
//
// s should have `BufferedNow() int`, so that the front knows when to send, and
// `Hold(on bool)`, passed on to the old stream, so that it can be wrapped again.
func WrapReply(resp *fasthttp.Response, s io.ReadCloser, size int) (ok bool) {
	old := resp.BodyStream()
	if old == nil {
		return false
	}
	h, holds := old.(holder)
	if _, closes := old.(io.Closer); closes && !holds {
		return false
	}
	if holds {
		h.Hold(true)
		defer h.Hold(false)
	}
	resp.SetBodyStream(s, size)
	return true
}
