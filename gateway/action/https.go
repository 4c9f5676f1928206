package action

import (
	"bytes"
	"strconv"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// HTTPS sends clients to the same address over https. It never changes.
type HTTPS struct{ port, status int }

// NewHTTPS returns one for the port that clients reach https by; status is 301,
// 302, 307 or 308.
func NewHTTPS(port, status int) *HTTPS { return &HTTPS{port: port, status: status} }

// Handle answers; it is a route's only handler. Path and query stay as sent. The
// Location is an absolute URL on the host that was asked for, which has to be a
// host. It does not allocate.
func (h *HTTPS) Handle(c *fiber.Ctx) error {
	ctx, e := c.Context(), exchange.From(c)
	if !validHost(e.Host) {
		return reason.BadHost
	}
	p := scratch.Get().(*[]byte)
	b := append(append((*p)[:0], "https://"...), e.Host...)
	if h.port != 443 {
		b = strconv.AppendInt(append(b, ':'), int64(h.port), 10)
	}
	uri := ctx.Request.Header.RequestURI()
	if !bytes.HasPrefix(uri, []byte{'/'}) { // OPTIONS *
		b = append(b, '/')
	} else {
		b = appendQuery(b, uri)
	}
	ctx.Response.SetStatusCode(h.status)
	ctx.Response.Header.SetBytesV(fasthttp.HeaderLocation, b)
	release(p, b)
	return nil
}
