package exchange_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/valyala/fasthttp"
	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// pieces is a body that comes in pieces and ends with err; nil is io.EOF.
type pieces struct {
	list   [][]byte
	err    error
	closed int
	held   bool
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.closed > 0 {
		return 0, errors.New("read after close")
	}
	if len(p.list) == 0 {
		if p.err == nil {
			return 0, io.EOF
		}
		return 0, p.err
	}
	n := copy(b, p.list[0])
	if p.list[0] = p.list[0][n:]; len(p.list[0]) == 0 {
		p.list = p.list[1:]
	}
	return n, nil
}

func split(s string, n int) (list [][]byte) {
	for len(s) > n {
		list = append(list, []byte(s[:n]))
		s = s[n:]
	}
	if s != "" {
		list = append(list, []byte(s))
	}
	return list
}

// upload is a request with a streamed body; size -1 is chunked.
func upload(body io.Reader, size int) *fasthttp.RequestCtx {
	ctx := new(fasthttp.RequestCtx)
	ctx.Request.Header.SetMethod("POST")
	ctx.Request.SetBodyStream(body, size)
	return ctx
}

func TestBufferRequestReadsNoMoreThanTheLimitAndKeepsTheBody(t *testing.T) {
	for _, c := range []struct {
		body, got string
		limit     int
		whole     bool
	}{
		{"hello", "hello", 100, true},
		{"hello", "hello", 6, true},
		{"hello", "hello", 5, true}, // the limit is a size that is still fine
		{"hello", "hell", 4, false},
		{"hello", "h", 1, false},
		{"hello", "", 0, false},
		{"", "", 0, true},
		{"", "", 10, true},
		{strings.Repeat("x", 100<<10), strings.Repeat("x", 64<<10), 64 << 10, false},
		{strings.Repeat("x", 64<<10), strings.Repeat("x", 64<<10), 64 << 10, true},
		{strings.Repeat("xy", 50<<10), strings.Repeat("xy", 50<<10), 1 << 20, true},
	} {
		for _, chunked := range []bool{false, true} {
			for _, piece := range []int{1 << 20, 4096, 3} {
				size := len(c.body)
				if chunked {
					size = -1
				}
				t.Run(fmt.Sprintf("%d bytes, limit %d, chunked %v, pieces of %d", len(c.body), c.limit, chunked, piece), func(t *testing.T) {
					ctx := upload(&pieces{list: split(c.body, piece)}, size)
					got, whole, err := exchange.BufferRequest(ctx, c.limit)
					if err != nil || whole != c.whole || string(got) != c.got {
						t.Errorf("got %d bytes, whole %v, %v; want %d bytes, %v", len(got), whole, err, len(c.got), c.whole)
					}
					if !whole && ctx.Request.Header.ContentLength() != size {
						t.Errorf("the length has become %d, was %d", ctx.Request.Header.ContentLength(), size)
					}
					if rest := body(t, ctx); rest != c.body {
						t.Errorf("whoever comes next reads %d bytes, want %d", len(rest), len(c.body))
					}
				})
			}
		}
	}
}

// body reads a request's body to its end, as the upstream would get it.
func body(t *testing.T, ctx *fasthttp.RequestCtx) string {
	t.Helper()
	if !ctx.Request.IsBodyStream() {
		return string(ctx.Request.Body())
	}
	b, err := io.ReadAll(ctx.Request.BodyStream())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBufferRequestOfWhatIsInMemory(t *testing.T) {
	var ctx fasthttp.RequestCtx
	if b, whole, err := exchange.BufferRequest(&ctx, 10); len(b) != 0 || !whole || err != nil {
		t.Errorf("no body: %q, %v, %v", b, whole, err)
	}
	ctx.Request.SetBodyString("hello")
	for limit, want := range map[int]string{10: "hello", 5: "hello", 2: "he", 0: ""} {
		b, whole, err := exchange.BufferRequest(&ctx, limit)
		if string(b) != want || whole != (limit >= 5) || err != nil {
			t.Errorf("limit %d: %q, %v, %v", limit, b, whole, err)
		}
	}
	if string(ctx.Request.Body()) != "hello" {
		t.Errorf("left is %q", ctx.Request.Body())
	}
}

// received is a front's stream that has all of the body at hand.
type received struct {
	body []byte
	read int
}

func (r *received) Whole() []byte { return r.body }
func (r *received) Read([]byte) (int, error) {
	r.read++
	return 0, errors.New("was to be asked for the whole")
}

func TestBufferRequestTakesWhatHasBeenReceivedInPlace(t *testing.T) {
	for limit, want := range map[int]string{10: "hello", 5: "hello", 4: "hell"} {
		r := &received{body: []byte("hello")}
		ctx := upload(r, 5)
		b, whole, err := exchange.BufferRequest(ctx, limit)
		if string(b) != want || whole != (limit >= 5) || err != nil || r.read > 0 {
			t.Errorf("limit %d: %q, %v, %v, %d reads", limit, b, whole, err, r.read)
		}
		if &b[0] != &r.body[0] {
			t.Error("it was copied")
		}
		if got := body(t, ctx); got != "hello" {
			t.Errorf("left is %q", got)
		}
	}
	ctx := upload(&received{body: []byte("hello")}, 5)
	if b, _, _ := exchange.BufferRequest(ctx, 3); cap(b) != 3 {
		t.Errorf("an append to the prefix would write over the body: capacity %d", cap(b))
	}
}

// wholeReader says that nothing is at hand.
type wholeReader struct{ io.Reader }

func (wholeReader) Whole() []byte { return nil }

func TestSeveralPluginsBufferInTurn(t *testing.T) {
	text := strings.Repeat("0123456789", 5000)
	rapid.Check(t, func(rt *rapid.T) {
		want := text[:rapid.IntRange(0, len(text)).Draw(rt, "size")]
		size := len(want)
		if rapid.Bool().Draw(rt, "chunked") {
			size = -1
		}
		var r io.Reader = wholeReader{&pieces{list: split(want, rapid.IntRange(1, 20000).Draw(rt, "piece"))}}
		if rapid.Bool().Draw(rt, "data with EOF") {
			r = iotest.DataErrReader(r)
		}
		ctx := upload(r, size)
		for _, limit := range rapid.SliceOfN(rapid.IntRange(0, len(text)+10), 1, 6).Draw(rt, "limits") {
			b, whole, err := exchange.BufferRequest(ctx, limit)
			first := want[:min(limit, len(want))]
			if err != nil || string(b) != first || whole != (len(want) <= limit) {
				rt.Fatalf("limit %d of %d: got %d bytes, whole %v, %v", limit, len(want), len(b), whole, err)
			}
		}
		got := ctx.Request.Body()
		if ctx.Request.IsBodyStream() {
			got, _ = io.ReadAll(ctx.Request.BodyStream())
		}
		if string(got) != want {
			rt.Fatalf("the upstream gets %d bytes, want %d", len(got), len(want))
		}
	})
}

func TestBufferRequestAfterSomebodyHasReadAPart(t *testing.T) {
	ctx := upload(strings.NewReader("hello, world"), 12)
	if _, _, err := exchange.BufferRequest(ctx, 7); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(ctx.Request.BodyStream(), make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	b, whole, err := exchange.BufferRequest(ctx, 20)
	if string(b) != ", world" || !whole || err != nil {
		t.Errorf("%q, %v, %v", b, whole, err)
	}
}

func TestBufferRequestTellsWhyABodyFailed(t *testing.T) {
	other := errors.New("connection reset")
	for _, c := range []struct {
		cause error
		want  *reason.Reason
	}{
		{reason.BodyTimeout, reason.BodyTimeout},
		{reason.BodyTooLarge, reason.BodyTooLarge},
		{reason.BadChunk.Because("at byte 7"), reason.BadChunk},
		{reason.BodyCut.Wrap(other), reason.BodyCut},
		{io.ErrUnexpectedEOF, reason.BodyCut},
		{fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), reason.BodyCut},
		{other, reason.ClientGone},
	} {
		for _, size := range []int{-1, 20} {
			ctx := upload(&pieces{list: split("hello", 2), err: c.cause}, size)
			_, whole, err := exchange.BufferRequest(ctx, 100)
			f := reason.From(err)
			if f.Reason != c.want || whole || !errors.Is(err, c.cause) {
				t.Errorf("%v: got %v, whole %v, want %s", c.cause, err, whole, c.want.Name)
			}
		}
	}
	ctx := upload(&pieces{list: split("hello", 2), err: other}, -1)
	if b, whole, err := exchange.BufferRequest(ctx, 3); string(b) != "hel" || whole || err != nil {
		t.Errorf("a failure behind the prefix is not the prefix's: %q, %v, %v", b, whole, err)
	}
	if _, err := io.ReadAll(ctx.Request.BodyStream()); !errors.Is(err, other) {
		t.Errorf("the next reader gets %v", err)
	}
}

type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }

func TestAStreamThatGivesNothingEnds(t *testing.T) {
	if _, _, err := exchange.BufferRequest(upload(silent{}, -1), 10); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v", err)
	}
}

// counted notes how much memory it is offered.
type counted struct{ most int }

func (c *counted) Read(b []byte) (int, error) {
	c.most = max(c.most, len(b))
	return 0, io.ErrUnexpectedEOF
}

func TestAnAnnouncedLengthTakesNoMemory(t *testing.T) {
	var c counted
	if _, _, err := exchange.BufferRequest(upload(&c, 1<<30), 2<<30); reason.From(err).Reason != reason.BodyCut {
		t.Fatal(err)
	}
	if c.most > 64<<10 {
		t.Errorf("%d bytes were set aside for a body of which nothing has come", c.most)
	}
}

// reply is a streamed reply; the stream can be held.
type holding struct{ pieces }

func (h *holding) Hold(on bool) { h.held = on }
func (h *holding) Close() error {
	if !h.held {
		h.closed++
	}
	return nil
}

type closing struct{ pieces }

func (c *closing) Close() error { c.closed++; return nil }

func TestBufferReplyReadsNoMoreThanTheLimitAndKeepsTheBody(t *testing.T) {
	for _, c := range []struct {
		body, got string
		limit     int
		whole     bool
	}{
		{"hello", "hello", 100, true},
		{"hello", "hello", 5, true},
		{"hello", "hel", 3, false},
		{"hello", "", 0, false},
		{"", "", 0, true},
		{strings.Repeat("x", 100<<10), strings.Repeat("x", 64<<10), 64 << 10, false},
	} {
		for _, size := range []int{-1, len(c.body)} {
			s := &holding{pieces{list: split(c.body, 1000)}}
			var ctx fasthttp.RequestCtx
			ctx.Response.SetBodyStream(s, size)
			for range 2 { // another plugin gets the same
				got, whole, err := exchange.BufferReply(&ctx, c.limit)
				if string(got) != c.got || whole != c.whole || err != nil {
					t.Errorf("%d of %d: got %d bytes, whole %v, %v", c.limit, len(c.body), len(got), whole, err)
				}
			}
			if s.held {
				t.Error("the stream is still held")
			}
			var sent bytes.Buffer
			if err := ctx.Response.BodyWriteTo(&sent); err != nil || sent.String() != c.body {
				t.Errorf("%d of %d: the client gets %d bytes, %v", c.limit, len(c.body), sent.Len(), err)
			}
			ctx.Response.Reset()
			if s.closed == 0 {
				t.Error("the upstream's stream was never closed")
			}
		}
	}
}

func TestBufferReplyTwiceWithARisingLimit(t *testing.T) {
	s := &holding{pieces{list: split("0123456789", 2)}}
	var ctx fasthttp.RequestCtx
	ctx.Response.SetBodyStream(s, -1)
	for limit := range 12 {
		b, whole, err := exchange.BufferReply(&ctx, limit)
		if string(b) != "0123456789"[:min(limit, 10)] || whole != (limit >= 10) || err != nil {
			t.Fatalf("limit %d: %q, %v, %v", limit, b, whole, err)
		}
	}
}

func TestBufferReplyOfAStreamThatCannotBePutBack(t *testing.T) {
	s := &closing{pieces{list: split("hello", 5)}}
	var ctx fasthttp.RequestCtx
	ctx.Response.SetBodyStream(s, -1)
	if b, whole, err := exchange.BufferReply(&ctx, 5); string(b) != "hello" || !whole || err != nil || s.closed != 1 {
		t.Errorf("within the limit: %q, %v, %v, closed %d times", b, whole, err, s.closed)
	}
	s = &closing{pieces{list: split("hello", 5)}}
	ctx.Response.SetBodyStream(s, -1)
	if _, _, err := exchange.BufferReply(&ctx, 4); reason.From(err).Reason != reason.Internal {
		t.Errorf("over the limit: %v, want a refusal instead of half a reply", err)
	}
	plain := &pieces{list: split("hello", 2)} // nothing to close: it can be put back
	ctx.Response.SetBodyStream(plain, -1)
	if b, whole, err := exchange.BufferReply(&ctx, 3); string(b) != "hel" || whole || err != nil {
		t.Errorf("a plain reader: %q, %v, %v", b, whole, err)
	}
	if got := ctx.Response.Body(); string(got) != "hello" {
		t.Errorf("left is %q", got)
	}
}

func TestBufferReplyTellsWhyTheUpstreamFailed(t *testing.T) {
	for _, c := range []struct {
		cause error
		want  *reason.Reason
	}{
		{reason.UpstreamTimeout, reason.UpstreamTimeout},
		{io.ErrUnexpectedEOF, reason.UpstreamReset},
	} {
		s := &holding{pieces{list: split("hello", 2), err: c.cause}}
		var ctx fasthttp.RequestCtx
		ctx.Response.SetBodyStream(s, -1)
		_, _, err := exchange.BufferReply(&ctx, 100)
		if reason.From(err).Reason != c.want || s.held {
			t.Errorf("%v: got %v, held %v", c.cause, err, s.held)
		}
		if ctx.Response.Reset(); s.closed == 0 {
			t.Error("the stream was not closed")
		}
	}
}

func TestWrapReplyAroundABufferedOne(t *testing.T) {
	s := &holding{pieces{list: split("hello", 2)}}
	var ctx fasthttp.RequestCtx
	ctx.Response.SetBodyStream(s, -1)
	if _, _, err := exchange.BufferReply(&ctx, 3); err != nil {
		t.Fatal(err)
	}
	old := ctx.Response.BodyStream()
	if n := old.(interface{ BufferedNow() int }).BufferedNow(); n < 3 {
		t.Errorf("%d bytes can be read without waiting, want those that were", n)
	}
	if !exchange.WrapReply(&ctx.Response, upper{old}, -1) {
		t.Fatal("a buffered reply cannot be wrapped")
	}
	if got := ctx.Response.Body(); string(got) != "HELLO" || s.closed == 0 {
		t.Errorf("got %q, closed %d times", got, s.closed)
	}
	ctx.Response.SetBodyStream(&closing{}, -1)
	if exchange.WrapReply(&ctx.Response, upper{}, -1) {
		t.Error("a stream that would be closed was wrapped")
	}
	ctx.Response.SetBodyString("x")
	if exchange.WrapReply(&ctx.Response, upper{}, -1) {
		t.Error("a reply without a stream was wrapped")
	}
}

type upper struct{ from io.Reader }

func (u upper) Read(b []byte) (int, error) {
	n, err := u.from.Read(b)
	copy(b, bytes.ToUpper(b[:n]))
	return n, err
}
func (u upper) Close() error { return u.from.(io.Closer).Close() }

func TestBufferingAllocatesOnceForASmallBody(t *testing.T) {
	if raceEnabled {
		t.Log("not counted: the race detector allocates too")
		return
	}
	data := bytes.Repeat([]byte("x"), 4000)
	var ctx fasthttp.RequestCtx
	r := bytes.NewReader(data)
	if n := testing.AllocsPerRun(100, func() {
		r.Reset(data)
		ctx.Request.SetBodyStream(r, len(data))
		if _, whole, err := exchange.BufferRequest(&ctx, 1<<20); !whole || err != nil {
			t.Fatal(whole, err)
		}
	}); n > 1 {
		t.Errorf("%v allocations for a body of known size, want 1", n)
	}
	at := &received{body: data}
	if n := testing.AllocsPerRun(100, func() {
		ctx.Request.SetBodyStream(at, len(data))
		if _, whole, err := exchange.BufferRequest(&ctx, 1<<20); !whole || err != nil {
			t.Fatal(whole, err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for a body that has been received, want 0", n)
	}
}

func BenchmarkBufferRequest(b *testing.B) {
	for _, size := range []int{1 << 10, 256 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			data := bytes.Repeat([]byte("x"), size)
			var ctx fasthttp.RequestCtx
			r := bytes.NewReader(data)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				r.Reset(data)
				ctx.Request.SetBodyStream(r, size)
				if _, whole, _ := exchange.BufferRequest(&ctx, 1<<20); !whole {
					b.Fatal("not whole")
				}
			}
		})
	}
}
