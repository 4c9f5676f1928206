package h2_test

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// TestBodyOfNobody: what came for requests that never began, because their
// connection broke in the same breath, is not read as the body of another one.
func TestBodyOfNobody(t *testing.T) {
	addr, _ := start(t, quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		body, err := io.ReadAll(ctx.RequestBodyStream())
		if err != nil {
			t.Error(err)
		}
		ctx.SetBody(body)
	}))
	for range 20 {
		c := dial(t, addr)
		var breath bytes.Buffer
		c.Framer = http2.NewFramer(&breath, c.nc)
		for id := uint32(1); id < 20; id += 2 {
			c.open(id, false, get()...)
			_ = c.WriteData(id, false, []byte("another's")) // into memory
		}
		_ = c.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		if _, err := breath.WriteTo(c.nc); err != nil {
			t.Fatal(err)
		}
		c.mute = true
		if a := c.await(1); a.code != http2.ErrCodeProtocol {
			t.Fatalf("GOAWAY said %v", a.code)
		}

		c = dial(t, addr)
		c.open(1, false, get("content-length", "3")...)
		_ = c.WriteData(1, true, []byte("own"))
		if a := c.await(1); a.body != "own" {
			t.Fatalf("the body is %q", a.body)
		}
	}
}

// TestTrailersBehindNothing: a client that says that its body is empty, but
// leaves the stream open, may still send trailers. Whoever looks for them does
// so without a lock.
func TestTrailersBehindNothing(t *testing.T) {
	looking := make(chan struct{})
	addr, _ := start(t, quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		looking <- struct{}{}
		for range 1000 {
			if lines := f.RequestTrailers(); lines != nil {
				t.Errorf("trailers: %q", lines)
				break
			}
		}
		looking <- struct{}{}
		ctx.SetBodyString("ok")
	}))
	c := dial(t, addr)
	c.open(1, false, get("content-length", "0")...)
	<-looking
	c.open(1, true, "x-trailer", "late")
	_ = c.WritePing(false, [8]byte{})
	for f, err := c.ReadFrame(); ; f, err = c.ReadFrame() {
		if err != nil {
			t.Fatal(err)
		}
		if ping, ok := f.(*http2.PingFrame); ok && ping.IsAck() {
			break // the trailers have been taken
		}
	}
	<-looking
	if a := c.await(1); a.status != "200" || !a.ended {
		t.Errorf("%+v", a)
	}
}

// TestHeadCutByLeaving: a head of which only a part has come when the last
// stream is named is not one of those that are answered; its client may send it
// again elsewhere.
func TestHeadCutByLeaving(t *testing.T) {
	t.Parallel()
	addr, srv := start(t, quick(ok))
	c := dial(t, addr)
	c.open(1, true, get()...)
	if a := c.await(1); a.status != "200" {
		t.Fatalf("%+v", a)
	}
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: c.fields(get()...), EndStream: true})
	done := make(chan error, 1)
	go func() { done <- srv.Shutdown(context.Background()) }()
	last := uint32(0)
	for {
		f, err := c.ReadFrame()
		if err != nil {
			break
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			last = g.LastStreamID
		}
	}
	if last != 1 {
		t.Errorf("the last stream is said to be %d", last)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestBodyLentToWhomIsLate: a handler that goes on after its time is over still
// has the body that it was lent.
func TestBodyLentToWhomIsLate(t *testing.T) {
	lent := make(chan []byte, 1)
	addr, _ := start(t, quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if p := f.Whole(); string(p) == "first" {
			lent <- p
			ctx.TimeoutErrorWithCode("late", fasthttp.StatusServiceUnavailable)
		}
	}))
	c := dial(t, addr)
	var breath bytes.Buffer
	c.Framer = http2.NewFramer(&breath, c.nc)
	send := func(id uint32, body string) {
		c.open(id, false, get("content-length", "5")...)
		_ = c.WriteData(id, true, []byte(body)) // into memory: it comes with the head, and so whole
		if _, err := breath.WriteTo(c.nc); err != nil {
			t.Fatal(err)
		}
		c.await(id)
	}
	send(1, "first")
	p := <-lent
	for id := uint32(3); id < 100; id += 2 {
		send(id, "other")
	}
	if string(p) != "first" {
		t.Errorf("it has become %q", p)
	}
}

// TestLargeHeadsAreNotHeld: a connection that does nothing holds no more memory
// for having once had much to say, which costs its client a byte for each
// repetition of a field.
func TestLargeHeadsAreNotHeld(t *testing.T) {
	const conns, crumb, crumbs = 40, 3900, 15
	addr, _ := start(t, quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		ctx.Response.Header.Set("X-Large", string(ctx.Request.Header.Peek("Cookie")))
	}))
	heap := func() int64 {
		runtime.GC() // pools give up what they have
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	value := strings.Repeat("a", crumb)
	held := func(crumbs int) int64 {
		all := make([]*raw, conns)
		for i := range all {
			all[i] = dial(t, addr, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		}
		before := heap()
		for _, c := range all {
			fields := get("cookie", value)
			for range crumbs {
				fields = append(fields, "cookie", value)
			}
			c.open(1, true, fields...)
			if a := c.await(1); a.status != "200" {
				t.Fatalf("%+v", a)
			}
			c.block = bytes.Buffer{}
			c.Framer = nil
		}
		return (heap() - before) / conns
	}
	held(0)
	if little, much := held(0), held(crumbs); much-little > crumb*crumbs/4 {
		t.Errorf("%d bytes, and %d after a large head", little, much)
	}
}

// TestTrailersBehindReplies: what was on its way when streams were answered
// early is no reason to end a connection that others share.
func TestTrailersBehindReplies(t *testing.T) {
	c := dialQuick(t, ok)
	for id := uint32(1); id < 200; id += 2 {
		c.open(id, false, get()...)
		if a := c.await(id); a.status != "200" || !a.ended {
			t.Fatalf("stream %d: %+v", id, a)
		}
	}
	for id := uint32(1); id < 200; id += 2 {
		c.open(id, true, "x-trailer", "late")
	}
	c.open(201, true, get()...)
	if a := c.await(201); a.status != "200" {
		t.Errorf("%+v", a)
	}
}
