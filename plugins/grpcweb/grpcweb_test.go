package grpcweb

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/gofiber/fiber/v2"

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
		Good:    []string{"{}", "max_message: 0", "max_message: 1KiB"},
		Bad:     []plugintest.Bad{{YAML: "max_message: long", Want: "max_message"}, {YAML: "max_message: -1", Want: "max_message"}},
		Request: plugintest.Request{Raw: post("application/grpc-web+proto", hello, "")},
		Allocs:  3,
	})
}

// message is one frame.
func message(flags byte, payload string) string {
	b := append([]byte{flags}, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	return string(b) + payload
}

var hello = message(0, "hello")

func post(contentType, body, more string) string {
	return fmt.Sprintf("POST /shop.Shop/Buy HTTP/1.1\r\nHost: a.test\r\nContent-Type: %s\r\nX-Grpc-Web: 1\r\n%sContent-Length: %d\r\n\r\n%s",
		contentType, more, len(body), body)
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func build(t testing.TB, yaml string) fiber.Handler {
	t.Helper()
	c := new(Config)
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	in, err := Factory().New(c, plugins.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return in.Handle
}

// backend is a gRPC server as the proxy shows it: what it answers, and what it got.
type backend struct {
	contentType string // of the reply
	head        map[string]string
	pieces      []string // what each Read of the reply's stream gives; nil: no stream
	trailers    string
	fails       error // at the end of pieces

	got struct {
		contentType, te, accept, body string
		kind                          grpc.Kind
		length                        int
	}
}

func (b *backend) handle(c *fiber.Ctx) error {
	e, q, resp := exchange.From(c), c.Request(), c.Response()
	b.got.contentType, b.got.te = string(q.Header.ContentType()), string(q.Header.Peek("Te"))
	b.got.accept, b.got.kind, b.got.length = string(q.Header.Peek("Accept")), e.RPC.Kind, q.Header.ContentLength()
	if q.IsBodyStream() {
		body, err := io.ReadAll(q.BodyStream())
		if err != nil {
			return err
		}
		b.got.body = string(body)
	} else {
		b.got.body = string(q.Body())
	}
	e.Upstream.Status, e.Stream = 200, true
	resp.Header.SetContentType("application/grpc+proto")
	if b.contentType != "" {
		resp.Header.SetContentType(b.contentType)
	}
	for k, v := range b.head {
		resp.Header.Set(k, v)
	}
	if b.pieces != nil {
		resp.SetBodyStream(&pieces{b: b, e: e}, -1)
	}
	return nil
}

// pieces is the body of a reply as the proxy's stream gives it.
type pieces struct {
	b  *backend
	e  *exchange.Exchange
	at int
}

func (p *pieces) Read(out []byte) (int, error) {
	if p.at < len(p.b.pieces) {
		n := copy(out, p.b.pieces[p.at])
		if n < len(p.b.pieces[p.at]) {
			panic("the test's piece is too long")
		}
		p.at++
		return n, nil
	}
	if p.b.fails != nil {
		return 0, p.b.fails
	}
	if p.b.trailers != "" {
		p.e.Front.ReplyTrailers([]byte(p.b.trailers))
	}
	return 0, io.EOF
}

// frames takes a reply apart: its messages, and the lines of its trailers.
func frames(t *testing.T, body string) (messages []string, trailers string) {
	t.Helper()
	for body != "" {
		if len(body) < 5 || trailers != "" {
			t.Fatalf("left over: %q", body)
		}
		n := 5 + int(binary.BigEndian.Uint32([]byte(body[1:5])))
		if len(body) < n {
			t.Fatalf("cut off: %q", body)
		}
		if body[0] == 0x80 {
			trailers = body[5:n]
		} else {
			messages = append(messages, body[5:n])
		}
		body = body[n:]
	}
	return messages, trailers
}

// pieceByPiece decodes base64 of which parts are padded by themselves, as
// browsers' clients do.
func pieceByPiece(t *testing.T, s string) string {
	t.Helper()
	if len(s)%4 != 0 {
		t.Fatalf("not whole groups: %q", s)
	}
	var out []byte
	for ; s != ""; s = s[4:] {
		b, err := base64.StdEncoding.DecodeString(s[:4])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return string(out)
}

func TestCallsAreTranslated(t *testing.T) {
	for _, tc := range []struct {
		contentType, accept string
		text                bool // the request
		native, answer      string
	}{
		{"application/grpc-web", "", false, "application/grpc", "application/grpc-web+proto"},
		{"application/grpc-web+proto", "*/*", false, "application/grpc+proto", "application/grpc-web+proto"},
		{"application/grpc-web-text", "", true, "application/grpc", "application/grpc-web-text+proto"},
		{"Application/Grpc-Web-Text+proto; q=1", "application/grpc-web-text", true, "application/grpc+proto", "application/grpc-web-text+proto"},
		{"application/grpc-web+proto", "text/plain, application/grpc-web-text", false, "application/grpc+proto", "application/grpc-web-text+proto"},
		{"application/grpc-web-text", "application/grpc-web+proto", true, "application/grpc", "application/grpc-web+proto"},
	} {
		body, more := hello, ""
		if tc.text {
			body = b64(hello[:4]) + b64(hello[4:])
		}
		if tc.accept != "" {
			more = "Accept: " + tc.accept + "\r\n"
		}
		b := &backend{pieces: []string{hello[:3], hello[3:], message(0, "") + message(1, "x")}, trailers: "Grpc-Status: 0\r\nX-Cost-Bin: AAE\r\n"}
		r := plugintest.Do(t, plugintest.Request{Raw: post(tc.contentType, body, more)}, build(t, "{}"), b.handle)
		if b.got.contentType != tc.native || b.got.te != "trailers" || b.got.accept != "" || b.got.body != hello || b.got.kind != grpc.Native {
			t.Errorf("%s: the upstream got %+v", tc.contentType, b.got)
		}
		if want := len(hello); tc.text && b.got.length >= 0 || !tc.text && b.got.length != want {
			t.Errorf("%s: a length of %d is announced", tc.contentType, b.got.length)
		}
		if r.Status != 200 || string(r.Header.ContentType()) != tc.answer {
			t.Errorf("%s: %d %s", tc.contentType, r.Status, r.Header.ContentType())
		}
		if strings.Contains(tc.answer, "text") {
			r.Body = pieceByPiece(t, r.Body)
		}
		m, trailers := frames(t, r.Body)
		if strings.Join(m, "|") != "hello||x" || trailers != "grpc-status: 0\r\nx-cost-bin: AAE\r\n" {
			t.Errorf("%s: messages %q, trailers %q", tc.contentType, m, trailers)
		}
	}
}

// A message is sent on when it has come, not when the next one has.
func TestMessagesComeOneByOne(t *testing.T) {
	for _, contentType := range []string{"application/grpc-web", "application/grpc-web-text"} {
		b := &backend{pieces: []string{message(0, "a"), message(0, "bc")}, trailers: "grpc-status: 0\r\n"}
		var reads []string
		outer := func(c *fiber.Ctx) error {
			err := c.Next()
			p := make([]byte, 1000)
			for {
				n, end := c.Response().BodyStream().Read(p)
				if n > 0 {
					reads = append(reads, string(p[:n]))
				}
				if end != nil {
					break
				}
			}
			c.Response().ResetBody()
			return err
		}
		plugintest.Do(t, plugintest.Request{Raw: post(contentType, "", "")}, outer, build(t, "{}"), b.handle)
		want := []string{message(0, "a"), message(0, "bc"), message(0x80, "grpc-status: 0\r\n")}
		for i := range want {
			if contentType != "application/grpc-web" {
				want[i] = b64(want[i])
			}
		}
		if fmt.Sprintf("%q", reads) != fmt.Sprintf("%q", want) {
			t.Errorf("%s: got %q, want %q", contentType, reads, want)
		}
	}
}

func TestRepliesWithoutMessages(t *testing.T) {
	for name, tc := range map[string]struct {
		b    *backend
		want string
	}{
		"in the head": {&backend{head: map[string]string{
			"Grpc-Status": "5", "Grpc-Message": "no%20such", "Grpc-Status-Details-Bin": "CAU", "X-Mine": "1", "Trailer": "x",
		}}, "grpc-status: 5\r\ngrpc-message: no%20such\r\ngrpc-status-details-bin: CAU\r\n"},
		"no status":   {&backend{}, "grpc-status:13\r\ngrpc-message:The reply ended without a status.\r\n"},
		"empty":       {&backend{pieces: []string{}, trailers: "GRPC-STATUS: 0\r\n"}, "grpc-status: 0\r\n"},
		"odd trailer": {&backend{pieces: []string{}, trailers: "x-grpc-status: 0\r\n"}, "grpc-status:13\r\ngrpc-message:The reply ended without a status.\r\n"},
	} {
		for _, contentType := range []string{"application/grpc-web", "application/grpc-web-text"} {
			r := plugintest.Do(t, plugintest.Request{Raw: post(contentType, "", "")}, build(t, "{}"), tc.b.handle)
			if contentType != "application/grpc-web" {
				r.Body = pieceByPiece(t, r.Body)
			}
			if m, trailers := frames(t, r.Body); m != nil || trailers != tc.want {
				t.Errorf("%s: %q, %q", name, m, trailers)
			}
			if len(r.Header.Peek("Grpc-Status")) > 0 || len(r.Header.Peek("Trailer")) > 0 || name == "in the head" && string(r.Header.Peek("X-Mine")) != "1" {
				t.Errorf("%s: %s", name, r.Header)
			}
		}
	}
}

// A refusal reaches the client as a frame, whichever side of the plugin it
// comes from, and also after a panic.
func TestRefusals(t *testing.T) {
	h := build(t, "max_message: 10B")
	pass := func(c *fiber.Ctx) error { return c.Next() }
	refuse := func(*fiber.Ctx) error { return reason.RateLimited }
	for name, tc := range map[string]struct {
		contentType, body string
		chain             []fiber.Handler
		code              grpc.Code
		why               *reason.Reason
	}{
		"before":        {"application/grpc-web+proto", hello, []fiber.Handler{refuse}, grpc.ResourceExhausted, reason.RateLimited},
		"behind":        {"application/grpc-web+proto", hello, []fiber.Handler{h, refuse}, grpc.ResourceExhausted, reason.RateLimited},
		"behind, text":  {"application/grpc-web-text+proto", b64(hello), []fiber.Handler{pass, h, refuse}, grpc.ResourceExhausted, reason.RateLimited},
		"too long":      {"application/grpc-web+proto", message(0, "eleven byte"), []fiber.Handler{h, (&backend{}).handle}, grpc.ResourceExhausted, reason.BodyTooLarge},
		"no message":    {"application/grpc-web+proto", `{"a":1}`, []fiber.Handler{h, (&backend{}).handle}, grpc.Internal, reason.BadGRPCMessage},
		"cut":           {"application/grpc-web+proto", hello[:7], []fiber.Handler{h, (&backend{}).handle}, grpc.Internal, reason.BadGRPCMessage},
		"trailer frame": {"application/grpc-web+proto", message(0x80, "a: b"), []fiber.Handler{h, (&backend{}).handle}, grpc.Internal, reason.BadGRPCMessage},
		"no base64":     {"application/grpc-web-text+proto", "?" + b64(hello), []fiber.Handler{h, (&backend{}).handle}, grpc.Internal, reason.BadGRPCMessage},
		"not padded":    {"application/grpc-web-text+proto", strings.TrimRight(b64(hello), "="), []fiber.Handler{h, (&backend{}).handle}, grpc.Internal, reason.BadGRPCMessage},
		"buffered":      {"application/grpc-web-text+proto", "AAAA", []fiber.Handler{buffer, h, (&backend{}).handle}, grpc.Internal, reason.BadGRPCMessage},
	} {
		t.Run(name, func(t *testing.T) {
			r := plugintest.Do(t, plugintest.Request{Raw: post(tc.contentType, tc.body, "")}, tc.chain...)
			if r.Refusal == nil || r.Refusal.Reason != tc.why || r.Status != 200 || string(r.Header.ContentType()) != tc.contentType {
				t.Fatalf("%d, %s, %v", r.Status, r.Header.ContentType(), r.Refusal)
			}
			if strings.Contains(tc.contentType, "text") {
				r.Body = pieceByPiece(t, r.Body)
			}
			if _, trailers := frames(t, r.Body); !hasCode(trailers, tc.code) || !strings.Contains(trailers, tc.why.Name) {
				t.Errorf("got %q, want %d", trailers, tc.code)
			}
		})
	}
}

func hasCode(trailers string, c grpc.Code) bool {
	return strings.Contains("\n"+strings.ReplaceAll(trailers, ": ", ":"), fmt.Sprintf("\ngrpc-status:%d\r", c))
}

// buffer is a plugin that has read the body.
func buffer(c *fiber.Ctx) error {
	if _, _, err := exchange.BufferRequest(c.Context(), 1<<20); err != nil {
		return err
	}
	return c.Next()
}

func TestBufferedBodiesAreTranslated(t *testing.T) {
	for contentType, body := range map[string]string{"application/grpc-web": hello, "application/grpc-web-text": b64(hello[:1]) + b64(hello[1:])} {
		b := &backend{head: map[string]string{"Grpc-Status": "0"}}
		r := plugintest.Do(t, plugintest.Request{Raw: post(contentType, body, "")}, buffer, build(t, "{}"), b.handle)
		if b.got.body != hello || r.Refusal != nil {
			t.Errorf("%s: the upstream got %q; %v", contentType, b.got.body, r.Refusal)
		}
	}
}

func TestWhatIsNoCallIsLeftAlone(t *testing.T) {
	for name, raw := range map[string]string{
		"native": "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 2\r\n\r\nhi",
		"json":   "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\nhi",
		"get":    "GET / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web\r\n\r\n",
		"other":  "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-websocket\r\nContent-Length: 2\r\n\r\nhi",
	} {
		seen := ""
		r := plugintest.Do(t, plugintest.Request{Raw: raw}, build(t, "{}"), func(c *fiber.Ctx) error {
			seen = c.Get("Content-Type") + c.Get("Te")
			return plugintest.Upstream(c)
		})
		if !strings.Contains(raw, "Content-Type: "+seen+"\r\n") || r.Body != "upstream" {
			t.Errorf("%s: %q, %q", name, seen, r.Body)
		}
	}
}

// What a load balancer on the way has to say is no gRPC and passes as it is.
func TestOtherRepliesPass(t *testing.T) {
	b := &backend{contentType: "text/html", pieces: []string{"<p>sorry</p>"}, trailers: "X: y\r\n"}
	r := plugintest.Do(t, plugintest.Request{Raw: post("application/grpc-web-text", b64(hello), "")}, build(t, "{}"), b.handle)
	if string(r.Header.ContentType()) != "text/html" || r.Body != "<p>sorry</p>" {
		t.Errorf("%s %q", r.Header.ContentType(), r.Body)
	}
}

// A reply that breaks off must not look complete.
func TestABrokenReplyHasNoTrailers(t *testing.T) {
	for _, contentType := range []string{"application/grpc-web", "application/grpc-web-text"} {
		b := &backend{pieces: []string{hello}, fails: io.ErrUnexpectedEOF}
		var got []byte
		var err error
		outer := func(c *fiber.Ctx) error {
			_ = c.Next()
			got, err = io.ReadAll(c.Response().BodyStream())
			c.Response().ResetBody()
			return nil
		}
		plugintest.Do(t, plugintest.Request{Raw: post(contentType, "", "")}, outer, build(t, "{}"), b.handle)
		if !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != hello && string(got) != b64(hello) {
			t.Errorf("%s: %q, %v", contentType, got, err)
		}
	}
}

func FuzzDecoderLikeEncodingBase64(f *testing.F) {
	for _, s := range []string{"", "AAAA", "AA==", "AAA=AAAA", "AB==", "A===", "=AAA", "AA=A", "AAAA\n", "AA", "+/+/"} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, s string, step int) {
		step = max(1, min(step, 5000))
		got, err := io.ReadAll(&decoder{from: &stepper{s, step}})
		one, oneErr := decode([]byte(s))
		want, wantErr := reference(s)
		if (err == nil) != (wantErr == nil) || (oneErr == nil) != (wantErr == nil) {
			t.Fatalf("%q: %v in steps of %d, %v at once; want %v", s, err, step, oneErr, wantErr)
		}
		if err == nil && (!bytes.Equal(got, want) || !bytes.Equal(one, want)) {
			t.Fatalf("%q: %q in steps of %d, %q at once; want %q", s, got, step, one, want)
		}
	})
}

// reference decodes group by group with the standard library.
func reference(s string) (out []byte, err error) {
	if len(s)%4 != 0 || strings.ContainsAny(s, "\r\n") {
		return nil, errBase64
	}
	for ; s != ""; s = s[4:] {
		b, err := base64.StdEncoding.Strict().DecodeString(s[:4])
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out, nil
}

// stepper gives step bytes at a time.
type stepper struct {
	s    string
	step int
}

func (r *stepper) Read(p []byte) (int, error) {
	if r.s == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.step)], r.s)
	r.s = r.s[n:]
	return n, nil
}

func TestDecoderTakesAnyReader(t *testing.T) {
	long := strings.Repeat("messages ", 3000)
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "end with data": iotest.DataErrReader,
	} {
		got, err := io.ReadAll(iotest.OneByteReader(&decoder{from: wrap(strings.NewReader(b64(long)))}))
		if err != nil || string(got) != long {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func TestPassingCostsNothing(t *testing.T) {
	raw := "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\nhi"
	if n := plugintest.Allocs(t, plugintest.Request{Raw: raw}, build(t, "{}")); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkUnary(b *testing.B) {
	for _, kind := range []string{"application/grpc-web", "application/grpc-web-text"} {
		b.Run(kind, func(b *testing.B) {
			body := []byte(message(0, strings.Repeat("x", 200)))
			if kind != "application/grpc-web" {
				body = []byte(b64(string(body)))
			}
			var p []byte
			chain := []fiber.Handler{build(b, "{}"), func(c *fiber.Ctx) error {
				n, err := c.Request().BodyStream().Read(p)
				if n == 0 || err != nil {
					return reason.Internal.Because("%d, %v", n, err)
				}
				c.Response().Header.SetContentType("application/grpc")
				c.Response().Header.Set("Grpc-Status", "0")
				return nil
			}}
			p = make([]byte, 1000)
			var reader bytes.Reader
			bench := func(c *fiber.Ctx) error {
				e := exchange.From(c)
				f := e.Front
				b.ReportAllocs()
				for b.Loop() {
					reader.Reset(body)
					e.Front = f
					c.Request().Header.SetContentType(kind)
					c.Request().SetBodyStream(&reader, len(body))
					c.Response().Reset()
					_ = c.Next()
				}
				return nil
			}
			plugintest.Do(b, plugintest.Request{Raw: post(kind, "", "")}, append([]fiber.Handler{bench}, chain...)...)
		})
	}
}
