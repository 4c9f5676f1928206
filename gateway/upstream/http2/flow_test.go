package http2_test

import (
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	frames "golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// grow makes a window of the client larger.
func (e *endpoint) grow(stream uint32, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.WriteWindowUpdate(stream, uint32(n))
}

func TestUploadsKeepToTheWindows(t *testing.T) {
	const size = 300_000
	for name, call := range map[string]func() *transport.Call{
		"a stream": func() *transport.Call {
			return &transport.Call{Head: head("POST /"), Stream: io.LimitReader(zeros{}, size), Length: -1}
		},
		"at hand": func() *transport.Call { return &transport.Call{Head: head("POST /"), Body: make([]byte, size)} },
	} {
		t.Run(name, func(t *testing.T) {
			addr := endpoints(t, func(e *endpoint, in <-chan event) {
				got, stream, conn := 0, 1000, 65535
				first, _ := await(in, frames.FrameHeaders)
				// It gets smaller than what has been sent perhaps, and grows again.
				e.mu.Lock()
				e.WriteSettings(frames.Setting{ID: frames.SettingInitialWindowSize, Val: 500})
				e.mu.Unlock()
				for v := range in {
					if v.kind != frames.FrameData {
						continue
					}
					if got, stream, conn = got+v.size, stream-v.size, conn-v.size; stream < 0 || conn < 0 || v.size > 16<<10 {
						t.Errorf("%d bytes too many for the stream, %d for the connection; a frame of %d", -stream, -conn, v.size)
					}
					if v.end {
						break
					}
					if stream < 600 {
						e.grow(first.stream, 20_000)
						stream += 20_000
					}
					if conn < 1000 {
						e.grow(0, 50_000)
						conn += 50_000
					}
				}
				if got != size {
					t.Errorf("%d bytes came", got)
				}
				e.headers(first.stream, true, ":status", "200")
				for range in {
				}
			}, frames.Setting{ID: frames.SettingInitialWindowSize, Val: 1000})
			p := newPool(t, http2.Settings{}, addr)
			if r := do(p, call()); r.err != nil || r.status != 200 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// Many uploads share the connection's window, and all get through.
func TestUploadsShareTheConnection(t *testing.T) {
	addr := endpoints(t, func(e *endpoint, in <-chan event) {
		for v := range in {
			if v.size > 0 {
				e.grow(0, v.size)
				e.grow(v.stream, v.size)
			}
			if v.end {
				e.headers(v.stream, true, ":status", "200")
			}
		}
	})
	p := newPool(t, http2.Settings{}, addr)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			call := &transport.Call{Head: head("POST /"), Body: make([]byte, 200_000)}
			if i%2 == 0 {
				call = &transport.Call{Head: head("POST /"), Stream: io.LimitReader(zeros{}, 200_000), Length: 200_000}
			}
			call.Idle = 20 * time.Second
			if r := do(p, call); r.err != nil || r.status != 200 {
				t.Errorf("%+v", r)
			}
		})
	}
	wg.Wait()
	if open, connects, _ := p.Counts(); open != 1 || connects != 1 {
		t.Errorf("%d connections, %d made", open, connects)
	}
}

// A reply is allowed more as it is read, not as it comes, and for many frames
// at once; the connection's window does not depend on readers.
func TestWindowsGrowAsRepliesAreRead(t *testing.T) {
	const window = 64 << 10
	seen := make(chan *endpoint, 1)
	addr := endpoints(t, each(func(e *endpoint, v event) {
		e.headers(v.stream, false, ":status", "200")
		for range window / 1024 {
			e.data(v.stream, false, strings.Repeat("x", 1024))
		}
		seen <- e
	}))
	p := newPool(t, http2.Settings{Window: window}, addr)
	call := newCall()
	c, err := p.Get(call, false)
	if err == nil {
		err = c.Do(call)
	}
	if err != nil {
		t.Fatal(err)
	}
	e := <-seen
	eventually(func() bool { return c.BufferedNow() == window })
	if n := e.grown[1].Load(); n != 0 {
		t.Errorf("the window grew by %d bytes that nobody has read", n)
	}
	if n := e.grown[0].Load(); n < 1<<29 {
		t.Errorf("the connection's window is %d bytes", n)
	}
	if n, err := io.ReadFull(c, make([]byte, window)); n != window || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if !eventually(func() bool { return e.grown[1].Load() >= window*3/4 }) {
		t.Errorf("the window grew by %d bytes", e.grown[1].Load())
	}
	c.Release()
}

// What a client may send at once is told by SETTINGS at any time.
func TestSettingsMayChange(t *testing.T) {
	addr := endpoints(t, func(e *endpoint, in <-chan event) {
		for v := range in {
			if v.kind != frames.FrameHeaders {
				continue
			}
			if v.stream == 3 {
				e.mu.Lock()
				e.WriteSettings(frames.Setting{ID: frames.SettingHeaderTableSize, Val: 0}, frames.Setting{ID: frames.SettingMaxHeaderListSize, Val: 2000})
				e.mu.Unlock()
			}
			e.headers(v.stream, true, ":status", "200", "path", v.fields[":path"])
		}
	})
	p := newPool(t, http2.Settings{}, addr)
	for range 5 {
		if r := do(p, &transport.Call{Head: head("GET /a", "User-Agent: x")}); r.err != nil || r.fields != "Path: /a\n" {
			t.Fatalf("%+v", r)
		}
	}
	r := do(p, &transport.Call{Head: head("GET /a", "Large: "+strings.Repeat("x", 2000))})
	if f := failure(t, r.err); !f.Unsent || !strings.Contains(f.Error(), "larger than the endpoint allows") {
		t.Errorf("%+v", f)
	}
	if r := do(p, &transport.Call{Head: head("GET /b")}); r.err != nil || !r.reused {
		t.Errorf("%+v", r)
	}
}
