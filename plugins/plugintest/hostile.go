package plugintest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// hostileRequests pass the parser and are odd all the same.
func hostileRequests() []string {
	long := strings.Repeat("a", 6000)
	odd := []string{
		"GET / HTTP/1.1\r\nHost: a\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n",
		"HEAD /x HTTP/1.1\r\nHost: a\r\nRange: bytes=0-0,5-,-1\r\n",
		"OPTIONS /x HTTP/1.1\r\nHost: a\r\nOrigin: null\r\nAccess-Control-Request-Method: \r\nAccess-Control-Request-Headers: ,,,\xff\r\n",
		"OPTIONS /x HTTP/1.1\r\nHost: a\r\nOrigin: https://[::1\r\nAccess-Control-Request-Method: PUT\r\nAccess-Control-Request-Private-Network: yes\r\n",
		"POST /x HTTP/1.1\r\nHost: a\r\nOrigin: javascript:alert(1)\r\nSec-Fetch-Site: \xff\r\nContent-Length: 0\r\n",
		"POST /x HTTP/1.1\r\nHost: a\r\nOrigin: a\r\nOrigin: b\r\nReferer: ://\r\nContent-Length: 3\r\n\r\nabc",
		"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
		"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nshort",
		"POST /x HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data\r\nContent-Length: 4\r\n\r\n--\r\n",
		"POST /x HTTP/1.1\r\nHost: a\r\nContent-Type: application/json;charset=\"\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{\xff",
		"GET /x HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip;q=x, ;q=, br;q=-1, *;q=9999999999, zstd;q=0.0001,,\r\n",
		"GET /x HTTP/1.1\r\nHost: a\r\nAccept: \xff\xfe;q=,,*/*;;\r\nAccept-Language: \x80\r\n",
		"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: \r\nAuthorization: Basic ====\r\nCookie: ;;=;a\r\nCookie: \xff=\xfe\r\n",
		"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + long + "\r\n",
		"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a.b.c.d.e\r\nX-API-Key: \xff\r\n",
		"GET /x HTTP/1.1\r\nHost: a\r\nCookie: " + strings.Repeat("a=b; ", 2000) + "\r\n",
		"GET /x HTTP/1.1\r\nHost: a\r\nX-Request-ID: " + long + "\r\nX-Request-ID: \xff\r\n",
		"GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: ,,::1, 999.1.1.1, unknown\r\nForwarded: for=;;\"\r\n",
		"GET /x HTTP/1.1\r\nHost: a\r\nIf-None-Match: W/\"\r\nIf-Modified-Since: \xff\r\nCache-Control: ,=,\r\n",
		"GET /%00%ff%2e%2e/?%=%&&;=a&" + strings.Repeat("q=1&", 1500) + " HTTP/1.1\r\nHost: a\r\n",
		"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: \xff\r\n",
		"PURGE /x HTTP/1.1\r\nHost: a\r\nTraceparent: 00-zz\r\nTracestate: =\r\n",
		"GET http://b/x HTTP/1.1\r\nHost: b\r\nExpect: 100-continue\r\n",
	}
	for i, r := range odd {
		if !strings.Contains(r, "\r\n\r\n") {
			odd[i] = r + "\r\n"
		}
	}
	return odd
}

var errBroken = errors.New("the upstream broke off")

// upstreams are what a plugin may find after c.Next().
func upstreams() map[string]fiber.Handler {
	answer := func(status int, head map[string]string, body string) fiber.Handler {
		return func(c *fiber.Ctx) error {
			exchange.From(c).Upstream.Status = status
			for k, v := range head {
				c.Response().Header.Add(k, v)
			}
			c.Response().SetStatusCode(status)
			c.Response().SetBodyString(body)
			return nil
		}
	}
	stream := func(contentType string, announced int, r func() io.Reader) fiber.Handler {
		return func(c *fiber.Ctx) error {
			e := exchange.From(c)
			e.Upstream.Status, e.Stream = 200, contentType == "text/event-stream"
			c.Response().Header.SetContentType(contentType)
			c.Response().SetBodyStream(r(), announced)
			return nil
		}
	}
	big := strings.Repeat("<p>hello</p>", 20000)
	return map[string]fiber.Handler{
		"plain":        Upstream,
		"empty 204":    answer(204, nil, ""),
		"304 with tag": answer(304, map[string]string{"Etag": `"a"`}, ""),
		"odd headers": answer(200, map[string]string{
			"Content-Type": "\xff/;;", "Content-Encoding": ",gzip", "Etag": `W/"`,
			"Vary": ",*,", "Set-Cookie": "\xff", "Cache-Control": "=,", "Location": "://",
		}, "x"),
		"599 long":     answer(599, map[string]string{"Content-Type": "text/html"}, big),
		"206":          answer(206, map[string]string{"Content-Type": "text/html", "Content-Range": "bytes 0-9/1"}, "0123456789"),
		"compressed":   answer(200, map[string]string{"Content-Type": "text/html", "Content-Encoding": "br"}, "\x0b\x02\x80"),
		"stream":       stream("text/html", -1, func() io.Reader { return strings.NewReader(big) }),
		"sized stream": stream("application/json", len(big), func() io.Reader { return strings.NewReader(big) }),
		"events":       stream("text/event-stream", -1, func() io.Reader { return strings.NewReader("data: x\n\n") }),
		"reads body": func(c *fiber.Ctx) error {
			exchange.From(c).Upstream.Status = 200
			if s := c.Request().BodyStream(); s != nil {
				if _, err := io.Copy(io.Discard, s); err != nil {
					return err
				}
			}
			return c.SendString("read")
		},
		"refuses":      func(*fiber.Ctx) error { return reason.UpstreamReset.Wrap(errBroken) },
		"fails":        func(*fiber.Ctx) error { return errBroken },
		"fiber error":  func(*fiber.Ctx) error { return fiber.ErrTeapot },
		"answers late": func(c *fiber.Ctx) error { return c.Status(500).Send(bytes.Repeat([]byte{0xff}, 5000)) },
	}
}

// requests sends everything odd through every good config and to every kind of
// upstream: no panic, a status, a readable reply.
func (s *suite) requests(t *testing.T) {
	all, ends := append(hostileRequests(), s.o.Request.Raw), upstreams()
	for _, g := range s.good() {
		in := s.start(t, g)
		for _, raw := range all {
			s.one(t, g, "reads body", in.Handle, raw, ends["reads body"])
		}
		for name, end := range ends {
			s.one(t, g, name, in.Handle, s.o.Request.Raw, end)
			s.one(t, g, name, in.Handle, "GET /x HTTP/1.1\r\nHost: a\r\nOrigin: https://b.test\r\nAccept: text/html\r\nAccept-Encoding: br, zstd, gzip\r\n\r\n", end)
			s.one(t, g, name, in.Handle, "HEAD /x HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n", end)
		}
	}
}

func (s *suite) one(t *testing.T, config, upstream string, h fiber.Handler, raw string, end fiber.Handler) {
	t.Helper()
	req := s.o.Request
	req.Raw = raw
	r := Do(t, req, h, end)
	if r.Status < 200 || r.Status > 599 {
		t.Errorf("%s, upstream %q: status %d for %.60q", config, upstream, r.Status, raw)
	}
	if r.Refusal != nil && r.Refusal.Reason == reason.Internal && !errors.Is(r.Refusal.Cause, errBroken) && !isFiber(r.Refusal.Cause) {
		t.Errorf("%s, upstream %q: internal error for %.60q: %v", config, upstream, raw, r.Refusal)
	}
}

func isFiber(err error) bool {
	var fe *fiber.Error
	return errors.As(err, &fe)
}
