package http2

import (
	"strconv"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
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
		if c.length != int64(len(body)) || string(c.rest) != body {
			t.Errorf("%d bytes of body, of %q", c.length, body)
		}
		for i, f := range c.fields {
			switch f.name {
			case "host", "connection", "keep-alive", "proxy-connection", "upgrade", "transfer-encoding":
				t.Errorf("the field %q got through", f.name)
			case "content-length":
				if f.value != strconv.Itoa(len(body)) {
					t.Errorf("a length of %s for %d bytes", f.value, len(body))
				}
			}
			if i >= 4 && !frames.ValidName(f.name) || !frames.ValidValue(f.value) {
				t.Errorf("the field %q: %q got through", f.name, f.value)
			}
		}
		c.forget()
		if len(c.fields) > 0 || len(c.rest) > 0 || c.upload.some {
			t.Error("something is left for the next request")
		}
	})
}
