package h2_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// conversation is what a client says, for seeds.
func conversation(say func(c *raw)) []byte {
	var out bytes.Buffer
	c := &raw{Framer: http2.NewFramer(&out, nil)}
	c.enc = hpack.NewEncoder(&c.block)
	c.AllowIllegalWrites = true
	_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
	say(c)
	return out.Bytes()
}

// FuzzConnection has a client say anything behind the preface. The server must
// not fail, must end with the client, must send nothing but sound frames, and
// must show its handlers nothing but sound requests.
func FuzzConnection(f *testing.F) {
	f.Add(conversation(func(c *raw) { c.open(1, true, get("cookie", "a=b", "cookie", "c=d")...) }))
	f.Add(conversation(func(c *raw) {
		c.open(1, false, get("content-length", "9", "expect", "100-continue")...)
		_ = c.WriteDataPadded(1, false, []byte("some"), make([]byte, 9))
		_ = c.WriteData(1, true, []byte("thing"))
		_ = c.WriteWindowUpdate(1, 1000)
		_ = c.WriteWindowUpdate(0, 1000)
	}))
	f.Add(conversation(func(c *raw) {
		c.open(1, false, get()...)
		c.open(3, false, get("te", "trailers")...)
		_ = c.WriteRSTStream(3, http2.ErrCodeCancel)
		_ = c.WriteData(3, true, []byte("late"))
		c.open(1, true, "x-sum", "1")
		_ = c.WritePing(false, [8]byte{1})
		_ = c.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 7})
		c.open(5, true, get()...)
		_ = c.WriteGoAway(0, http2.ErrCodeNo, nil)
	}))
	f.Add(conversation(func(c *raw) {
		block := c.fields(get("host", "b")...)
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:9], PadLength: 3, Priority: http2.PriorityParam{StreamDep: 5}})
		_ = c.WriteContinuation(1, true, block[9:])
		_ = c.WriteRawFrame(0xfa, 9, 9, []byte("unknown"))
	}))
	f.Add(conversation(func(c *raw) {
		c.open(1, false, extended()...)
		_ = c.WriteData(1, true, []byte("echo"))
		c.open(3, false, extended("content-length", "1")...)
		c.open(5, true, extended(":protocol", "other")...)
	}))
	f.Fuzz(func(t *testing.T, in []byte) {
		set := quick(func(ctx *fasthttp.RequestCtx, front exchange.Front) {
			check(t, ctx, front)
			if _, ok := front.WantsUpgrade(); ok {
				ctx.SetStatusCode(101)
				front.Upgrade(func(client net.Conn, _ []byte) {
					if client != nil {
						echoes(client)
					}
				})
				return
			}
			b, _, err := exchange.BufferRequest(ctx, 1<<10)
			if err == nil {
				ctx.SetBodyString(string(b) + "!")
			}
			front.ReplyTrailers([]byte("X-Sum: 1\r\n"))
		})
		set.WebSockets = true
		srv := h2.New(set)
		ours, theirs := net.Pipe()
		srv.ServePlain(theirs, nil)
		var out bytes.Buffer
		var reading sync.WaitGroup
		reading.Go(func() { _, _ = io.Copy(&out, ours) })
		_, _ = io.WriteString(ours, http2.ClientPreface)
		_, _ = ours.Write(in) // it may hang up before all is said
		ours.Close()
		reading.Wait()
		eventually(t, "the connection has ended", func() bool { return srv.Stats().Open == 0 })
		if err := srv.Close(); err != nil {
			t.Fatal(err)
		}
		said := http2.NewFramer(nil, &out)
		said.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		for {
			if _, err := said.ReadFrame(); err == io.EOF || err == io.ErrUnexpectedEOF { // cut by the hang-up
				return
			} else if err != nil {
				t.Fatalf("the server said something wrong: %v", err)
			}
		}
	})
}

// check holds what a handler sees against the parser of HTTP/1.
func check(t *testing.T, ctx *fasthttp.RequestCtx, f exchange.Front) {
	var b bytes.Buffer
	b.Write(ctx.Method())
	b.WriteByte(' ')
	b.Write(f.RawTarget())
	b.WriteString(" HTTP/1.1\r\n")
	n := 0
	f.EachField(func(name, value []byte) bool {
		n++
		b.Write(name)
		b.WriteString(": ")
		b.Write(value)
		b.WriteString("\r\n")
		return true
	})
	b.WriteString("\r\n")
	var h wire.Head
	size, why := h.Parse(b.Bytes(), &wire.Limits{Head: 128 << 10, Fields: 100, URI: 8 << 10})
	if why != nil || size != b.Len() || len(h.Fields) != n || string(h.Host) != string(ctx.Request.Header.Host()) {
		t.Errorf("a handler sees %q: %v", b.String(), why)
	}
}
