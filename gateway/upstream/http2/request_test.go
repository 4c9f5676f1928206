package http2

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// Whatever is in a head, nothing of it gets into HTTP/2 that must not, and what
// the body is does not depend on it.
func FuzzRequestHead(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"POST //x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nTrailer: a, content-length, \r\n\r\nabc",
		"GET /a:b HTTP/1.1\r\nX-A: b: c\r\nx-a: d\r\nConnection: X-A\r\nUPGRADE: h2c\r\n\r\n",
		"GET / HTTP/1.1\r\nno colon\r\n\r\n",
		"GET  HTTP/1.1\r\n: empty\r\n\r\n",
		"\r\n\r\n", "", "GET", ":authority: x\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	p := NewPool(Settings{Address: "a.test:80"})
	f.Fuzz(func(t *testing.T, head []byte) {
		c := newConn(p)
		before := string(head)
		if c.prepare(&transport.Call{Head: head}) != nil {
			return
		}
		if string(head) != before {
			t.Error("the head was changed")
		}
		_, body, _ := strings.Cut(before, "\r\n\r\n")
		if c.req.ContentLength != int64(len(body)) {
			t.Errorf("%d bytes of body, of %q", c.req.ContentLength, body)
		}
		for name := range c.req.Header {
			switch strings.ToLower(name) {
			case "host", "connection", "keep-alive", "proxy-connection", "upgrade", "transfer-encoding", "content-length", "trailer":
				t.Errorf("the field %q got through", name)
			}
			if strings.ContainsAny(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
				t.Errorf("the field %q is not in lower case", name)
			}
		}
		for name := range c.req.Trailer {
			if name != http.CanonicalHeaderKey(name) {
				t.Errorf("the trailer %q would not be found", name)
			}
		}
		c.forget()
		if len(c.req.Header) > 0 || len(c.values) > 0 || c.req.Trailer != nil || c.upload.some {
			t.Error("something is left for the next request")
		}
	})
}
