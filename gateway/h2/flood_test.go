package h2_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// TestFloodsOfClientsThatRead are answered well, and cost us all the same.
func TestFloodsOfClientsThatRead(t *testing.T) {
	for name, send := range map[string]func(c *raw, i int) error{
		"PING":          func(c *raw, _ int) error { return c.WritePing(false, [8]byte{}) },
		"PING answers":  func(c *raw, _ int) error { return c.WritePing(true, [8]byte{}) },
		"SETTINGS":      func(c *raw, _ int) error { return c.WriteSettings() },
		"PRIORITY":      func(c *raw, i int) error { return c.WritePriority(uint32(2*i+1), http2.PriorityParam{}) },
		"unknown":       func(c *raw, _ int) error { return c.WriteRawFrame(0xfa, 0, 0, nil) },
		"WINDOW_UPDATE": func(c *raw, _ int) error { return c.WriteWindowUpdate(0, 1) },
		"empty DATA":    func(c *raw, _ int) error { return c.WriteData(1, false, nil) },
		"DATA of no stream": func(c *raw, i int) error {
			if i == 0 {
				_ = c.WriteRSTStream(1, http2.ErrCodeCancel)
			}
			return c.WriteData(1, false, nil)
		},
		"resets by us": func(c *raw, i int) error {
			id := uint32(2*i + 3)
			c.open(id, true, get()...)
			return c.WriteRawFrame(http2.FrameWindowUpdate, 0, id, []byte{0, 0, 0, 0})
		},
		"malformed heads": func(c *raw, i int) error {
			c.open(uint32(2*i+3), true, get("X-A", "b")...)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r refusals
			addr, srv := start(t, settings(func(_ *fasthttp.RequestCtx, f exchange.Front) {
				gone := make(chan struct{})
				f.OnGone(abort(func() { close(gone) }))
				<-gone
			}, &r))
			c := dial(t, addr)
			c.open(1, false, get()...)
			a, sent := cutOff(t, c, func(i int) error { return send(c, i) })
			if sent < 0 || !a.gone || a.goAway && a.code != http2.ErrCodeEnhanceYourCalm {
				t.Fatalf("after %d: %+v", sent, a)
			}
			c.nc.Close()
			eventually(t, "the connection is gone", func() bool { return srv.Stats().Open == 0 })
			if !strings.HasSuffix(r.String(), "http2_flood") {
				t.Errorf("counted %.200q", r.String())
			}
		})
	}
}

// TestAClientThatIsOnlyBusy is none of them.
func TestAClientThatIsOnlyBusy(t *testing.T) {
	t.Parallel()
	c := dialQuick(t, func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyString("x") })
	id := uint32(1)
	for range 1500 {
		c.open(id, true, get()...)
		_ = c.WriteWindowUpdate(0, 1)
		_ = c.WritePing(false, [8]byte{1})
		if a := c.await(id); a.body != "x" {
			t.Fatalf("stream %d: %+v", id, a)
		}
		id += 2
	}
}

func TestBombsOfFields(t *testing.T) {
	t.Parallel()
	var r refusals
	addr, _ := start(t, settings(ok, &r))
	c := dial(t, addr)
	// One field of 4000 bytes in the table, then a byte for each of its likes.
	value := strings.Repeat("a", 3900)
	block := c.fields(get("x-a", value)...)
	at := c.fields("x-a", value)
	for range 30_000 {
		block = append(block, at...)
	}
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:frame]})
	for block = block[frame:]; len(block) > 0; {
		n := min(len(block), frame)
		_ = c.WriteContinuation(1, n == len(block), block[:n])
		block = block[n:]
	}
	if a := c.await(1); a.status != "431" || r.String() != "head_too_large" {
		t.Errorf("got %+v, refused %s", a, r.String())
	}
	c.open(3, true, get("x-b", value)...) // the compression is still in step
	if a := c.await(3); a.status != "200" {
		t.Errorf("got %+v", a)
	}
}

func TestAHeadInNoPieces(t *testing.T) {
	t.Parallel()
	var r refusals
	addr, srv := start(t, settings(ok, &r))
	c := dial(t, addr)
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(get()...)})
	a, sent := cutOff(t, c, func(int) error { return c.WriteContinuation(1, false, nil) })
	if sent < 0 || !a.gone {
		t.Fatalf("got %+v", a)
	}
	c.nc.Close()
	eventually(t, "the connection is gone", func() bool { return srv.Stats().Open == 0 })
	if r.String() != "http2_flood" {
		t.Errorf("counted %q", r.String())
	}
}

func TestSlowBeginnings(t *testing.T) {
	for name, say := range map[string]func(t *testing.T, addr string) net.Conn{
		"nothing": func(t *testing.T, addr string) net.Conn { return plainDial(t, addr, "") },
		"a part of the preface": func(t *testing.T, addr string) net.Conn {
			return plainDial(t, addr, http2.ClientPreface[:10])
		},
		"no SETTINGS": func(t *testing.T, addr string) net.Conn { return plainDial(t, addr, http2.ClientPreface) },
		"a part of a frame": func(t *testing.T, addr string) net.Conn {
			c := dial(t, addr)
			_, _ = c.nc.Write([]byte{0, 0, 10, 1, 5, 0})
			return c.nc
		},
		"a head that goes on, byte by byte": func(t *testing.T, addr string) net.Conn {
			c := dial(t, addr)
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(get()...)})
			go func() {
				for i := 0; c.WriteContinuation(1, false, []byte{0}) == nil && i < 50; i++ {
					time.Sleep(50 * time.Millisecond)
				}
			}()
			return c.nc
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r refusals
			s := settings(ok, &r)
			s.HeadTimeout = time.Second
			addr, srv := start(t, s)
			nc := say(t, addr)
			_, _ = io.Copy(io.Discard, nc) // until the server has closed its side
			nc.Close()
			eventually(t, "the connection is gone", func() bool { return srv.Stats().Open == 0 })
			if r.String() != "head_timeout" {
				t.Errorf("counted %q", r.String())
			}
		})
	}
}

func plainDial(t *testing.T, addr, say string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(nc, say)
	return nc
}

func TestWhatIsNotHTTP2(t *testing.T) {
	t.Parallel()
	for _, say := range []string{"GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", http2.ClientPreface + "\x00\x00\x00\x00\x00\x00\x00\x00\x01"} {
		var r refusals
		addr, srv := start(t, settings(ok, &r))
		nc := plainDial(t, addr, say)
		_, _ = io.Copy(io.Discard, nc)
		nc.Close()
		eventually(t, "the connection is gone", func() bool { return srv.Stats().Open == 0 })
		if r.String() != "http2_protocol_error" {
			t.Errorf("%q: counted %q", say, r.String())
		}
	}
}
