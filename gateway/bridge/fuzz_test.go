package bridge_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/bridge"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// FuzzHead gives the bridge what no server should let through. Either it is
// refused, or the handler sees just what was sent: nothing that one field says
// becomes another field, the target or the host.
func FuzzHead(f *testing.F) {
	f.Add("GET", "/", "a.test", "X-A", "b")
	f.Add("GET", "/a?b=%zz", "a.test:80", "Host", "a.test")
	f.Add("GET", "/ HTTP/1.1\r\nEvil: 1\r\nX:", "a", "X-A", "b")
	f.Add("GET / HTTP/1.1\r\nEvil: 1\r\nX:", "/", "a", "X-A", "b")
	f.Add("POST", "/", "a\r\nEvil: 1", "X-A", "b")
	f.Add("POST", "/", "a", "X-A", "b\r\n\r\nGET /evil HTTP/1.1\r\n")
	f.Add("POST", "/", "a", "X-A: 1\r\nEvil", "b")
	f.Add("POST", "/", "a", "Content-Length", "5")
	f.Add("POST", "/", "a", "Transfer-Encoding", "chunked")
	f.Add("OPTIONS", "*", "[::1]:80", "Cookie", "a=b; c")
	f.Add("CONNECT", "a:443", "a:443", "", "")
	f.Fuzz(func(t *testing.T, method, target, host, name, value string) {
		r := &http.Request{
			Method: method, RequestURI: target, Host: host, URL: &url.URL{Path: "/"}, Proto: "HTTP/2.0", ProtoMajor: 2,
			Header: http.Header{name: {value}, "X-Last": {"1"}}, Body: http.NoBody,
		}
		want := 1 + len(r.Header) // Host, and those
		if name == "Host" {
			want--
		}
		s := settings(func(ctx *fasthttp.RequestCtx, front exchange.Front) {
			h := &ctx.Request.Header
			if string(h.Method()) != method || string(h.RequestURI()) != target || string(h.Host()) != host {
				t.Errorf("sent %q %q %q, the handler sees %q %q %q", method, target, host, h.Method(), h.RequestURI(), h.Host())
			}
			n := 0
			front.EachField(func(k, v []byte) bool {
				n++
				if strings.EqualFold(string(k), name) && strings.Trim(value, " \t") != string(v) && name != "X-Last" && name != "Host" {
					t.Errorf("%s: sent %q, the handler sees %q", name, value, v)
				}
				return true
			})
			if n != want {
				t.Errorf("%d fields, want %d", n, want)
			}
		})
		b := bridge.New(s)
		b.ServeHTTP(&null{http.Header{}}, r)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}
