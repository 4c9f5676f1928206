package wire_test

import (
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

var testLimits = wire.Limits{Head: 64 << 10, Fields: 100, URI: 8 << 10}

func TestRespHeadAccepts(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		want      wire.RespHead
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", wire.RespHead{Status: 200, ContentLength: 3, KeepAlive: true}},
		{"chunked", "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", wire.RespHead{Status: 200, ContentLength: -1, Chunked: true, KeepAlive: true}},
		{"until close", "HTTP/1.0 200 OK\r\n\r\n", wire.RespHead{Status: 200, ContentLength: -1, HTTP10: true}},
		{"1.0 keep-alive", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", wire.RespHead{Status: 200, HTTP10: true, KeepAlive: true}},
		{"close", "HTTP/1.1 404 Not Found\r\nConnection: x, Close\r\n\r\n", wire.RespHead{Status: 404, ContentLength: -1}},
		{"close wins", "HTTP/1.1 404 Not Found\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", wire.RespHead{Status: 404, ContentLength: -1}},
		{"interim", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", wire.RespHead{Status: 103, ContentLength: -1, KeepAlive: true}},
		{"no reason phrase", "HTTP/1.1 200 \r\n\r\n", wire.RespHead{Status: 200, ContentLength: -1, KeepAlive: true}},
		{"no space behind the code", "HTTP/1.1 200\r\n\r\n", wire.RespHead{Status: 200, ContentLength: -1, KeepAlive: true}},
		{"upgrade", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", wire.RespHead{Status: 101, ContentLength: -1, KeepAlive: true, Upgrade: []byte("websocket")}},
		{"upgrade offered only", "HTTP/1.1 200 OK\r\nUpgrade: h2c\r\n\r\n", wire.RespHead{Status: 200, ContentLength: -1, KeepAlive: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h wire.RespHead
			for i := range len(c.raw) {
				if n, r := h.Parse([]byte(c.raw[:i]), &testLimits); n != 0 || r != wire.NeedMore {
					t.Fatalf("after %q: %d, %v", c.raw[:i], n, r)
				}
			}
			n, r := h.Parse([]byte(c.raw+"rest"), &testLimits)
			if r != nil || n != len(c.raw) {
				t.Fatalf("%d, %v (%s)", n, r, h.Detail)
			}
			if h.Status != c.want.Status || h.HTTP10 != c.want.HTTP10 || h.ContentLength != c.want.ContentLength ||
				h.Chunked != c.want.Chunked || h.KeepAlive != c.want.KeepAlive || string(h.Upgrade) != string(c.want.Upgrade) {
				t.Errorf("got %+v", h)
			}
		})
	}
}

func TestRespHeadFields(t *testing.T) {
	raw := []byte("HTTP/1.1 200 OK\r\nX-A:  b c\t\r\nConnection: X-A, close\r\nSet-Cookie: a\r\nset-cookie:\r\nTrailer: X\r\n\r\n")
	var h wire.RespHead
	if _, r := h.Parse(raw, &testLimits); r != nil {
		t.Fatal(r, h.Detail)
	}
	var got []string
	for i, f := range h.Fields {
		if !h.Hop(i) {
			got = append(got, string(f.Name(raw))+"="+string(f.Value(raw)))
		}
	}
	if s := strings.Join(got, "|"); s != "X-A=b c|Set-Cookie=a|set-cookie=" {
		t.Errorf("got %s", s)
	}
	if !h.ListsField(raw, "x-a") || h.ListsField(raw, "x-b") {
		t.Error("ListsField")
	}
}

func TestRespHeadRefuses(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\n"
	for name, raw := range map[string]string{
		"not http":              "SSH-2.0-OpenSSH\r\n",
		"http/2":                "HTTP/2 200 OK\r\n\r\n",
		"version 1.2":           "HTTP/1.2 200 OK\r\n\r\n",
		"lower case":            "http/1.1 200 OK\r\n\r\n",
		"leading empty line":    "\r\nHTTP/1.1 200 OK\r\n\r\n",
		"two digit code":        "HTTP/1.1 20 OK\r\n\r\n",
		"four digit code":       "HTTP/1.1 2000 OK\r\n\r\n",
		"code below 100":        "HTTP/1.1 099 X\r\n\r\n",
		"code above 599":        "HTTP/1.1 600 X\r\n\r\n",
		"letters for a code":    "HTTP/1.1 abc X\r\n\r\n",
		"two spaces":            "HTTP/1.1  200 OK\r\n\r\n",
		"bare LF status line":   "HTTP/1.1 200 OK\n\r\n",
		"CR in the reason":      "HTTP/1.1 200 O\rK\r\n\r\n",
		"bare LF field":         ok + "A: b\nC: d\r\n\r\n",
		"bare LF end":           ok + "A: b\r\n\n",
		"NUL in value":          ok + "A: b\x00\r\n\r\n",
		"CR in value":           ok + "A: b\rC: d\r\n\r\n",
		"obs-fold":              ok + "A: b\r\n c\r\n\r\n",
		"obs-fold first":        ok + " A: b\r\n\r\n",
		"space before colon":    ok + "A : b\r\n\r\n",
		"no colon":              ok + "A\r\n\r\n",
		"empty name":            ok + ": b\r\n\r\n",
		"name not a token":      ok + "A@: b\r\n\r\n",
		"length and chunked":    ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
		"two lengths":           ok + "Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
		"length twice":          ok + "Content-Length: 3\r\nContent-Length: 3\r\n\r\n",
		"length list":           ok + "Content-Length: 3, 3\r\n\r\n",
		"signed length":         ok + "Content-Length: +3\r\n\r\n",
		"hex length":            ok + "Content-Length: 0x3\r\n\r\n",
		"empty length":          ok + "Content-Length:\r\n\r\n",
		"huge length":           ok + "Content-Length: 9999999999999999999\r\n\r\n",
		"gzip, chunked":         ok + "Transfer-Encoding: gzip, chunked\r\n\r\n",
		"identity":              ok + "Transfer-Encoding: identity\r\n\r\n",
		"chunked twice":         ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
		"chunked in 1.0":        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"chunked 204":           "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
		"101 without a promise": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var h wire.RespHead
			if n, r := h.Parse([]byte(raw), &testLimits); r != reason.UpstreamProtocol || n != 0 || h.Detail == "" {
				t.Errorf("got %d, %v, %q", n, r, h.Detail)
			}
		})
	}
}

func TestRespHeadLimits(t *testing.T) {
	small := wire.Limits{Head: 200, Fields: 3}
	for name, raw := range map[string]string{
		"endless status line": "HTTP/1.1 200 " + strings.Repeat("x", 200),
		"endless field":       "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 200),
		"long head":           "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 200) + "\r\n\r\n",
		"too many fields":     "HTTP/1.1 200 OK\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n",
	} {
		var h wire.RespHead
		if _, r := h.Parse([]byte(raw), &small); r != reason.UpstreamHeadLarge || h.Detail == "" {
			t.Errorf("%s: %v", name, r)
		}
	}
}
