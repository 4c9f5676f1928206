package h1_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
)

func TestUpgradeTunnel(t *testing.T) {
	var ended atomic.Bool
	opened := make(chan struct{}, 1)
	addr, srv := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		ctx.SetUserValue("end", closer(func() { ended.Store(true) }))
		protocol, ok := f.WantsUpgrade()
		if !ok || string(protocol) != "echo" {
			ctx.SetStatusCode(400)
			return
		}
		ctx.SetStatusCode(101)
		ctx.Response.Header.Set("Upgrade", "echo")
		f.Upgrade(func(nc net.Conn, early []byte) {
			opened <- struct{}{}
			if _, err := nc.Write(early); err != nil {
				t.Error(err)
			}
			_, _ = io.Copy(nc, nc)
		})
	}))
	request := "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
	open := func(early string) *client {
		c := dial(t, addr)
		c.send("%s", request+early)
		if r, err := http.ReadResponse(c.br, nil); err != nil || r.StatusCode != 101 || r.Header.Get("Upgrade") != "echo" || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") {
			t.Fatalf("%v, %v", r, err)
		}
		<-opened
		return c
	}
	expect := func(c *client, want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := io.ReadFull(c.br, b); err != nil || string(b) != want {
			t.Fatalf("%q, %v", b, err)
		}
	}
	t.Run("whole life", func(t *testing.T) {
		c := open("EARLY")
		expect(c, "EARLY")
		time.Sleep(350 * time.Millisecond) // longer than it takes to be watched
		c.send("hello")
		expect(c, "hello")
		if ended.Load() || srv.Stats().Tunnels != 1 {
			t.Errorf("ended %v, %+v", ended.Load(), srv.Stats())
		}
		c.send("bye")
		c.CloseWrite() // half-closed: the other way still works
		if s := c.rest(); s != "bye" {
			t.Errorf("%q", s)
		}
		eventually(t, "the exchange to end", ended.Load)
	})
	t.Run("not asked for", func(t *testing.T) {
		for _, r := range []string{
			"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\nContent-Length: 1\r\n\r\nx", "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
		} {
			c := dial(t, addr)
			c.send("%s", r)
			if r, _ := c.reply("GET"); r.StatusCode != 400 {
				t.Errorf("%v", r)
			}
		}
	})
	t.Run("shutdown", func(t *testing.T) {
		c := open("")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		done := make(chan error)
		go func() { done <- srv.Shutdown(ctx) }()
		time.Sleep(150 * time.Millisecond)
		c.send("still")
		expect(c, "still") // until the time is over
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		c.closed()
		eventually(t, "the tunnel gone", func() bool { return srv.Stats().Open == 0 })
	})
}

func TestShutdown(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	addr, srv := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if string(ctx.Path()) == "/busy" {
			reached <- struct{}{}
			<-release
		}
		echo(ctx, f)
	}))
	idle, fresh, busy := dial(t, addr), dial(t, addr), dial(t, addr)
	idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	idle.reply("GET")
	busy.send("GET /busy HTTP/1.1\r\nHost: a\r\n\r\n")
	<-reached
	eventually(t, "three connections", func() bool { s := srv.Stats(); return s.Open == 3 && s.Idle == 2 && s.Busy == 1 })
	done := make(chan error)
	go func() { done <- srv.Shutdown(context.Background()) }()
	idle.closed()
	fresh.closed()
	close(release)
	if r, b := busy.reply("GET"); b != "GET /busy " || !r.Close {
		t.Errorf("%v %q", r, b)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	ours, theirs := net.Pipe()
	srv.ServeConn(theirs)
	if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a connection after Shutdown: %v", err)
	}
}

func TestCloseInterruptsEverything(t *testing.T) {
	waiting, seen := make(chan struct{}), make(chan time.Time, 1)
	addr, srv := start(t, settings(waitGone(t, waiting, seen)))
	idle, busy := dial(t, addr), dial(t, addr)
	busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-waiting
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	<-seen
	idle.closed()
	busy.closed()
	if s := srv.Stats(); s != (h1.Stats{}) {
		t.Errorf("%+v", s)
	}
}

func TestPanicEndsTheConnectionOnly(t *testing.T) {
	var ended, told atomic.Int32
	var r refusals
	s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if ctx.UserValue("secret") != nil || ctx.Response.StatusCode() != 200 {
			t.Error("another request's state")
		}
		if string(ctx.Path()) != "/panic" {
			echo(ctx, f)
			return
		}
		ctx.SetUserValue("secret", closer(func() { ended.Add(1) }))
		ctx.SetStatusCode(418)
		panic("x")
	})
	s.Panicked = func(v any, stack []byte) {
		if v == "x" && strings.Contains(string(stack), "TestPanic") {
			told.Add(1)
		}
	}
	s.Refused = r.add
	addr, srv := start(t, s)
	for range 10 {
		for _, rest := range []string{"\r\n", "Content-Length: 5\r\n\r\nab"} {
			c := dial(t, addr)
			c.send("POST /panic HTTP/1.1\r\nHost: a\r\n%s", rest)
			if r, b := c.reply("POST"); r.StatusCode != 500 || !r.Close || !strings.Contains(b, `"internal"`) {
				t.Errorf("%v %q", r, b)
			}
			c.Close()
			c = dial(t, addr)
			c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if r, b := c.reply("GET"); r.StatusCode != 200 || b != "GET / " {
				t.Errorf("%v %q", r, b)
			}
			c.Close()
		}
	}
	eventually(t, "all connections gone", func() bool { return srv.Stats().Open == 0 })
	if ended.Load() != 20 || told.Load() != 20 || strings.Count(r.String(), "internal") != 20 {
		t.Errorf("%d exchanges ended, told %d times, refusals %s", ended.Load(), told.Load(), &r)
	}
}

func TestTimeoutErrorOfStockHandlers(t *testing.T) {
	release, late := make(chan struct{}), make(chan struct{})
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		go func() {
			<-release
			ctx.SetBodyString("too late " + string(f.RawTarget())) // still its own to use
			close(late)
		}()
		ctx.TimeoutError("took too long")
	}))
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if r, b := c.reply("GET"); r.StatusCode != 408 || b != "took too long" || !r.Close {
		t.Errorf("%v %q", r, b)
	}
	c.closed()
	close(release)
	<-late
}

func TestUpdateAppliesFromTheNextRequest(t *testing.T) {
	addr, srv := start(t, settings(echo))
	c := dial(t, addr)
	c.send("GET /%s HTTP/1.1\r\nHost: a\r\n\r\n", strings.Repeat("x", 100))
	if r, _ := c.reply("GET"); r.StatusCode != 200 {
		t.Errorf("%v", r)
	}
	s := settings(echo)
	s.Limits.URI = 50
	srv.Update(s)
	c.send("GET /%s HTTP/1.1\r\nHost: a\r\n\r\n", strings.Repeat("x", 100))
	if r, _ := c.reply("GET"); r.StatusCode != 414 {
		t.Errorf("%v", r)
	}
}

func TestRequestAsTheHandlerSeesIt(t *testing.T) {
	addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		h := &ctx.Request.Header
		var raw []string
		f.EachField(func(n, v []byte) bool { raw = append(raw, string(n)+"="+string(v)); return len(raw) < 8 })
		if s := strings.Join(raw, "|"); s != `hOST=A.test|connection=keep-alive, x-y|COOKIE=b="q q"; =d|X-b=1|x-B=2|Trailer=X|Cookie=e=f|te=trailers` {
			t.Errorf("raw fields %s", s)
		}
		for _, hidden := range []string{"Connection", "Trailer", "Content-Length", "Transfer-Encoding"} {
			if v := h.Peek(hidden); len(v) > 0 {
				t.Errorf("%s: %q", hidden, v)
			}
		}
		if string(h.Host()) != "A.test" || len(h.PeekAll("X-B")) != 2 || string(h.Cookie("e")) != "f" || f.Protocol() != "HTTP/1.1" ||
			string(ctx.RequestURI()) != "/a%2Fb?c" || string(f.RawTarget()) != "http://A.test/a%2Fb?c" || ctx.RemoteAddr().String() == "" ||
			f.(interface{ Peer() netip.AddrPort }).Peer().String() != ctx.RemoteAddr().String() {
			t.Errorf("%s", h)
		}
	}))
	c := dial(t, addr)
	c.send("GET http://A.test/a%%2Fb?c HTTP/1.1\r\nhOST: A.test\r\nconnection: keep-alive, x-y\r\nCOOKIE: b=\"q q\"; =d\r\nX-b: 1\r\nx-B: 2\r\nTrailer: X\r\nCookie: e=f\r\nte: trailers\r\n%s", "Last: x\r\n\r\n")
	c.reply("GET")
}

func TestDescriptorsAreGivenBack(t *testing.T) {
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return 0 // not Linux: nothing to count
		}
		return len(list)
	}
	addr, srv := start(t, settings(echo))
	dial(t, addr).Close()
	eventually(t, "gone", func() bool { return srv.Stats().Open == 0 })
	before := count()
	for i := range 300 {
		c := dial(t, addr)
		c.send("%s", []string{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/9\r\n\r\n", "GE", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"}[i%4])
		c.Close()
	}
	eventually(t, "gone", func() bool { return srv.Stats().Open == 0 && count() <= before+2 })
}

// TestShutdownServesWhoHasJustCome: a client that is connected and has not asked
// yet gets its answer; after Retire one that connects does, too.
func TestShutdownServesWhoHasJustCome(t *testing.T) {
	addr, srv := start(t, settings(echo))
	first := dial(t, addr)
	eventually(t, "accepted", func() bool { return srv.Stats().Open == 1 })
	srv.Retire()
	second := dial(t, addr)
	eventually(t, "accepted", func() bool { return srv.Stats().Open == 2 })
	done := make(chan error)
	go func() { done <- srv.Shutdown(context.Background()) }()
	for _, c := range []*client{first, second} {
		c.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
		if r, b := c.reply("GET"); b != "GET /late " || !r.Close {
			t.Errorf("%v %q", r, b)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
