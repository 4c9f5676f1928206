package h2_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2"
)

// next reads the next frame of interest: neither SETTINGS nor WINDOW_UPDATE.
func (c *raw) next() http2.Frame {
	c.t.Helper()
	for {
		f, err := c.ReadFrame()
		if err != nil {
			c.t.Fatal(err)
		}
		switch f.(type) {
		case *http2.SettingsFrame, *http2.WindowUpdateFrame:
			continue
		}
		return f
	}
}

func TestStreamsTakeTurns(t *testing.T) {
	t.Parallel()
	answered := make(chan struct{}, 4)
	c := dialQuick(t, func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		ctx.SetBodyString(strings.Repeat("x", 200<<10))
		answered <- struct{}{}
	}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	for id := uint32(1); id < 8; id += 2 {
		c.open(id, true, get()...)
	}
	// The connection's window is 65535 bytes: all four wait for it before long.
	got, streams := 0, map[uint32]int{}
	for got < 65535 {
		if d, ok := c.next().(*http2.DataFrame); ok {
			got += len(d.Data())
		}
	}
	for range 4 {
		<-answered
	}
	time.Sleep(50 * time.Millisecond) // so that the last of them waits, most likely
	for range 40 {
		_ = c.WriteWindowUpdate(0, frame)
		for n := 0; n < frame; {
			d, ok := c.next().(*http2.DataFrame)
			if !ok {
				continue // the head of one that comes late
			}
			n += len(d.Data())
			streams[d.StreamID] += len(d.Data())
		}
	}
	for id := uint32(1); id < 8; id += 2 {
		if streams[id] < 6*frame {
			t.Errorf("stream %d got %d of %d bytes: %v", id, streams[id], 40*frame, streams)
		}
	}
}

func dialQuick(t testing.TB, h handler, settings ...http2.Setting) *raw {
	t.Helper()
	addr, _ := start(t, quick(h))
	return dial(t, addr, settings...)
}

// TestWindowsAreGivenBack also for what nobody reads, padding, and what comes for
// streams that have ended.
func TestWindowsAreGivenBack(t *testing.T) {
	t.Parallel()
	s := quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		if string(ctx.Path()) == "/read" {
			_, _ = io.Copy(io.Discard, ctx.RequestBodyStream())
		}
	})
	s.StreamWindow, s.ConnectionWindow = 64<<10, 128<<10
	addr, _ := start(t, s)
	c := dial(t, addr)
	window, streamWindow := 65535, 0
	send := func(id uint32, pad int) {
		n := frame / 2
		for window < n || id == 1 && streamWindow < n {
			f, err := c.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			switch f := f.(type) {
			case *http2.WindowUpdateFrame:
				if f.StreamID == 0 {
					window += int(f.Increment)
				} else if f.StreamID == 1 {
					streamWindow += int(f.Increment)
				}
			case *http2.GoAwayFrame:
				t.Fatal(f)
			}
		}
		window, streamWindow = window-n, streamWindow-n
		_ = c.WriteDataPadded(id, false, make([]byte, n-1-pad), make([]byte, pad))
	}
	streamWindow = 64 << 10
	c.open(1, false, ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/read")
	for range 40 {
		send(1, 200)
	}
	c.open(3, false, get()...) // answered early: what follows is for nobody
	for range 40 {
		send(3, 10)
	}
	_ = c.WriteData(1, true, nil)
	if a := c.await(1); a.status != "200" {
		t.Errorf("got %+v", a)
	}
}

func TestFieldsForAStreamThatWasJustReset(t *testing.T) {
	t.Parallel()
	c := dialQuick(t, ok)
	c.open(1, false, get()...)
	if a := c.await(1); a.body != "ok" {
		t.Errorf("got %+v", a)
	}
	if r, ok := c.next().(*http2.RSTStreamFrame); !ok || r.ErrCode != http2.ErrCodeNo {
		t.Errorf("got %v, want a reset that blames nobody", r)
	}
	c.open(1, true, "x-sum", "1") // sent before the client knew
	c.open(3, true, get("x-sum", "1")...)
	if a := c.await(3); a.status != "200" {
		t.Errorf("got %+v", a)
	}
}

func TestTheInitialWindowChangesUnderway(t *testing.T) {
	t.Parallel()
	c := dialQuick(t, func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyString(strings.Repeat("x", 100)) },
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	c.open(1, true, get()...)
	want := func(n int) {
		t.Helper()
		for {
			if d, ok := c.next().(*http2.DataFrame); ok {
				if len(d.Data()) != n {
					t.Errorf("got %d bytes, want %d", len(d.Data()), n)
				}
				return
			}
		}
	}
	want(10)
	_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 5}) // the window is -5 now
	_ = c.WriteWindowUpdate(1, 6)
	want(1)
	_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
	want(89)
}

func TestTrailersOfRequests(t *testing.T) {
	t.Parallel()
	for name, k := range map[string]struct {
		trailers []string
		end      bool
		want     string
	}{
		"unannounced":       {[]string{"x-sum", "1"}, true, "200 x-sum: 1"},
		"one that must not": {[]string{"content-length", "1"}, true, "200 bad_trailer"},
		"pseudo":            {[]string{":path", "/"}, true, "reset bad_pseudo_header"},
		"upper case":        {[]string{"X-Sum", "1"}, true, "reset bad_header_name"},
		"of HTTP/1":         {[]string{"connection", "close"}, true, "reset connection_header"},
		"without an end":    {[]string{"x-sum", "1"}, false, "reset http2_protocol_error"},
	} {
		t.Run(name, func(t *testing.T) {
			var r refusals
			got := make(chan string, 1)
			addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
				if _, err := io.Copy(io.Discard, ctx.RequestBodyStream()); err != nil {
					got <- strings.Split(err.Error(), ":")[0]
					return
				}
				got <- strings.TrimSpace(string(f.RequestTrailers()))
			}, &r))
			c := dial(t, addr)
			c.open(1, false, get()...)
			_ = c.WriteData(1, false, []byte("body"))
			c.open(1, k.end, k.trailers...)
			a, seen := c.await(1), <-got
			if a.wasReset && a.status == "" {
				_, counted, _ := strings.Cut(k.want, " ")
				a.status, seen = "reset", r.await(counted)
			}
			if a.status+" "+seen != k.want {
				t.Errorf("got %s %s, want %s", a.status, seen, k.want)
			}
		})
	}
}

// TestGoodbyeInTwoSteps: what a client had sent before it heard of the end is
// served, what it sends later is not.
func TestGoodbyeInTwoSteps(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	addr, srv := start(t, quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		if string(ctx.Path()) == "/" {
			<-release
		}
	}))
	c := dial(t, addr)
	c.open(1, true, get()...)
	eventually(t, "it is busy", func() bool { return srv.Stats() == h2.Stats{Open: 1} })
	ended := make(chan error, 1)
	go func() { ended <- srv.Shutdown(background(t, 20*time.Second)) }()
	first, _ := c.next().(*http2.GoAwayFrame)
	if first == nil || first.LastStreamID != 1<<31-1 || first.ErrCode != http2.ErrCodeNo {
		t.Fatalf("got %v", first)
	}
	c.open(3, true, ":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/late")
	ping, _ := c.next().(*http2.PingFrame)
	if ping == nil {
		t.Fatal("no PING")
	}
	if a := c.await(3); a.status != "200" {
		t.Errorf("got %+v", a)
	}
	_ = c.WritePing(true, ping.Data)
	last, _ := c.next().(*http2.GoAwayFrame)
	if last == nil || last.LastStreamID != 3 || last.ErrCode != http2.ErrCodeNo {
		t.Fatalf("got %v", last)
	}
	c.open(5, true, ":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/later")
	close(release)
	if a := c.await(1); a.status != "200" {
		t.Errorf("got %+v", a)
	}
	if a := c.await(5); a.status != "" || !a.gone {
		t.Errorf("got %+v", a)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestASlowFrame of a body is no pause: what has come of it counts.
func TestASlowFrame(t *testing.T) {
	t.Parallel()
	stretched(t, 100*time.Millisecond, func(pause time.Duration) error {
		got := make(chan error, 1)
		s := quick(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
			_, err := io.Copy(io.Discard, ctx.RequestBodyStream())
			got <- err
		})
		s.BodyTimeout, s.HeadTimeout = 6*pause, 6*pause
		addr, _ := start(t, s)
		c := dial(t, addr)
		c.open(1, false, get()...)
		_, _ = c.nc.Write([]byte{0, 0, 10, 0, 1, 0, 0, 0, 1}) // DATA with END_STREAM
		for range 10 {
			time.Sleep(pause)
			_, _ = c.nc.Write([]byte("x"))
		}
		select {
		case err := <-got:
			return err
		case <-time.After(10 * time.Second):
			return errors.New("the head did not come in time")
		}
	})
}

// TestASmallReplyGoesOutInOnePiece, with its trailers.
func TestASmallReplyGoesOutInOnePiece(t *testing.T) {
	t.Parallel()
	srv := h2.New(quick(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		ctx.SetBodyString("message")
		f.ReplyTrailers([]byte("Grpc-Status: 0\r\n"))
	}))
	ours, theirs := newPipe()
	srv.ServePlain(theirs, nil)
	_, _ = io.WriteString(ours, http2.ClientPreface)
	f := http2.NewFramer(ours, ours)
	_ = f.WriteSettings()
	c := &raw{t: t, Framer: f}
	c.enc = hpack.NewEncoder(&c.block)
	theirs.quiet(t, 3) // its SETTINGS, a window, and the answer to ours
	c.open(1, true, get()...)
	piece := theirs.piece(t)
	kinds := ""
	for len(piece) > 0 {
		n := int(piece[0])<<16 | int(piece[1])<<8 | int(piece[2])
		kinds += fmt.Sprintf("%v %d;", http2.FrameType(piece[3]), piece[4])
		piece = piece[9+n:]
	}
	if kinds != "HEADERS 4;DATA 0;HEADERS 5;" {
		t.Errorf("got %s", kinds)
	}
	ours.Close()
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
}

// The bridge's tests of expectations use net/http's client, which has no body
// without END_STREAM to send.
func TestAnEmptyBodyThatIsAnnounced(t *testing.T) {
	t.Parallel()
	c := dialQuick(t, func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if f.HasBody() || !f.BodyDone() {
			ctx.SetStatusCode(http.StatusTeapot)
		}
	})
	c.open(1, false, get("content-length", "0")...)
	if a := c.await(1); a.status != "200" {
		t.Errorf("got %+v", a)
	}
}
