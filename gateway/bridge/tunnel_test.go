package bridge_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/bridge"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// tunnelling are settings for a bridge whose WebSockets are what run does.
func tunnelling(r *refusals, run func(client net.Conn)) bridge.Settings {
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
	})
	s.WebSockets, s.Refused = true, r.add
	return s
}

// echoes what the client says until it ends its side, and then ends ours.
func echoes(client net.Conn) {
	_, _ = io.Copy(struct{ io.Writer }{client}, struct{ io.Reader }{client}) // the tests see what came
	_ = client.(interface{ CloseWrite() error }).CloseWrite()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func TestTunnel(t *testing.T) {
	q := startQUIC(t, tunnelling(new(refusals), func(client net.Conn) {
		echoes(client)
		if client.LocalAddr() == nil || client.RemoteAddr() == nil || client.Close() != nil || client.SetDeadline(time.Time{}) != nil {
			t.Error("it is no connection")
		}
	}))
	c := q.client()
	s := q.send(c, connect())
	_, _ = s.Write([]byte("early words ")) // before the answer
	resp, err := s.ReadResponse()
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Sec-WebSocket-Protocol") != "chat" || resp.Header.Get("Date") == "" {
		t.Fatalf("%v, %v", resp, err)
	}
	for _, name := range []string{"Upgrade", "Connection", "Sec-WebSocket-Accept", "Content-Length", "Content-Type"} {
		if v, is := resp.Header[http.CanonicalHeaderKey(name)]; is {
			t.Errorf("%s: %s", name, v)
		}
	}
	if n := q.bridge.Tunnels(); n > 1 {
		t.Errorf("%d tunnels", n)
	}
	large := strings.Repeat("0123456789abcdef", 1<<16) // all windows are smaller
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = io.WriteString(s, large)
		_ = s.Close()
	})
	all, err := io.ReadAll(s)
	sending.Wait()
	if err != nil || string(all) != "early words "+large {
		t.Errorf("%d bytes, %v", len(all), err)
	}
	get := connect()
	get.Method, get.Proto = "GET", "" // the connection goes on
	s, _ = q.open(c, get)
	if b, err := io.ReadAll(s); string(b) != "no upgrade" {
		t.Errorf("%q, %v", b, err)
	}
	eventually(t, "the tunnel is counted out", func() bool { return q.bridge.Tunnels() == 0 && q.bridge.Busy() == 0 })
}

// The handler sees the handshake that it would see over HTTP/1, with a key of
// ours and none of the client's, and its refusal is a reply like any other.
func TestTunnelLooksLikeHTTP1(t *testing.T) {
	seen := make(chan string, 1)
	set := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
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
		ctx.SetStatusCode(401)
		ctx.SetBodyString("who are you?")
		seen <- string(ctx.Method()) + " " + string(ctx.RequestURI()) + " " + f.Protocol() + " " + b.String()
	})
	set.WebSockets = true
	q := startQUIC(t, set)
	r := connect()
	r.Header = http.Header{"Sec-Websocket-Key": {"mine"}, "Sec-Websocket-Accept": {"mine"}, "Sec-Websocket-Version": {"13"}, "Cookie": {"a=b"}, "Accept-Encoding": {"br"}}
	s, resp := q.open(q.client(), r)
	if b, err := io.ReadAll(s); resp.StatusCode != 401 || string(b) != "who are you?" || err != nil {
		t.Errorf("%d %q, %v", resp.StatusCode, b, err)
	}
	const want = "GET /chat HTTP/3.0 Host=a.test Accept-Encoding=br Cookie=a=b Sec-Websocket-Version=13 Connection=Upgrade Upgrade=websocket Sec-WebSocket-Key=KEY "
	if got := strings.ReplaceAll(<-seen, "User-Agent=quic-go HTTP/3 ", ""); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestHostileTunnels(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(r *http.Request)
		off  bool
		want string
	}{
		"an unknown protocol": {func(r *http.Request) { r.Proto = "connect-udp" }, false, "501 protocol_refused"},
		"in upper case":       {func(r *http.Request) { r.Proto = "WebSocket" }, false, "501 protocol_refused"},
		"switched off":        {func(*http.Request) {}, true, "501 protocol_refused"},
		"content-length":      {func(r *http.Request) { r.Header.Set("Content-Length", "5") }, false, "400 bad_content_length"},
		"no content-length":   {func(r *http.Request) { r.Header.Set("Content-Length", "0") }, false, "400 bad_content_length"},
		"CONNECT":             {func(r *http.Request) { r.Proto = ""; r.URL.Path = "" }, false, "501 method_refused"},
	} {
		t.Run(name, func(t *testing.T) {
			r := new(refusals)
			set := tunnelling(r, func(net.Conn) { t.Error("there is a tunnel") })
			set.WebSockets = !c.off
			q := startQUIC(t, set)
			req := connect()
			c.edit(req)
			head := requestHead(req)
			resp, body := q.raw(head)
			eventually(t, "the refusal is counted", func() bool { return r.String() != "" })
			if got := resp + " " + r.String(); got != c.want || !strings.Contains(body, r.String()) {
				t.Errorf("got %s, want %s: %s", got, c.want, body)
			}
		})
	}
}

// A client that resets its stream is gone for the tunnel, and one whose server
// breaks off is told by H3_REQUEST_CANCELLED. Neither is taken for a flood.
func TestTunnelsAreReset(t *testing.T) {
	ended := make(chan error, 1)
	q := startQUIC(t, tunnelling(new(refusals), func(client net.Conn) {
		b := make([]byte, 1)
		_, err := client.Read(b)
		switch {
		case err == nil && b[0] == 'b':
			err = io.ErrUnexpectedEOF // break off
		case err == nil:
			_ = client.(interface{ CloseWrite() error }).CloseWrite() // and hear no more
		}
		ended <- err
	}))
	c := q.client()
	const cancelled = quic.StreamErrorCode(http3.ErrCodeRequestCanceled)
	for range 250 {
		s, _ := q.open(c, connect())
		s.CancelWrite(cancelled)
		s.CancelRead(cancelled)
		if err := <-ended; err == nil || err == io.EOF {
			t.Fatalf("%v", err)
		}
	}
	if n := q.floods.Load(); n > 0 {
		t.Error("taken for a flood")
	}
	s, _ := q.open(c, connect())
	_, _ = s.Write([]byte("b"))
	var e *http3.Error
	if _, err := io.ReadAll(s); !errors.As(err, &e) || e.ErrorCode != http3.ErrCodeRequestCanceled || !e.Remote {
		t.Errorf("%v", err)
	}
	<-ended
	eventually(t, "nobody reads the other way", func() bool {
		_, err := s.Write([]byte("x"))
		return errors.As(err, &e) && e.ErrorCode == http3.ErrCodeRequestCanceled
	})
	s, _ = q.open(c, connect())
	_, _ = s.Write([]byte("e"))
	if b, err := io.ReadAll(s); len(b) > 0 || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	<-ended
	eventually(t, "it is told that nobody listens", func() bool {
		_, err := s.Write([]byte("x"))
		return errors.As(err, &e) && e.ErrorCode == http3.ErrCodeNoError
	})
	eventually(t, "all are over", func() bool { return q.bridge.Tunnels() == 0 })
}

// A connection that breaks ends its tunnels.
func TestTunnelsOfALostConnection(t *testing.T) {
	ended := make(chan error, 1)
	q := startQUIC(t, tunnelling(new(refusals), func(client net.Conn) {
		_, err := io.Copy(io.Discard, struct{ io.Reader }{client})
		ended <- err
	}))
	c := q.client()
	q.open(c, connect())
	_ = c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	if err := <-ended; err == nil {
		t.Error("it looks complete")
	}
}

// aborter is a func to be called.
type aborter func()

func (a aborter) Abort() { a() }

// Behind the end of its side a client that goes is seen by nobody who reads.
func TestTunnelsHearOfGoneClients(t *testing.T) {
	here, late, gone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	q := startQUIC(t, tunnelling(new(refusals), func(client net.Conn) {
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
		gone <- struct{}{}
	}))
	for name, leave := range map[string]func(*http3.ClientConn, *http3.RequestStream){
		"it listens no more": func(_ *http3.ClientConn, s *http3.RequestStream) {
			s.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
		},
		"its connection ends": func(c *http3.ClientConn, _ *http3.RequestStream) {
			_ = c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		},
	} {
		for _, before := range []bool{false, true} {
			c := q.client()
			s, _ := q.open(c, connect())
			_ = s.Close()
			<-here
			if before {
				leave(c, s)
				time.Sleep(20 * time.Millisecond) // so that it has come, most likely
				late <- struct{}{}
			} else {
				late <- struct{}{}
				leave(c, s)
			}
			select {
			case <-gone:
			case <-time.After(30 * time.Second):
				t.Fatalf("%s, before: %v: nobody was told", name, before)
			}
		}
	}
	eventually(t, "all tunnels have ended", func() bool { return q.bridge.Tunnels() == 0 })
}

// A side that we have ended is no sign of a client that has gone.
func TestOurOwnEndIsNoGoing(t *testing.T) {
	said := make(chan string, 1)
	q := startQUIC(t, tunnelling(new(refusals), func(client net.Conn) {
		client.(interface{ OnGone(exchange.Aborter) }).OnGone(aborter(func() { t.Error("it has gone") }))
		_ = client.(interface{ CloseWrite() error }).CloseWrite()
		b, err := io.ReadAll(struct{ io.Reader }{client})
		said <- string(b)
		if err != nil {
			t.Error(err)
		}
	}))
	s, _ := q.open(q.client(), connect())
	if b, err := io.ReadAll(s); len(b) > 0 || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	_, _ = s.Write([]byte("last words"))
	_ = s.Close()
	if got := <-said; got != "last words" {
		t.Errorf("%q", got)
	}
}

// Deadlines of either side interrupt, whether set before or meanwhile, and what
// a write has sent by then is told: what goes on makes one stream.
func TestTunnelDeadlines(t *testing.T) {
	const size = 1 << 20
	interrupted := make(chan struct{})
	q := startQUIC(t, tunnelling(new(refusals), func(client net.Conn) {
		late := func(what string, err error) {
			if timeout, _ := err.(net.Error); timeout == nil || !timeout.Timeout() {
				t.Errorf("%s: %v", what, err)
			}
		}
		b := make([]byte, 100)
		_ = client.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // in the middle of a frame's head
		_, err := client.Read(b)
		late("read", err)
		_ = client.SetReadDeadline(time.Time{})
		var other sync.WaitGroup
		other.Go(func() {
			time.Sleep(50 * time.Millisecond) // so that it waits, most likely
			_ = client.SetDeadline(time.Unix(1, 0))
		})
		_, err = client.Read(b)
		late("read", err)
		other.Wait()
		_ = client.SetDeadline(time.Time{})
		interrupted <- struct{}{}
		if n, err := io.ReadFull(client, b); n != len(b) || err != nil || string(b) != strings.Repeat("x", len(b)) {
			t.Errorf("%q, %v", b[:n], err)
		}
		data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		_ = client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := client.Write(data)
		late("write", err)
		_ = client.SetWriteDeadline(time.Time{})
		interrupted <- struct{}{}
		if m, err := client.Write(data[n:]); n+m != size || err != nil {
			t.Errorf("%d and %d bytes, %v", n, m, err)
		}
		_ = client.(interface{ CloseWrite() error }).CloseWrite()
		if client.(interface{ CloseWrite() error }).CloseWrite() == nil {
			t.Error("closed twice")
		}
	}))
	data := append(quicvarint.Append([]byte{0}, 100), bytes.Repeat([]byte("x"), 100)...)
	s := q.rawStream(append(requestHead(connect()), data[0])) // the head ends, and DATA begins
	<-interrupted
	_, _ = s.Write(data[1:])
	<-interrupted
	var got []byte
	r := quicvarint.NewReader(s)
	for {
		kind, err := quicvarint.Read(r)
		if err == io.EOF {
			break
		}
		n, err2 := quicvarint.Read(r)
		payload := make([]byte, n)
		_, err3 := io.ReadFull(r, payload)
		if err := errors.Join(err, err2, err3); err != nil {
			t.Fatal(err)
		}
		if kind == 0 {
			got = append(got, payload...)
		}
	}
	if !bytes.Equal(got, bytes.Repeat([]byte("0123456789abcdef"), size/16)) {
		t.Errorf("%d bytes", len(got))
	}
}

// Whoever waits for a tunnel is told when there is none.
func TestNoTunnelAfterAll(t *testing.T) {
	var called atomic.Int32
	set := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		ctx.SetStatusCode(101)
		f.Upgrade(func(client net.Conn, _ []byte) {
			if client == nil {
				called.Add(1)
			}
		})
		ctx.SetStatusCode(403)
		switch string(ctx.Path()) {
		case "/cut":
			f.Cut()
		case "/panic":
			panic("a test's")
		}
	})
	set.WebSockets = true
	q := startQUIC(t, set)
	c := q.client()
	if _, resp := q.open(c, connect()); resp.StatusCode != 403 {
		t.Errorf("%d", resp.StatusCode)
	}
	r := connect()
	r.URL.Path = "/cut"
	if _, err := q.send(c, r).ReadResponse(); err == nil {
		t.Error("it is not cut")
	}
	r.URL.Path = "/panic"
	if _, resp := q.open(c, r); resp.StatusCode != 500 {
		t.Errorf("%d", resp.StatusCode)
	}
	eventually(t, "all have heard of it", func() bool { return called.Load() == 3 })
}

type aborted chan struct{}

func (a aborted) Abort() { close(a) }

// Tunnels of a connection that is to end are told, whether they were there
// before or not.
func TestTunnelsAreToldOfTheEnd(t *testing.T) {
	set := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		ctx.SetStatusCode(101)
		f.Upgrade(func(client net.Conn, _ []byte) {
			told := make(aborted)
			f.(exchange.Drainer).OnDrain(told)
			_, _ = client.Write([]byte("hi"))
			<-told
			_, _ = client.Write([]byte(" bye"))
			_ = client.(interface{ CloseWrite() error }).CloseWrite()
		})
	})
	set.WebSockets = true
	q := startQUIC(t, set)
	c := q.client()
	for range 2 {
		s, _ := q.open(c, connect())
		hi := make([]byte, 2)
		if _, err := io.ReadFull(s, hi); err != nil {
			t.Fatal(err)
		}
		q.ending.Store(true)
		if b, err := io.ReadAll(s); string(hi)+string(b) != "hi bye" || err != nil {
			t.Errorf("%s%s, %v", hi, b, err)
		}
	}
}
