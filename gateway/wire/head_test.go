package wire_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

const browserHead = "GET /api/v1/users?id=42 HTTP/1.1\r\nHost: 127.0.0.1:8301\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: application/json\r\nAccept-Encoding: gzip, br\r\nCookie: a=b; c=d\r\n\r\n"

func parse(t *testing.T, raw string) *wire.Head {
	t.Helper()
	var h wire.Head
	if n, r := h.Parse([]byte(raw), &testLimits); r != nil || n != len(raw) {
		t.Fatalf("%q: %d, %v", raw, n, r)
	}
	return &h
}

func TestHeadFields(t *testing.T) {
	h := parse(t, "POST http://A.test:80/x?y HTTP/1.1\r\nhost: a.TEST:80\r\nContent-Length: 0012\r\nCONNECTION: close, x-a\r\nConnection:Upgrade\r\nUpgrade: websocket\r\nExpect: 100-Continue\r\nX-A:  b \t\r\nCookie: c\r\nTrailer: z\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\r\n")
	if string(h.Method) != "POST" || string(h.Target) != "/x?y" || string(h.RawTarget) != "http://A.test:80/x?y" || string(h.Host) != "a.TEST:80" ||
		h.ContentLength != 12 || h.Chunked || h.HTTP10 || !h.Close || h.KeepAlive || !h.WantsUpgrade || string(h.Protocol) != "websocket" ||
		!h.Expect || !h.HasCookie || !h.HasBody() || !h.ListsField("x-a") || h.ListsField("x-b") {
		t.Errorf("%+v", h)
	}
	var handed []string
	for i, f := range h.Fields {
		if !h.Special(i) {
			handed = append(handed, string(f.Name(h.Raw))+"="+string(f.Value(h.Raw)))
		}
	}
	if s := strings.Join(handed, "|"); s != "Upgrade=websocket|X-A=b|Cookie=c" {
		t.Errorf("handed on: %s", s)
	}
}

// Framing fields are kept from the pipeline however many come before them.
func TestSpecialFieldsBehindManyOthers(t *testing.T) {
	raw := "POST / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 500) + "Transfer-Encoding: chunked\r\n\r\n"
	var h wire.Head
	if _, r := h.Parse([]byte(raw), &wire.Limits{Head: 64 << 10, Fields: 1000, URI: 100}); r != nil {
		t.Fatal(r)
	}
	if !h.Chunked || !h.Special(len(h.Fields)-1) || h.Special(200) {
		t.Error("the last field is not special")
	}
}

func TestHeadNeedsAllOfIt(t *testing.T) {
	var h wire.Head
	for i := range len(browserHead) {
		if n, r := h.Parse([]byte(browserHead[:i]), &testLimits); n != 0 || r != wire.NeedMore {
			t.Fatalf("after %q: %d, %v", browserHead[:i], n, r)
		}
	}
	if n, r := h.Parse([]byte(browserHead+"GET /next"), &testLimits); n != len(browserHead) || r != nil || string(h.Raw) != browserHead {
		t.Errorf("%d, %v", n, r)
	}
}

func TestHeadLimits(t *testing.T) {
	small := wire.Limits{Head: 300, Fields: 3, URI: 20}
	head := func(target, rest string) string { return "GET " + target + " HTTP/1.1\r\nHost: a\r\n" + rest + "\r\n" }
	fits := head("/", "X: "+strings.Repeat("x", 300-len(head("/", "X: \r\n")))+"\r\n")
	for name, c := range map[string]struct {
		raw  string
		want *reason.Reason
	}{
		"target fits":           {head("/"+strings.Repeat("x", 19), ""), nil},
		"target too long":       {head("/"+strings.Repeat("x", 20), ""), reason.URITooLong},
		"endless target":        {"GET /" + strings.Repeat("x", 100), reason.URITooLong},
		"endless method":        {strings.Repeat("x", 100), reason.URITooLong},
		"fields fit":            {head("/", "a:\r\nb:\r\n"), nil},
		"one field too many":    {head("/", "a:\r\nb:\r\nc:\r\n"), reason.TooManyHeaders},
		"head fits":             {fits, nil},
		"head one byte too big": {strings.Replace(fits, "X: ", "X: x", 1), reason.HeadTooLarge},
		"endless field":         {"GET / HTTP/1.1\r\nHost: " + strings.Repeat("x", 300), reason.HeadTooLarge},
	} {
		var h wire.Head
		if _, r := h.Parse([]byte(c.raw), &small); r != c.want {
			t.Errorf("%s: %v, want %v", name, r, c.want)
		}
	}
}

func TestParsingDoesNotAllocate(t *testing.T) {
	request, response := []byte(browserHead), []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nDate: x\r\n\r\n")
	var h wire.Head
	var rh wire.RespHead
	var b wire.Body
	src := &memory{}
	buf := make([]byte, 64)
	run := func() {
		if _, r := h.Parse(request, &testLimits); r != nil {
			t.Fatal(r)
		}
		if _, r := rh.Parse(response, &testLimits); r != nil {
			t.Fatal(r)
		}
		src.b = chunkedBody
		b.Start(src, true, 0, 0)
		for {
			if _, err := b.Read(buf); err != nil {
				break
			}
		}
	}
	run()
	if n := testing.AllocsPerRun(100, run); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if !b.AtEOF() || b.Count != 8 || !bytes.Equal(b.Trailers, []byte("X-T: v\r\n")) {
		t.Errorf("body: %+v", b)
	}
}

var chunkedBody = []byte("3;x=y\r\nabc\r\n005\r\ndefgh\r\n0\r\nX-T: v\r\n\r\n")

func BenchmarkHead(b *testing.B) {
	var h wire.Head
	raw := []byte(browserHead)
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		h.Parse(raw, &testLimits)
	}
}

func BenchmarkRespHead(b *testing.B) {
	var h wire.RespHead
	raw := []byte("HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: 256\r\nConnection: keep-alive\r\n\r\n")
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		h.Parse(raw, &testLimits)
	}
}

func BenchmarkChunkedBody(b *testing.B) {
	raw := append(bytes.Repeat([]byte("001000\r\n"+strings.Repeat("x", 4096)+"\r\n"), 64), "0\r\n\r\n"...)
	var body wire.Body
	buf := make([]byte, 16<<10)
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		body.Start(&memory{b: raw}, true, 0, 0)
		for {
			if _, err := body.Read(buf); err != nil {
				break
			}
		}
	}
}
