package http2_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

func TestRequestArrivesAsItWas(t *testing.T) {
	var got *http.Request
	var body string
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
	})
	p := newPool(t, http2.Settings{}, addr)
	call := &transport.Call{Head: append(head("POST /a%2Fb?x=1&&y", "X-Two: 1", "x-two: 2", "Content-Type: text/plain",
		"Cookie: a=b; c=\"d e\"", "Via: 1.1 x", "Connection: TE", "TE: trailers", "Upgrade: nothing", "Content-Length: 5"), "hello"...)}
	if r := do(p, call); r.err != nil || r.status != 200 {
		t.Fatalf("%+v", r)
	}
	if got.Method != "POST" || got.RequestURI != "/a%2Fb?x=1&&y" || got.Host != "a.test" || body != "hello" || got.ContentLength != 5 {
		t.Errorf("%s %s, host %s, body %q of %d", got.Method, got.RequestURI, got.Host, body, got.ContentLength)
	}
	want := "Content-Length: [5]\nContent-Type: [text/plain]\nCookie: [a=b; c=\"d e\"]\nTe: [trailers]\nVia: [1.1 x]\nX-Two: [1 2]\n"
	if all := sorted(got.Header); all != want {
		t.Errorf("got\n%swant\n%s", all, want)
	}
}

func sorted(h http.Header) string {
	var b strings.Builder
	h = h.Clone()
	for _, name := range []string{"Connection", "Content-Length", "Content-Type", "Cookie", "Te", "Upgrade", "User-Agent", "Via", "X-Two"} {
		if v := h.Values(name); len(v) > 0 {
			fmt.Fprintf(&b, "%s: %v\n", name, v)
		}
		h.Del(name)
	}
	for name, v := range h {
		fmt.Fprintf(&b, "%s: %v\n", name, v)
	}
	return b.String()
}

func TestTargetsArriveByteForByte(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Method+" "+r.RequestURI) })
	p := newPool(t, http2.Settings{}, addr)
	for _, target := range []string{
		"/", "/?", "/a?", "/a%2fB/../c", "//x//y", "//x", "/é", "/a;b=c?d;e", "/%41", "/a b"[:2], "/*", "*", "/a?b#c"[:4],
		"//a.test/x", "//a.test//x?y", "/x?http://b/", "/x?//b",
	} {
		method := "GET"
		if target == "*" {
			method = "OPTIONS"
		}
		r := do(p, &transport.Call{Head: head(method + " " + target)})
		if target == "*" { // net/http answers that itself
			if r.err != nil || r.status != 200 {
				t.Errorf("%+v", r)
			}
			continue
		}
		if r.err != nil || r.body != method+" "+target {
			t.Errorf("%s: got %q, %v", target, r.body, r.err)
		}
	}
}
