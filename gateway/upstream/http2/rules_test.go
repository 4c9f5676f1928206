package http2_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	frames "golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// What breaks the rules of a stream ends that stream, what breaks those of the
// connection ends all; the endpoint is told why.
func TestBrokenRules(t *testing.T) {
	ok := func(e *endpoint, id uint32, more ...string) {
		e.headers(id, false, append([]string{":status", "200"}, more...)...)
	}
	raw := func(e *endpoint, kind frames.FrameType, flags frames.Flags, id uint32, payload string) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.WriteRawFrame(kind, flags, id, []byte(payload))
	}
	const none = frames.ErrCode(0xff)
	for name, c := range map[string]struct {
		reply      func(e *endpoint, id uint32)
		connection frames.ErrCode // of GOAWAY; none: the stream alone ends
		want       *reason.Reason
	}{
		"too much padding":        {func(e *endpoint, id uint32) { raw(e, 0, 8, id, "\x09abc") }, frames.ErrCodeProtocol, reason.UpstreamProtocol},
		"an even stream":          {func(e *endpoint, _ uint32) { raw(e, 1, 4, 2, "\x88") }, frames.ErrCodeProtocol, reason.UpstreamProtocol},
		"a stream never opened":   {func(e *endpoint, id uint32) { raw(e, 3, 0, id+2, "\x00\x00\x00\x00") }, frames.ErrCodeProtocol, reason.UpstreamProtocol},
		"window of no stream":     {func(e *endpoint, id uint32) { raw(e, 8, 0, id+2, "\x00\x00\x00\x01") }, frames.ErrCodeProtocol, reason.UpstreamProtocol},
		"window by nothing":       {func(e *endpoint, _ uint32) { raw(e, 8, 0, 0, "\x00\x00\x00\x00") }, frames.ErrCodeProtocol, reason.UpstreamProtocol},
		"stream's by nothing":     {func(e *endpoint, id uint32) { raw(e, 8, 0, id, "\x00\x00\x00\x00") }, none, reason.UpstreamProtocol},
		"stream's window":         {func(e *endpoint, id uint32) { raw(e, 8, 0, id, "\x7f\xff\xff\xff") }, none, reason.UpstreamProtocol},
		"a window by SETTINGS":    {func(e *endpoint, _ uint32) { raw(e, 4, 0, 0, "\x00\x04\x80\x00\x00\x00") }, frames.ErrCodeFlowControl, reason.UpstreamProtocol},
		"push by SETTINGS":        {func(e *endpoint, _ uint32) { raw(e, 4, 0, 0, "\x00\x02\x00\x00\x00\x01") }, frames.ErrCodeProtocol, reason.UpstreamProtocol},
		"small frames":            {func(e *endpoint, _ uint32) { raw(e, 4, 0, 0, "\x00\x05\x00\x00\x00\x01") }, frames.ErrCodeProtocol, reason.UpstreamProtocol},
		"CONTINUATION of nothing": {func(e *endpoint, id uint32) { raw(e, 9, 4, id, "\x88") }, frames.ErrCodeProtocol, reason.UpstreamProtocol},
		"a head that is broken off": {func(e *endpoint, id uint32) {
			raw(e, 1, 0, id, "\x88")
			raw(e, 6, 0, 0, "12345678")
		}, frames.ErrCodeProtocol, reason.UpstreamProtocol},
		"endless CONTINUATION": {func(e *endpoint, id uint32) {
			raw(e, 1, 0, id, "\x88")
			for range 3000 {
				raw(e, 9, 0, id, "")
			}
		}, frames.ErrCodeEnhanceYourCalm, reason.UpstreamProtocol},
		"no compression":      {func(e *endpoint, id uint32) { raw(e, 1, 4, id, "\xff\xff\xff\xff\xff\xff") }, frames.ErrCodeCompression, reason.UpstreamProtocol},
		"a field that is cut": {func(e *endpoint, id uint32) { raw(e, 1, 4, id, "\x88\x00\x05a") }, frames.ErrCodeCompression, reason.UpstreamProtocol},
		"too large a table":   {func(e *endpoint, id uint32) { raw(e, 1, 4, id, "\x3f\xe1\xff\x03\x88") }, frames.ErrCodeCompression, reason.UpstreamProtocol},
		"a bomb": {func(e *endpoint, id uint32) {
			// A field of 2000 bytes for the table, and then 3000 times one byte for it.
			raw(e, 1, 4, id, "\x88\x40\x01a\x7f\xd1\x0e"+strings.Repeat("x", 2000)+strings.Repeat("\xbe", 3000))
		}, none, reason.UpstreamHeadLarge},
		"a name with a space":  {func(e *endpoint, id uint32) { ok(e, id, "a b", "c") }, none, reason.UpstreamProtocol},
		"a name of nothing":    {func(e *endpoint, id uint32) { ok(e, id, "", "c") }, none, reason.UpstreamProtocol},
		"NUL in a value":       {func(e *endpoint, id uint32) { ok(e, id, "a", "b\x00") }, none, reason.UpstreamProtocol},
		"two statuses":         {func(e *endpoint, id uint32) { ok(e, id, ":status", "200") }, none, reason.UpstreamProtocol},
		"a status in letters":  {func(e *endpoint, id uint32) { e.headers(id, true, ":status", "+20") }, none, reason.UpstreamProtocol},
		"trailers do not end":  {func(e *endpoint, id uint32) { ok(e, id); e.headers(id, false, "a", "b") }, none, reason.UpstreamProtocol},
		"line break in a tail": {func(e *endpoint, id uint32) { ok(e, id); e.headers(id, true, "a", "b\nc: d") }, none, reason.UpstreamProtocol},
		"too many bytes": {func(e *endpoint, id uint32) {
			ok(e, id, "content-length", "3")
			e.data(id, false, "ab")
			e.data(id, false, "cd")
		}, none, reason.UpstreamProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			told := make(chan event, 1)
			addr := endpoints(t, func(e *endpoint, in <-chan event) {
				e.AllowIllegalWrites = true
				v, _ := await(in, frames.FrameHeaders)
				c.reply(e, v.stream)
				for v := range in {
					if v.kind == frames.FrameGoAway || v.kind == frames.FrameRSTStream {
						told <- v
						break
					}
				}
				for range in {
				}
			})
			p := newPool(t, http2.Settings{Limits: wire.Limits{Head: 4000, Fields: 30}, Window: 64 << 10}, addr)
			r := do(p, &transport.Call{Head: head("GET /"), Deadline: time.Now().Add(20 * time.Second)})
			if r.err == nil {
				t.Fatalf("a reply: %+v", r)
			}
			if f := failure(t, r.err); f.Reason != c.want || f.Unsent || f.Stale {
				t.Errorf("got %s, want %s: %v", f.Reason.Name, c.want.Name, f.Cause)
			}
			v := <-told
			switch {
			case c.connection == none && v.kind != frames.FrameRSTStream,
				c.connection != none && (v.kind != frames.FrameGoAway || v.code != c.connection):
				t.Errorf("the endpoint was told %v", v)
			}
			if open, _, _ := p.Counts(); c.connection == none && open != 1 {
				t.Error("the connection ended with the stream")
			}
		})
	}
}

// What is odd but allowed is a reply.
func TestOddRepliesAreReplies(t *testing.T) {
	for name, c := range map[string]struct {
		reply    func(e *endpoint, id uint32)
		head     bool
		body     string
		fields   string
		trailers string
	}{
		"white space around a value": {reply: func(e *endpoint, id uint32) { e.headers(id, true, ":status", "200", "a", " \tb ") }, fields: "A: b\n"},
		"a body with HEAD":           {head: true, reply: func(e *endpoint, id uint32) { e.headers(id, false, ":status", "200"); e.data(id, true, "") }},
		"padding and priority": {reply: func(e *endpoint, id uint32) {
			e.mu.Lock()
			e.WriteHeaders(frames.HeadersFrameParam{StreamID: id, BlockFragment: []byte("\x88"), EndHeaders: true, PadLength: 9, Priority: frames.PriorityParam{Weight: 3}})
			e.WriteDataPadded(id, true, []byte("abc"), make([]byte, 200))
			e.mu.Unlock()
		}, body: "abc"},
		"a head in pieces": {reply: func(e *endpoint, id uint32) {
			e.mu.Lock()
			e.WriteHeaders(frames.HeadersFrameParam{StreamID: id, BlockFragment: []byte("\x88\x00\x01"), EndStream: true})
			e.WriteContinuation(id, false, []byte("a"))
			e.WriteContinuation(id, true, []byte("\x01b"))
			e.mu.Unlock()
		}, fields: "A: b\n"},
		"a reset behind the end": {reply: func(e *endpoint, id uint32) {
			e.headers(id, false, ":status", "200")
			e.data(id, true, "abc")
			e.reset(id, frames.ErrCodeNo)
		}, body: "abc"},
		"trailers that must not be": {reply: func(e *endpoint, id uint32) {
			e.headers(id, false, ":status", "200")
			e.headers(id, true, "content-length", "7", "a", "b", "connection", "x")
		}, trailers: "A: b\r\n"},
		"two GOAWAYs": {reply: func(e *endpoint, id uint32) {
			e.goAway(1<<31-1, 0)
			e.goAway(id, 0)
			e.headers(id, true, ":status", "200")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			addr := endpoints(t, each(func(e *endpoint, v event) {
				e.AllowIllegalWrites = true
				c.reply(e, v.stream)
			}))
			p := newPool(t, http2.Settings{}, addr)
			r := do(p, &transport.Call{Head: head("GET /"), NoBody: c.head, Deadline: time.Now().Add(20 * time.Second)})
			if r.err != nil || r.status != 200 || r.body != c.body || r.fields != c.fields || r.trailers != c.trailers {
				t.Errorf("%+v", r)
			}
		})
	}
}

// A body that has come with its head can be taken whole.
func TestWhole(t *testing.T) {
	large := strings.Repeat("x", 40<<10)
	addr := endpoints(t, func(e *endpoint, in <-chan event) {
		for v := range in {
			if v.kind != frames.FrameHeaders {
				continue
			}
			e.mu.Lock()
			all := &bytes.Buffer{}
			w := frames.NewFramer(all, nil)
			w.WriteHeaders(frames.HeadersFrameParam{StreamID: v.stream, BlockFragment: []byte("\x88"), EndHeaders: true})
			switch v.fields[":path"] {
			case "/small":
				w.WriteData(v.stream, true, []byte("hello"))
			case "/pieces":
				w.WriteData(v.stream, false, []byte(large[:10<<10]))
				w.WriteData(v.stream, true, []byte(large[:10<<10]))
			case "/large":
				for at := 0; at < len(large); at += 10 << 10 {
					w.WriteData(v.stream, at+10<<10 == len(large), []byte(large[:10<<10]))
				}
			case "/trailers":
				w.WriteData(v.stream, false, []byte("hello"))
				w.WriteHeaders(frames.HeadersFrameParam{StreamID: v.stream, BlockFragment: []byte("\x00\x01a\x01b"), EndHeaders: true, EndStream: true})
			case "/more":
				w.WriteData(v.stream, false, []byte("hello"))
			}
			e.nc.Write(all.Bytes())
			e.mu.Unlock()
		}
	})
	p := newPool(t, http2.Settings{}, addr)
	for _, c := range []struct {
		path, body string
		trailers   bool
		whole      bool
	}{
		{"/small", "hello", false, true},
		{"/pieces", large[:20<<10], false, true},
		{"/large", large, false, false},
		{"/trailers", "hello", false, false},
		{"/trailers", "hello", true, true},
		{"/more", "hello", true, false},
	} {
		call := &transport.Call{Head: head("GET " + c.path), Trailers: c.trailers}
		conn, err := p.Get(call, false)
		if err == nil {
			err = conn.Do(call)
		}
		if err != nil {
			t.Fatal(err)
		}
		if !eventually(func() bool { return conn.BufferedNow() == len(c.body) }) {
			t.Fatalf("%s: %d bytes have come", c.path, conn.BufferedNow())
		}
		whole := false
		var b []byte
		// The end may come a little later than the bytes, unless it never does.
		if c.whole {
			whole = eventually(func() bool {
				var ok bool
				b, ok = conn.Whole(30 << 10)
				return ok
			})
		} else {
			b, whole = conn.Whole(30 << 10)
		}
		if whole != c.whole || whole && string(b) != c.body || whole && c.trailers && string(conn.Trailers()) != "A: b\r\n" {
			t.Errorf("%s: whole %v, %d bytes, trailers %q", c.path, whole, len(b), conn.Trailers())
		}
		if !whole && c.path != "/more" {
			if all, err := io.ReadAll(conn); string(all) != c.body || err != nil {
				t.Errorf("%s: %d bytes, %v", c.path, len(all), err)
			}
		}
		conn.Release()
	}
}
