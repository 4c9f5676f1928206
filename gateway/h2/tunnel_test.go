package h2_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2"
)

// extended is the head of an extended CONNECT for a WebSocket and what else is
// given.
func extended(more ...string) []string {
	return append([]string{
		":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a.test", ":path", "/chat",
		"sec-websocket-version", "13", "origin", "http://a.test",
	}, more...)
}

// tunnelling are settings for a server whose WebSockets are what run does.
func tunnelling(r *refusals, run func(client net.Conn)) h2.Settings {
	s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if _, ok := f.WantsUpgrade(); !ok {
			ctx.SetBodyString("no upgrade")
			return
		}
		ctx.SetStatusCode(101)
		ctx.Response.Header.Set("Upgrade", "websocket")
		ctx.Response.Header.Set("Sec-WebSocket-Accept", "x")
		ctx.Response.Header.Set("Sec-WebSocket-Protocol", "chat")
		f.Upgrade(func(client net.Conn, early []byte) {
			if len(early) > 0 {
				panic("what has come is in the stream")
			}
			if client != nil {
				run(client)
			}
		})
	}, r)
	s.WebSockets = true
	return s
}

// echoes what the client says until it ends its side, and then ends ours.
func echoes(client net.Conn) {
	_, _ = io.Copy(struct{ io.Writer }{client}, struct{ io.Reader }{client}) // the tests see what came
	_ = client.(interface{ CloseWrite() error }).CloseWrite()
}

func TestTunnel(t *testing.T) {
	addr, srv := start(t, tunnelling(new(refusals), func(client net.Conn) {
		echoes(client)
		if client.LocalAddr() == nil || client.RemoteAddr() == nil || client.Close() != nil {
			t.Error("it is no connection")
		}
	}))
	c := dial(t, addr)
	c.open(1, false, extended()...)
	_ = c.WriteData(1, false, []byte("early ")) // before the answer
	_ = c.WriteDataPadded(1, false, []byte("words"), make([]byte, 9))
	_ = c.WriteData(1, true, nil)
	a := c.await(1)
	if a.status != "200" || a.body != "early words" || !a.ended || a.header["sec-websocket-protocol"] != "chat" {
		t.Errorf("%+v", a)
	}
	for _, name := range []string{"upgrade", "connection", "sec-websocket-accept", "content-length"} {
		if v, is := a.header[name]; is {
			t.Errorf("%s: %s", name, v)
		}
	}
	c.open(3, true, get()...) // the connection goes on
	if a := c.await(3); a.body != "no upgrade" {
		t.Errorf("%+v", a)
	}
	eventually(t, "the tunnel is counted out", func() bool { s := srv.Stats(); return s.Tunnels == 0 && s.Idle == 1 })
}

// The handler sees the handshake that it would see over HTTP/1, with a key of
// ours and none of the client's.
func TestTunnelLooksLikeHTTP1(t *testing.T) {
	seen := make(chan string, 1)
	s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		var b strings.Builder
		f.EachField(func(name, value []byte) bool {
			if string(name) == "Sec-WebSocket-Key" && len(value) == 24 {
				value = []byte("KEY")
			}
			b.WriteString(string(name) + "=" + string(value) + " ")
			return true
		})
		protocol, ok := f.WantsUpgrade()
		if !ok || string(protocol) != "websocket" || f.HasBody() || !f.BodyDone() || ctx.IsBodyStream() || f.Whole() != nil {
			t.Errorf("%q, %v; a body: %v", protocol, ok, f.HasBody())
		}
		f.InterruptBody() // means nothing here
		seen <- string(ctx.Method()) + " " + string(ctx.RequestURI()) + " " + f.Protocol() + " " + b.String()
	}, new(refusals))
	s.WebSockets = true
	addr, _ := start(t, s)
	c := dial(t, addr)
	c.open(1, false, extended("sec-websocket-key", "mine", "sec-websocket-accept", "mine", "cookie", "a=b")...)
	_ = c.WriteData(1, false, []byte("nobody reads this"))
	if a := c.await(1); a.status != "200" || !a.ended { // a reply like any other
		t.Errorf("%+v", a)
	}
	const want = "GET /chat HTTP/2.0 Host=a.test sec-websocket-version=13 origin=http://a.test cookie=a=b Connection=Upgrade Upgrade=websocket Sec-WebSocket-Key=KEY "
	if got := <-seen; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestHostileTunnels(t *testing.T) {
	without := func(name string) (f []string) {
		all := extended()
		for i := 0; i < len(all); i += 2 {
			if all[i] != name {
				f = append(f, all[i], all[i+1])
			}
		}
		return f
	}
	with := func(name, value string) []string {
		f := extended()
		for i := 0; i < len(f); i += 2 {
			if f[i] == name {
				f[i+1] = value
			}
		}
		return f
	}
	for name, c := range map[string]struct {
		fields []string
		want   string
	}{
		"another method":      {with(":method", "GET"), "reset bad_pseudo_header"},
		"POST":                {with(":method", "POST"), "reset bad_pseudo_header"},
		"no method":           {without(":method"), "reset bad_pseudo_header"},
		"no path":             {without(":path"), "reset bad_pseudo_header"},
		"no scheme":           {without(":scheme"), "reset bad_pseudo_header"},
		"no authority":        {without(":authority"), "400 bad_host"},
		"another scheme":      {with(":scheme", "ws"), "reset bad_pseudo_header"},
		"two protocols":       {append([]string{":protocol", "websocket"}, extended()...), "reset bad_pseudo_header"},
		"behind the fields":   {append(without(":protocol"), ":protocol", "websocket"), "reset bad_pseudo_header"},
		"an unknown protocol": {with(":protocol", "connect-udp"), "501 protocol_refused"},
		"no protocol":         {with(":protocol", ""), "501 protocol_refused"},
		"a line in it":        {with(":protocol", "websocket\r\nx: y"), "reset bad_header_value"},
		"a list":              {with(":protocol", "websocket, h2c"), "501 protocol_refused"},
		"content-length":      {extended("content-length", "5"), "400 bad_content_length"},
		"no content-length":   {extended("content-length", "0"), "400 bad_content_length"},
		"an upgrade besides":  {extended("upgrade", "websocket"), "reset connection_header"},
		"a bad path":          {with(":path", "chat"), "400 bad_target"},
		"another host":        {extended("host", "b.test"), "400 authority_differs"},
	} {
		t.Run(name, func(t *testing.T) {
			r := new(refusals)
			addr, _ := start(t, tunnelling(r, func(net.Conn) { t.Error("there is a tunnel") }))
			cl := dial(t, addr)
			cl.open(1, false, c.fields...)
			a := cl.await(1)
			got := a.status
			if a.wasReset && a.status == "" {
				got = "reset"
			}
			eventually(t, "the refusal is counted", func() bool { return r.String() != "" })
			if got += " " + r.String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// What is not offered is unknown; what is not offered any more is refused.
func TestTunnelsSwitchedOff(t *testing.T) {
	r := new(refusals)
	s := tunnelling(r, echoes)
	addr, srv := start(t, s)
	before := dial(t, addr)
	before.open(1, false, extended()...)
	_ = before.WriteData(1, true, []byte("x"))
	if a := before.await(1); a.body != "x" {
		t.Fatalf("%+v", a)
	}
	s.WebSockets = false
	srv.Update(s)
	before.open(3, false, extended()...)
	if a := before.await(3); a.status != "501" {
		t.Errorf("%+v", a)
	}
	after := dial(t, addr)
	after.open(1, false, extended()...)
	if a := after.await(1); !a.wasReset || a.reset != http2.ErrCodeProtocol {
		t.Errorf("%+v", a)
	}
	eventually(t, "both are counted", func() bool { return r.String() == "protocol_refused bad_pseudo_header" })
}

func TestTunnelsAreOffered(t *testing.T) {
	for _, on := range []bool{true, false} {
		s := quick(ok)
		s.WebSockets = on
		addr, _ := start(t, s)
		c := dial(t, addr)
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		v, is := f.(*http2.SettingsFrame).Value(http2.SettingID(8))
		if is != on || on && v != 1 {
			t.Errorf("%v: %v, %d", on, is, v)
		}
	}
}

// A client that resets its stream is gone for the tunnel, and one whose server
// breaks off is told by CANCEL. Neither is taken for a flood.
func TestTunnelsAreReset(t *testing.T) {
	ended := make(chan error, 1)
	addr, _ := start(t, tunnelling(new(refusals), func(client net.Conn) {
		b := make([]byte, 1)
		_, err := client.Read(b)
		if err == nil && b[0] == 'b' {
			err = io.ErrUnexpectedEOF // break off
		}
		ended <- err
	}))
	c := dial(t, addr)
	id := uint32(1)
	open := func() {
		t.Helper()
		c.open(id, false, extended()...)
		for {
			f, err := c.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.Header().Type == http2.FrameHeaders && f.Header().StreamID == id {
				return
			}
			if g, is := f.(*http2.GoAwayFrame); is {
				t.Fatalf("taken for a flood: %v", g)
			}
		}
	}
	for range 300 {
		open()
		_ = c.WriteRSTStream(id, http2.ErrCodeCancel)
		if err := <-ended; err == nil || err == io.EOF {
			t.Fatalf("%v", err)
		}
		id += 2
	}
	open()
	_ = c.WriteData(id, false, []byte("b"))
	if a := c.await(id); !a.wasReset || a.reset != http2.ErrCodeCancel {
		t.Errorf("%+v", a)
	}
	<-ended
	id += 2
	open()
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.fields("a", "b"), EndHeaders: true, EndStream: true})
	if a := c.await(id); !a.wasReset || a.reset != http2.ErrCodeProtocol { // there are no trailers
		t.Errorf("%+v", a)
	}
	<-ended
}

type aborter func()

func (a aborter) Abort() { a() }

// Who has no reason to read is told that the client has gone, also late, and not
// once the tunnel has ended.
func TestTunnelsHearOfGoneClients(t *testing.T) {
	here, gone := make(chan struct{}), make(chan bool, 1)
	late := make(chan struct{})
	addr, srv := start(t, tunnelling(new(refusals), func(client net.Conn) {
		if _, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%v", err)
		}
		here <- struct{}{}
		<-late
		told := make(chan struct{})
		client.(interface{ OnGone(exchange.Aborter) }).OnGone(aborter(func() {
			_ = client.SetDeadline(time.Unix(1, 0)) // is allowed
			close(told)
		}))
		<-told
		gone <- true
	}))
	for name, leave := range map[string]func(*raw){
		"a reset": func(c *raw) { _ = c.WriteRSTStream(1, http2.ErrCodeCancel) },
		"an end":  func(c *raw) { c.nc.Close() },
	} {
		for _, before := range []bool{false, true} {
			late = make(chan struct{})
			c := dial(t, addr)
			c.open(1, true, extended()...)
			<-here
			if before {
				leave(c)
				_ = c.WritePing(false, [8]byte{})
				time.Sleep(20 * time.Millisecond) // so that it has come, most likely
				close(late)
			} else {
				close(late)
				leave(c)
			}
			select {
			case <-gone:
			case <-time.After(30 * time.Second):
				t.Fatalf("%s, before: %v: nobody was told", name, before)
			}
			c.nc.Close()
		}
	}
	eventually(t, "all tunnels have ended", func() bool { return srv.Stats().Tunnels == 0 })
}

// Deadlines of either side interrupt, whether set before or meanwhile, and what
// a write has sent by then is told.
func TestTunnelDeadlines(t *testing.T) {
	t.Parallel()
	type step struct {
		n   int
		err error
	}
	steps := make(chan step, 10)
	addr, _ := start(t, tunnelling(new(refusals), func(client net.Conn) {
		do := func(n int, err error) { steps <- step{n, err} }
		_ = client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		do(client.Read(make([]byte, 1)))
		_ = client.SetReadDeadline(time.Time{})
		var other sync.WaitGroup
		other.Go(func() {
			time.Sleep(50 * time.Millisecond) // so that it waits, most likely
			_ = client.SetDeadline(time.Unix(1, 0))
		})
		do(client.Read(make([]byte, 1)))
		other.Wait()
		_ = client.SetDeadline(time.Time{})
		do(client.Write(make([]byte, 10)))
		_ = client.SetWriteDeadline(time.Now().Add(2 * time.Second)) // it writes before that
		do(client.Write(make([]byte, 300)))                          // the window has room for 90
		_ = client.SetWriteDeadline(time.Time{})
		do(client.Write(make([]byte, 210)))
	}))
	c := dial(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
	c.open(1, false, extended()...)
	for i, want := range []step{{0, nil}, {0, nil}, {10, nil}, {90, nil}} {
		got := <-steps
		if timeout, _ := got.err.(net.Error); got.n != want.n || (i != 2) != (timeout != nil && timeout.Timeout()) {
			t.Errorf("step %d: %d, %v", i, got.n, got.err)
		}
	}
	_ = c.WriteWindowUpdate(1, 1000)
	if got := <-steps; got.n != 210 || got.err != nil {
		t.Errorf("%+v", got)
	}
	if a := c.await(1); len(a.body) != 310 || a.reset != http2.ErrCodeCancel {
		t.Errorf("%d bytes, %+v", len(a.body), a.reset)
	}
}

// A deadline that has passed since the last write does not keep the end from
// being said: a client that only listens is none the less to know.
func TestTunnelEndsBehindADeadline(t *testing.T) {
	addr, _ := start(t, tunnelling(new(refusals), func(client net.Conn) {
		_ = client.SetWriteDeadline(time.Unix(1, 0))
		if err := client.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{client}) // until the client has ended its side
	}))
	c := dial(t, addr)
	c.open(1, false, extended()...)
	_ = c.WriteData(1, true, nil)
	if a := c.await(1); !a.ended || a.wasReset && a.reset != http2.ErrCodeNo {
		t.Errorf("%+v", a)
	}
}

// The last reply's writer is told when there is no tunnel.
func TestNoTunnelAfterAll(t *testing.T) {
	var called atomic.Int32
	s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		ctx.SetStatusCode(101)
		f.Upgrade(func(client net.Conn, _ []byte) {
			if client == nil {
				called.Add(1)
			}
		})
		ctx.SetStatusCode(403)
		if string(ctx.Path()) == "/cut" {
			f.Cut()
		}
	}, new(refusals))
	s.WebSockets = true
	addr, _ := start(t, s)
	c := dial(t, addr)
	c.open(1, false, extended()...)
	if a := c.await(1); a.status != "403" {
		t.Errorf("%+v", a)
	}
	f := extended()
	f[9] = "/cut"
	c.open(3, false, f...)
	if a := c.await(3); !a.wasReset {
		t.Errorf("%+v", a)
	}
	eventually(t, "both have heard of it", func() bool { return called.Load() == 2 })
}

type aborted chan struct{}

func (a aborted) Abort() { close(a) }

// Tunnels that are left half-way through a shutdown are told.
func TestTunnelsAreToldOfTheEnd(t *testing.T) {
	s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		ctx.SetStatusCode(101)
		f.Upgrade(func(client net.Conn, _ []byte) {
			told := make(aborted)
			f.(exchange.Drainer).OnDrain(told)
			_, _ = client.Write([]byte("hi"))
			<-told
			_, _ = client.Write([]byte(" bye"))
			_ = client.(interface{ CloseWrite() error }).CloseWrite()
		})
	}, new(refusals))
	s.WebSockets = true
	addr, srv := start(t, s)
	c := dial(t, addr)
	c.open(1, false, extended()...)
	eventually(t, "there is a tunnel", func() bool { return srv.Stats().Tunnels == 1 })
	done := make(chan error, 1)
	go func() { done <- srv.Shutdown(forbearing{t.Context(), time.Now().Add(time.Second)}) }()
	if a := c.await(1); a.body != "hi bye" || !a.ended {
		t.Errorf("%+v", a)
	}
	c.nc.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// forbearing has a deadline, and does not end with it.
type forbearing struct {
	context.Context
	deadline time.Time
}

func (f forbearing) Deadline() (time.Time, bool) { return f.deadline, true }
