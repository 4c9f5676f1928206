package compress

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/gofiber/fiber/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/grpc"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good: []string{"{}", "{encodings: [gzip], level: fast, min_size: 0}", "{encodings: [br, zstd], level: best, min_size: 0, content_types: ['text/*', 'application/*+json']}"},
		Bad: []plugintest.Bad{
			{YAML: "encodings: [deflate]", Want: "encodings"},
			{YAML: "encodings: []", Want: "encodings: must not be empty"},
			{YAML: "encodings: [br, br]", Want: "br twice"},
			{YAML: "level: 11", Want: "level"},
			{YAML: "content_types: [html]", Want: "content_types: must be type/subtype"},
			{YAML: "content_types: [text/event-stream]", Want: "piece by piece"},
			{YAML: "content_types: ['*/*']", Want: "content_types: must be"},
			{YAML: "content_types: ['text/h*']", Want: "content_types: must be"},
		},
		Request: plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip, br\r\n\r\n"},
	})
}

func build(t testing.TB, yaml string) fiber.Handler {
	t.Helper()
	f := Factory()
	c := f.Config()
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	in, err := f.New(c, plugins.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return in.Handle
}

func decode(t *testing.T, encoding, body string) string {
	t.Helper()
	var r io.Reader = strings.NewReader(body)
	var err error
	switch encoding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(r, zstd.WithDecoderMaxWindow(8<<20)); err == nil { // RFC 9659
			defer d.Close()
			r = d
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", encoding, err)
	}
	return string(b)
}

var page = strings.Repeat("<p>hello, world</p>\n", 500)

type reply struct {
	status int
	head   map[string]string
	body   string
	edit   func(*exchange.Exchange)
}

func (r reply) answer(c *fiber.Ctx) error {
	e := exchange.From(c)
	e.Upstream.Status = 200
	h := &c.Response().Header
	h.SetContentType("text/html; charset=utf-8")
	for k, v := range r.head {
		h.Set(k, v)
	}
	if r.status != 0 {
		c.Response().SetStatusCode(r.status)
	}
	if r.edit != nil {
		r.edit(e)
	}
	if r.body == "" {
		r.body = page
	}
	return c.SendString(r.body)
}

func TestWhatIsCompressed(t *testing.T) {
	const all = "Accept-Encoding: gzip, deflate, br, zstd\r\n"
	noise := make([]byte, 4000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for name, tc := range map[string]struct {
		config, method, head string
		reply                reply
		want                 string // encoding, "" for none
		vary                 bool
	}{
		"preferred":        {"{}", "GET", all, reply{}, "zstd", true},
		"own order":        {"encodings: [br, zstd]", "GET", all, reply{}, "br", true},
		"gzip only":        {"{}", "GET", "Accept-Encoding: gzip\r\n", reply{}, "gzip", true},
		"old name":         {"{}", "GET", "Accept-Encoding: x-gzip\r\n", reply{}, "gzip", true},
		"case":             {"{}", "GET", "Accept-Encoding: BR\r\n", reply{}, "br", true},
		"qvalues":          {"{}", "GET", "Accept-Encoding: zstd;q=0.5, br;q=0.9, gzip;q=0.8\r\n", reply{}, "br", true},
		"refused":          {"{}", "GET", "Accept-Encoding: gzip;q=0, br;q=0.000\r\n", reply{}, "", true},
		"star":             {"{}", "GET", "Accept-Encoding: *\r\n", reply{}, "zstd", true},
		"star but":         {"{}", "GET", "Accept-Encoding: *;q=0.5, zstd;q=0\r\n", reply{}, "br", true},
		"rather plain":     {"{}", "GET", "Accept-Encoding: gzip;q=0.5, identity\r\n", reply{}, "", true},
		"plain as well":    {"{}", "GET", "Accept-Encoding: gzip, identity\r\n", reply{}, "gzip", true},
		"malformed":        {"{}", "GET", "Accept-Encoding: gzip;q=2, br;q=1.5, zstd;level=3\r\n", reply{}, "", true},
		"not asked":        {"{}", "GET", "", reply{}, "", true},
		"head":             {"{}", "HEAD", all, reply{}, "", true},
		"post":             {"{}", "POST", all + "Content-Length: 0\r\n", reply{}, "zstd", true},
		"error page":       {"{}", "GET", all, reply{status: 500}, "zstd", true},
		"vary kept":        {"{}", "GET", all, reply{head: map[string]string{"Vary": "Origin, accept-encoding"}}, "zstd", true},
		"json suffix":      {"{}", "GET", all, reply{head: map[string]string{"Content-Type": "Application/Problem+JSON"}}, "zstd", true},
		"kind":             {"content_types: ['text/*']", "GET", all, reply{}, "zstd", true},
		"other type":       {"{}", "GET", all, reply{head: map[string]string{"Content-Type": "image/png"}}, "", false},
		"no type":          {"{}", "GET", all, reply{head: map[string]string{"Content-Type": ""}}, "", false},
		"events":           {"content_types: ['text/*']", "GET", all, reply{head: map[string]string{"Content-Type": "text/event-stream"}}, "", false},
		"grpc":             {"content_types: ['application/*', 'application/*+proto']", "GET", all, reply{head: map[string]string{"Content-Type": "application/grpc+proto"}}, "", false},
		"grpc error":       {"{}", "GET", all, reply{status: 502, edit: func(e *exchange.Exchange) { e.RPC.Kind = grpc.Native }}, "", false},
		"stream flag":      {"{}", "GET", all, reply{edit: func(e *exchange.Exchange) { e.Stream = true }}, "", false},
		"partial":          {"{}", "GET", all, reply{status: 206}, "", false},
		"range":            {"{}", "GET", all, reply{head: map[string]string{"Content-Range": "bytes 0-1/2"}}, "", false},
		"304":              {"{}", "GET", all, reply{status: 304}, "", false},
		"encoded":          {"{}", "GET", all, reply{head: map[string]string{"Content-Encoding": "br"}}, "", false},
		"identity":         {"{}", "GET", all, reply{head: map[string]string{"Content-Encoding": "identity"}}, "zstd", true},
		"no-transform":     {"{}", "GET", all, reply{head: map[string]string{"Cache-Control": "public, No-Transform"}}, "", false},
		"no-transform too": {"{}", "GET", all + "Cache-Control: no-transform\r\n", reply{}, "", true},
		"small":            {"{}", "GET", all, reply{body: "tiny"}, "", false},
		"exactly":          {"min_size: 4", "GET", all, reply{body: strings.Repeat("a", 200)}, "zstd", true},
		"noise":            {"{}", "GET", all, reply{body: string(noise)}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.reply.head == nil {
				tc.reply.head = map[string]string{}
			}
			tc.reply.head["ETag"], tc.reply.head["Accept-Ranges"] = `"v1"`, "bytes"
			r := plugintest.Do(t, plugintest.Request{Raw: tc.method + " / HTTP/1.1\r\nHost: a.test\r\n" + tc.head + "\r\n"}, build(t, tc.config), tc.reply.answer)
			got := string(r.Header.ContentEncoding())
			if before := tc.reply.head["Content-Encoding"]; tc.want == "" && got == before {
				got = ""
			}
			vary := 0
			for _, v := range r.Header.PeekAll("Vary") {
				vary += strings.Count(strings.ToLower(string(v)), "accept-encoding")
			}
			if got != tc.want || vary != map[bool]int{true: 1}[tc.vary] {
				t.Fatalf("encoding %q, want %q; Vary %q", got, tc.want, r.Header.PeekAll("Vary"))
			}
			want := tc.reply.body
			if want == "" {
				want = page
			}
			etag, ranges := `"v1"`, "bytes"
			if tc.want != "" {
				etag, ranges = `W/"v1"`, ""
				if len(r.Body) >= len(want) {
					t.Errorf("%d bytes became %d", len(want), len(r.Body))
				}
			}
			if string(r.Header.Peek("ETag")) != etag || string(r.Header.Peek("Accept-Ranges")) != ranges {
				t.Errorf("ETag %s, Accept-Ranges %q", r.Header.Peek("ETag"), r.Header.Peek("Accept-Ranges"))
			}
			if body := decode(t, tc.want, r.Body); body != want {
				t.Errorf("the body is not what was sent: %d bytes, want %d", len(body), len(want))
			}
		})
	}
}

// trickle is a body that comes in pieces, like the proxy's streams.
type trickle struct {
	pieces []string
	err    error
	closed int
	held   bool
}

func (s *trickle) Read(p []byte) (int, error) {
	if s.closed > 0 {
		return 0, errors.New("read after close")
	}
	if len(s.pieces) == 0 {
		return 0, s.err
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; s.pieces[0] == "" {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *trickle) Close() error {
	if !s.held {
		s.closed++
	}
	return nil
}
func (s *trickle) Hold(on bool)     { s.held = on }
func (s *trickle) BufferedNow() int { return 0 }

func TestStreams(t *testing.T) {
	for _, enc := range []string{"gzip", "br", "zstd"} {
		for _, size := range []int{-1, 70000} {
			s := &trickle{pieces: []string{"first", strings.Repeat("second ", 9999), "third"}, err: io.EOF}
			want := strings.Join(s.pieces, "")
			r := plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: " + enc + "\r\n\r\n"},
				build(t, "{}"), build(t, "{}"), func(c *fiber.Ctx) error {
					exchange.From(c).Upstream.Status = 200
					c.Response().Header.SetContentType("application/json")
					c.Response().SetBodyStream(s, size)
					return nil
				})
			if got := decode(t, enc, r.Body); got != want || string(r.Header.ContentEncoding()) != enc {
				t.Errorf("%s: %d bytes, want %d; encoding %s", enc, len(got), len(want), r.Header.ContentEncoding())
			}
			if s.closed == 0 || r.Header.ContentLength() >= 0 {
				t.Errorf("%s: closed %d times, length %d", enc, s.closed, r.Header.ContentLength())
			}
		}
	}
}

func TestStreamIsFlushedPieceByPiece(t *testing.T) {
	for _, enc := range []string{"gzip", "br", "zstd"} {
		s := newStream(&trickle{pieces: []string{"first piece", "second piece"}, err: io.EOF}, newCoding(enc, "default"))
		var got bytes.Buffer
		buf := make([]byte, 4096)
		n, err := s.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got.Write(buf[:n])
		if text := prefix(t, enc, got.Bytes()); text != "first piece" {
			t.Errorf("%s: after one piece a client has %q", enc, text)
		}
		if s.BufferedNow() != 0 {
			t.Errorf("%s: %d bytes left over", enc, s.BufferedNow())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Read(buf); err == nil {
			t.Errorf("%s: Read after Close", enc)
		}
	}
}

// prefix decodes what is there of an encoding that goes on.
func prefix(t *testing.T, enc string, b []byte) string {
	t.Helper()
	pr, pw := io.Pipe()
	defer func() { _ = pr.Close() }()
	go func() { _, _ = pw.Write(b) }()
	var r io.Reader
	switch enc {
	case "gzip":
		z, err := gzip.NewReader(pr)
		if err != nil {
			t.Fatal(err)
		}
		r = z
	case "br":
		r = brotli.NewReader(pr)
	default:
		z, err := zstd.NewReader(pr, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		r = z
	}
	out := make([]byte, 100)
	n, err := io.ReadAtLeast(r, out, len("first piece"))
	if err != nil {
		t.Fatal(err)
	}
	return string(out[:n])
}

func TestBrokenStreamDoesNotLookComplete(t *testing.T) {
	for _, enc := range []string{"gzip", "br", "zstd"} {
		s := newStream(&trickle{pieces: []string{"some text"}, err: reason.UpstreamReset}, newCoding(enc, "fast"))
		b, err := io.ReadAll(s)
		if !errors.Is(err, reason.UpstreamReset) {
			t.Fatalf("%s: %v", enc, err)
		}
		var r io.Reader = brotli.NewReader(bytes.NewReader(b))
		switch enc {
		case "gzip":
			r, err = gzip.NewReader(bytes.NewReader(b))
		case "zstd":
			var d *zstd.Decoder
			if d, err = zstd.NewReader(bytes.NewReader(b)); err == nil {
				defer d.Close()
				r = d
			}
		}
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if err == nil {
			t.Errorf("%s: the cut-off reply decodes without an error", enc)
		}
	}
}

func TestForeignStreamIsLeftAlone(t *testing.T) {
	r := plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n"}, build(t, "{}"), func(c *fiber.Ctx) error {
		exchange.From(c).Upstream.Status = 200
		c.Response().Header.SetContentType("text/plain")
		c.Response().SetBodyStream(io.NopCloser(strings.NewReader(page)), -1) // would be closed by wrapping it
		return nil
	})
	if r.Body != page || len(r.Header.ContentEncoding()) > 0 {
		t.Errorf("encoding %q, %d bytes", r.Header.ContentEncoding(), len(r.Body))
	}
}

func FuzzNegotiate(f *testing.F) {
	for _, s := range []string{"gzip, br;q=0.5", "*;q=0", "identity;q=0.5, *", ";;q=,,", "gzip;q=1.001"} {
		f.Add(s)
	}
	all := []*coding{newCoding("zstd", "fast"), newCoding("br", "fast"), newCoding("gzip", "fast")}
	f.Fuzz(func(t *testing.T, accept string) {
		if c := negotiate([]byte(accept), all); c != nil && !strings.Contains(strings.ToLower(accept), c.name) && !strings.Contains(accept, "*") {
			t.Fatalf("%q: chose %s, which was not named", accept, c.name)
		}
		if q := quality([]byte(accept), "br"); q < 0 || q > 1000 {
			t.Fatalf("%q: quality %d", accept, q)
		}
	})
}

func BenchmarkWhole(b *testing.B) {
	for _, enc := range []string{"gzip", "br", "zstd"} {
		b.Run(enc, func(b *testing.B) {
			c := newCoding(enc, "default")
			b.SetBytes(int64(len(page)))
			b.ReportAllocs()
			for b.Loop() {
				w := c.get()
				w.whole([]byte(page))
				c.put(w)
			}
		})
	}
}
