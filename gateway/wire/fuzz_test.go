package wire_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// FuzzRequest: what we accept, net/http must accept and read the same way, and
// it must not matter how the bytes are cut into reads.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"POST /x?a=b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\nabc",
		"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"GET http://a/x HTTP/1.1\r\nHost: a\r\nX-A:  b \t\r\nX-A: c\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\nHost: [::1]:80\r\nConnection: keep-alive, x\r\nExpect: 100-continue\r\n\r\n",
		"PUT /%41?%zz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		var h wire.Head
		n, r := h.Parse(in, &testLimits)
		checkPrefixes(t, in, n, r)
		if r != nil {
			return
		}
		body, trailers, err := decode(in[n:], len(in), 4096, &h)
		body2, trailers2, err2 := decode(in[n:], int(cut)+1, int(cut)%7+1, &h)
		if !bytes.Equal(body, body2) || !bytes.Equal(trailers, trailers2) || !errors.Is(err2, err) {
			t.Fatalf("whole: %q %q %v; cut: %q %q %v", body, trailers, err, body2, trailers2, err2)
		}
		compare(t, in, &h, body, trailers, err)
	})
}

// checkPrefixes: every proper prefix of an accepted head is incomplete, and no
// prefix of a refused one is accepted as another length.
func checkPrefixes(t *testing.T, in []byte, n int, r *reason.Reason) {
	end := len(in)
	if r == nil {
		end = n
	}
	for i := 0; i < end; i += 1 + end/64 {
		var h wire.Head
		m, why := h.Parse(in[:i], &testLimits)
		if r == nil && why != wire.NeedMore || r != nil && why == nil {
			t.Fatalf("%d bytes of %q: %d, %v; all of it: %d, %v", i, in, m, why, n, r)
		}
	}
}

func decode(raw []byte, size, room int, h *wire.Head) (body, trailers []byte, err error) {
	var b wire.Body
	b.Start(pieces(string(raw), size), h.Chunked, h.ContentLength, 0)
	got, err := readAll(&b, room)
	if err != nil {
		return nil, nil, err
	}
	return []byte(got), b.Trailers, nil
}

func compare(t *testing.T, in []byte, h *wire.Head, body, trailers []byte, bodyErr error) {
	want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", in, err)
	}
	if want.Method != string(h.Method) || want.RequestURI != string(h.RawTarget) || !strings.EqualFold(want.Host, string(h.Host)) || want.ProtoMinor == 0 != h.HTTP10 {
		t.Fatalf("%q: %s %s %s; net/http: %s %s %s %s", in, h.Method, h.RawTarget, h.Host, want.Method, want.RequestURI, want.Host, want.Proto)
	}
	ours := http.Header{}
	for _, f := range h.Fields {
		switch k := http.CanonicalHeaderKey(string(f.Name(in))); k {
		case "Host", "Transfer-Encoding", "Trailer":
		default:
			ours[k] = append(ours[k], string(f.Value(in)))
		}
	}
	for k, v := range ours {
		if strings.Join(want.Header[k], "\x00") != strings.Join(v, "\x00") {
			t.Fatalf("%q: %s is %q; net/http: %q", in, k, v, want.Header[k])
		}
	}
	for k := range want.Header {
		if ours[k] == nil && k != "Trailer" && k != "Cache-Control" { // net/http adds the latter for Pragma
			t.Fatalf("%q: net/http has %s", in, k)
		}
	}
	wantBody, err := io.ReadAll(want.Body)
	if bodyErr != nil {
		return // stricter than net/http is fine
	}
	if err != nil || !bytes.Equal(body, wantBody) {
		t.Fatalf("%q: body %q; net/http: %q, %v", in, body, wantBody, err)
	}
	for k, v := range want.Trailer {
		if v != nil && !bytes.Contains(bytes.ToLower(trailers), []byte(strings.ToLower(k)+":")) {
			t.Fatalf("%q: no trailer %s", in, k)
		}
	}
}

// FuzzResponse: the same for what an upstream answers.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.0 404 \r\nConnection: keep-alive\r\nX: a\tb\r\n\r\nrest",
		"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
	} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		var h wire.RespHead
		n, r := h.Parse(in, &testLimits)
		if r != nil {
			if n != 0 || r != wire.NeedMore && h.Detail == "" {
				t.Fatalf("%q: %d, %v, %q", in, n, r, h.Detail)
			}
			return
		}
		for i := 0; i < n; i += 1 + n/64 {
			var part wire.RespHead
			if _, r := part.Parse(in[:i], &testLimits); r != wire.NeedMore {
				t.Fatalf("%d bytes of %q: %v", i, in, r)
			}
		}
		want, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), nil)
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", in, err)
		}
		if want.StatusCode != h.Status || want.ProtoMinor == 0 != h.HTTP10 {
			t.Fatalf("%q: %d; net/http: %s %d", in, h.Status, want.Proto, want.StatusCode)
		}
		if h.Status < 200 || h.Status == 204 || h.Status == 304 || !h.Chunked && h.ContentLength < 0 {
			return
		}
		if h.Chunked != (want.ContentLength < 0) || !h.Chunked && want.ContentLength != h.ContentLength {
			t.Fatalf("%q: length %d chunked %v; net/http: %d", in, h.ContentLength, h.Chunked, want.ContentLength)
		}
		body, _, bodyErr := decode(in[n:], int(cut)+1, int(cut)%7+1, &wire.Head{Chunked: h.Chunked, ContentLength: h.ContentLength})
		wantBody, err := io.ReadAll(want.Body)
		if bodyErr == nil && (err != nil || !bytes.Equal(body, wantBody)) {
			t.Fatalf("%q: body %q; net/http: %q, %v", in, body, wantBody, err)
		}
	})
}
