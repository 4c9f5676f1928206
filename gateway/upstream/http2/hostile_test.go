package http2_test

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	frames "golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

func TestHostileReplies(t *testing.T) {
	ok := func(e *endpoint, id uint32, more ...string) {
		e.headers(id, false, append([]string{":status", "200"}, more...)...)
	}
	for name, c := range map[string]struct {
		reply func(e *endpoint, id uint32)
		want  *reason.Reason // nil: a reply
	}{
		"reset by refused":        {func(e *endpoint, id uint32) { e.reset(id, frames.ErrCodeRefusedStream) }, reason.UpstreamReset},
		"reset by internal error": {func(e *endpoint, id uint32) { e.reset(id, frames.ErrCodeInternal) }, reason.UpstreamReset},
		"reset by no error":       {func(e *endpoint, id uint32) { e.reset(id, frames.ErrCodeNo) }, reason.UpstreamReset},
		"reset by protocol error": {func(e *endpoint, id uint32) { e.reset(id, frames.ErrCodeProtocol) }, reason.UpstreamReset},
		"reset by calm":           {func(e *endpoint, id uint32) { e.reset(id, frames.ErrCodeEnhanceYourCalm) }, reason.UpstreamReset},
		"reset by http/1.1":       {func(e *endpoint, id uint32) { e.reset(id, frames.ErrCodeHTTP11Required) }, reason.UpstreamReset},
		"reset behind the head":   {func(e *endpoint, id uint32) { ok(e, id); e.reset(id, frames.ErrCodeInternal) }, reason.UpstreamReset},
		"reset within the body":   {func(e *endpoint, id uint32) { ok(e, id); e.data(id, false, "a"); e.reset(id, 99) }, reason.UpstreamReset},
		"end of the connection":   {func(e *endpoint, _ uint32) { e.nc.Close() }, reason.UpstreamReset},
		"end within the body":     {func(e *endpoint, id uint32) { ok(e, id); e.data(id, false, "a"); e.nc.Close() }, reason.UpstreamReset},
		"no status":               {func(e *endpoint, id uint32) { e.headers(id, true, "a", "b") }, reason.UpstreamProtocol},
		"status not a number":     {func(e *endpoint, id uint32) { e.headers(id, true, ":status", "abc") }, reason.UpstreamProtocol},
		"status too large":        {func(e *endpoint, id uint32) { e.headers(id, true, ":status", "999") }, reason.UpstreamProtocol},
		"status too small":        {func(e *endpoint, id uint32) { e.headers(id, true, ":status", "99") }, reason.UpstreamProtocol},
		"status negative":         {func(e *endpoint, id uint32) { e.headers(id, true, ":status", "-20") }, reason.UpstreamProtocol},
		"switched protocols":      {func(e *endpoint, id uint32) { e.headers(id, false, ":status", "101") }, reason.UpstreamProtocol},
		"upper case name":         {func(e *endpoint, id uint32) { ok(e, id, "X-Upper", "b") }, reason.UpstreamProtocol},
		"line break in a value":   {func(e *endpoint, id uint32) { ok(e, id, "a", "b\r\nc: d") }, reason.UpstreamProtocol},
		"pseudo field behind":     {func(e *endpoint, id uint32) { ok(e, id, "a", "b", ":status", "200") }, reason.UpstreamProtocol},
		"unknown pseudo field":    {func(e *endpoint, id uint32) { ok(e, id, ":path", "/") }, reason.UpstreamProtocol},
		"two lengths":             {func(e *endpoint, id uint32) { ok(e, id, "content-length", "1", "content-length", "2") }, reason.UpstreamProtocol},
		"length not a number":     {func(e *endpoint, id uint32) { ok(e, id, "content-length", "x") }, reason.UpstreamProtocol},
		"length negative":         {func(e *endpoint, id uint32) { ok(e, id, "content-length", "-1") }, reason.UpstreamProtocol},
		"body longer than its length": {func(e *endpoint, id uint32) {
			ok(e, id, "content-length", "2")
			e.data(id, true, "abc")
		}, reason.UpstreamProtocol},
		"body shorter than its length": {func(e *endpoint, id uint32) {
			ok(e, id, "content-length", "5")
			e.data(id, true, "abc")
		}, reason.UpstreamReset},
		"no body for its length": {func(e *endpoint, id uint32) { e.headers(id, true, ":status", "200", "content-length", "5") }, reason.UpstreamReset},
		"body before its head":   {func(e *endpoint, id uint32) { e.data(id, true, "abc") }, reason.UpstreamProtocol},
		"body behind its end":    {func(e *endpoint, id uint32) { ok(e, id); e.data(id, true, "a"); e.data(id, true, "b") }, nil},
		"head within the body":   {func(e *endpoint, id uint32) { ok(e, id); e.headers(id, false, "a", "b") }, reason.UpstreamProtocol},
		"status in the trailers": {func(e *endpoint, id uint32) { ok(e, id); e.headers(id, true, ":status", "200") }, reason.UpstreamProtocol},
		"connection fields": {func(e *endpoint, id uint32) {
			e.headers(id, true, ":status", "200", "connection", "x", "upgrade", "y", "x", "z")
		}, nil},
		"unasked stream": {func(e *endpoint, id uint32) { e.data(id+100, false, "abc") }, reason.UpstreamProtocol},
		"push": {func(e *endpoint, id uint32) {
			e.WritePushPromise(frames.PushPromiseParam{StreamID: id, PromiseID: 2, EndHeaders: true})
		}, reason.UpstreamProtocol},
		"too much for the window": {func(e *endpoint, id uint32) { ok(e, id); e.data(id, false, strings.Repeat("x", 16<<10)) }, reason.UpstreamProtocol},
		"window overflow":         {func(e *endpoint, _ uint32) { e.WriteWindowUpdate(0, 1<<31-1) }, reason.UpstreamProtocol},
		"garbage":                 {func(e *endpoint, _ uint32) { io.WriteString(e.nc, strings.Repeat("garbage", 100)) }, reason.UpstreamReset},
		"a frame too large": {func(e *endpoint, id uint32) {
			e.AllowIllegalWrites = true
			e.WriteRawFrame(0, 0, id, make([]byte, 2<<20))
		}, reason.UpstreamReset},
		"an unknown frame": {func(e *endpoint, id uint32) {
			e.WriteRawFrame(0xbe, 0, id, []byte("x"))
			e.headers(id, true, ":status", "200")
		}, nil},
		"a head too large":      {func(e *endpoint, id uint32) { ok(e, id, "x", strings.Repeat("x", 5000)) }, reason.UpstreamHeadLarge},
		"a head much too large": {func(e *endpoint, id uint32) { ok(e, id, "x", strings.Repeat("x", 50000)) }, reason.UpstreamProtocol},
		"too many fields": {func(e *endpoint, id uint32) {
			var fields []string
			for i := range 40 {
				fields = append(fields, "x"+strconv.Itoa(i), "")
			}
			ok(e, id, fields...)
		}, reason.UpstreamHeadLarge},
		"too many interim replies": {func(e *endpoint, id uint32) {
			for range 30 {
				e.headers(id, false, ":status", "103", "link", "</a>")
			}
			e.headers(id, true, ":status", "200")
		}, reason.UpstreamProtocol},
		"interim reply that ends": {func(e *endpoint, id uint32) { e.headers(id, true, ":status", "103") }, reason.UpstreamProtocol},
		"GOAWAY that spares it":   {func(e *endpoint, id uint32) { e.goAway(id, 0); e.headers(id, true, ":status", "200") }, nil},
		"GOAWAY and the end":      {func(e *endpoint, id uint32) { e.goAway(id, frames.ErrCodeInternal); e.nc.Close() }, reason.UpstreamReset},
		"pings":                   {func(e *endpoint, id uint32) { pings(e); e.headers(id, true, ":status", "200") }, nil},
		"settings":                {func(e *endpoint, id uint32) { settings(e); e.headers(id, true, ":status", "200") }, nil},
		"empty frames":            {func(e *endpoint, id uint32) { ok(e, id); empty(e, id); e.data(id, true, "") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			addr := endpoints(t, each(func(e *endpoint, v event) {
				e.AllowIllegalWrites = true
				c.reply(e, v.stream)
			}))
			p := newPool(t, http2.Settings{Limits: wire.Limits{Head: 4000, Fields: 30}, Window: 8 << 10}, addr)
			front := newClient()
			r := do(p, &transport.Call{Head: head("GET /"), Idle: time.Minute, Deadline: time.Now().Add(time.Minute), Front: front, Watch: front})
			if c.want == nil {
				if r.err != nil || r.status != 200 || r.fields != "" && r.fields != "X: z\n" {
					t.Errorf("%+v", r)
				}
				return
			}
			if r.err == nil {
				t.Fatalf("a reply: %+v", r)
			}
			if f := failure(t, r.err); f.Reason != c.want {
				t.Errorf("got %s, want %s: %v", f.Reason.Name, c.want.Name, f.Cause)
			}
		})
	}
}

func pings(e *endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for range 1500 {
		e.WritePing(false, [8]byte{})
	}
}

func settings(e *endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for range 500 {
		e.WriteSettings(frames.Setting{ID: frames.SettingInitialWindowSize, Val: 70000})
	}
}

func empty(e *endpoint, id uint32) {
	for range 500 {
		e.data(id, false, "")
	}
}

// What an endpoint has not looked at may be repeated, even if it is a POST.
func TestUnprocessedRequestsMayBeRepeated(t *testing.T) {
	for name, c := range map[string]struct {
		reply        func(e *endpoint, id uint32)
		stale        bool
		staleTouched bool
	}{
		"refused": {func(e *endpoint, id uint32) { e.reset(id, frames.ErrCodeRefusedStream) }, false, false},
		"GOAWAY":  {func(e *endpoint, id uint32) { e.goAway(id-2, 0) }, true, false},
	} {
		addr := endpoints(t, each(func(e *endpoint, v event) {
			if v.stream == 1 {
				e.headers(1, true, ":status", "200")
				return
			}
			c.reply(e, v.stream)
		}))
		p := newPool(t, http2.Settings{}, addr)
		if r := do(p, newCall()); r.err != nil {
			t.Fatal(r.err)
		}
		r := do(p, &transport.Call{Head: append(head("POST /", "Content-Length: 3"), "abc"...)})
		if f := failure(t, r.err); !f.Unsent || f.Stale != c.stale || f.Reason != reason.UpstreamReset {
			t.Errorf("%s: %+v", name, f)
		}
		if r := do(p, newCall()); name == "GOAWAY" && (r.err != nil || r.reused) {
			t.Errorf("%s: no new connection: %+v", name, r)
		}
	}
	addr := endpoints(t, func(e *endpoint, in <-chan event) {
		v, _ := await(in, frames.FrameData)
		e.reset(v.stream, frames.ErrCodeRefusedStream)
		for range in {
		}
	})
	p := newPool(t, http2.Settings{}, addr)
	r := do(p, &transport.Call{Head: head("POST /"), Stream: io.MultiReader(strings.NewReader("abc"), slowly{}), Length: -1})
	if f := failure(t, r.err); !f.Unsent || f.Stale || f.BodyRead {
		t.Errorf("refused within its body: %+v", f)
	}
}

// slowly is a body that goes on for a while.
type slowly struct{}

func (slowly) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return copy(p, "x"), nil
}

func TestConnectionThatDiesIsStaleOnlyIfItWasUsed(t *testing.T) {
	addr := endpoints(t, each(func(e *endpoint, v event) {
		if e.n == 0 || v.stream == 3 {
			e.nc.Close()
			return
		}
		e.headers(v.stream, true, ":status", "200")
	}))
	p := newPool(t, http2.Settings{}, addr)
	if f := failure(t, do(p, newCall()).err); f.Stale || f.Unsent || f.Reason != reason.UpstreamReset {
		t.Errorf("the first request of a connection: %+v", f)
	}
	if r := do(p, newCall()); r.err != nil {
		t.Fatal(r.err)
	}
	if f := failure(t, do(p, newCall()).err); !f.Stale || f.Unsent {
		t.Errorf("the second request of a connection: %+v", f)
	}
}

func TestWhoDoesNotSpeakHTTP2IsNotAsked(t *testing.T) {
	for name, c := range map[string]struct {
		say, want string
		patience  time.Duration
	}{
		"HTTP/1":  {"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "answered in HTTP/1", time.Minute},
		"another": {"SSH-2.0-OpenSSH_9.2\r\n", "instead of sending SETTINGS", time.Minute},
		"nobody":  {"", "no SETTINGS", 300 * time.Millisecond},
	} {
		addr := listen(t, c.say)
		stretched(t, c.patience, func(patience time.Duration) error { // which is for connecting, too
			p := newPool(t, http2.Settings{DialTimeout: patience}, addr)
			f := failure(t, do(p, newCall()).err)
			if f.Reason != reason.UpstreamConnect || !f.Unsent || !strings.Contains(f.Error(), c.want) {
				return fmt.Errorf("%s: %s: %w", name, f.Reason.Name, f)
			}
			if _, connects, failures := p.Counts(); connects != 0 || failures != 1 {
				return fmt.Errorf("%s: %d connects, %d failures", name, connects, failures)
			}
			return nil
		})
	}
	p := newPool(t, http2.Settings{}, "127.0.0.1:1")
	if f := failure(t, do(p, newCall()).err); f.Reason != reason.UpstreamConnect {
		t.Errorf("nobody there: %+v", f)
	}
	none := endpoints(t, each(func(*endpoint, event) {}), frames.Setting{ID: frames.SettingMaxConcurrentStreams, Val: 0})
	p = newPool(t, http2.Settings{}, none)
	if f := failure(t, do(p, newCall()).err); f.Reason != reason.UpstreamConnect || !strings.Contains(f.Error(), "takes no requests") {
		t.Errorf("no streams: %v", f)
	}
}

// A GOAWAY that spares no stream is told from other ends.
func TestFaults(t *testing.T) {
	addr := endpoints(t, each(func(e *endpoint, v event) { e.goAway(v.stream-1, 0) }))
	p := newPool(t, http2.Settings{}, addr)
	var f *transport.Failure
	if r := do(p, newCall()); !errors.As(r.err, &f) || !f.Unsent {
		t.Errorf("a GOAWAY is not recognised: %v", r.err)
	}
}
