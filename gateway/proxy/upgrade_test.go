package proxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxy"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// echoing is a WebSocket server that greets first and then echoes.
func echoing(t testing.TB) string {
	return handle(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Deny") != "" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(16 << 20)
		c.Write(r.Context(), websocket.MessageText, []byte("welcome"))
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	})
}

func TestWebSocket(t *testing.T) {
	up := newUpstreamOf(t, echoing(t))
	var g *gateway
	var c *websocket.Conn
	stretched(t, 100*time.Millisecond, func(t *testing.T, timeout time.Duration) (err error) {
		g = start(t, proxy.Settings{Backends: []proxy.Backend{{Upstream: up, Weight: 1}}, Timeouts: proxy.Timeouts{Request: timeout, Idle: time.Minute}})
		if c, _, err = websocket.Dial(t.Context(), "ws://"+g.addr+"/", nil); err != nil {
			return err
		}
		time.Sleep(timeout * 3 / 2) // beyond the request's time
		c.SetReadLimit(16 << 20)
		_, b, err := c.Read(t.Context())
		if string(b) != "welcome" {
			c.CloseNow()
			return fmt.Errorf("%q, %w", b, err)
		}
		return nil
	})
	defer c.CloseNow()
	expect := func(want []byte) {
		t.Helper()
		_, b, err := c.Read(t.Context())
		if err != nil || !bytes.Equal(b, want) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	}
	for range 100 {
		c.Write(t.Context(), websocket.MessageText, []byte("ping"))
		expect([]byte("ping"))
	}
	large := bytes.Repeat([]byte("large"), 1<<20)
	c.Write(t.Context(), websocket.MessageBinary, large)
	expect(large)
	eventually(t, "one connection is counted while the tunnel is open", func() bool { return up.Breaker().Connections() == 1 })
	if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("closing handshake: %v", err)
	}
	f := g.await(t, 1)
	if !f.stream || f.upstream.Status != 101 || f.upstream.Protocol != "http/1.1" {
		t.Errorf("%+v", f)
	}
	if n := int64(len(large)); f.tunnel.Received < n+100*4 || f.tunnel.Sent < n+100*4 || f.tunnel.Sent > n+4096 {
		t.Errorf("%+v went through", f.tunnel)
	}
	if f.refusal != nil {
		t.Errorf("an orderly end is taken for %v", f.refusal)
	}
	if n, r := up.Breaker().Connections(), up.Breaker().Requests(); n != 0 || r != 0 {
		t.Errorf("%d connections, %d requests are left", n, r)
	}
}

func TestUpgradeRefusedByTheUpstream(t *testing.T) {
	g := start(t, proxy.Settings{}, echoing(t))
	_, resp, err := websocket.Dial(t.Context(), "ws://"+g.addr+"/", &websocket.DialOptions{HTTPHeader: http.Header{"X-Deny": {"1"}}})
	if err == nil || resp == nil || resp.StatusCode != 403 {
		t.Fatalf("%v, %v", resp, err)
	}
	if b, _ := io.ReadAll(resp.Body); string(b) != "no\n" {
		t.Errorf("body %q", b)
	}
}

const upgradeRequest = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n"

// chat accepts any upgrade and then does as f says.
func chat(t testing.TB, f func(c net.Conn, r *bufio.Reader)) string {
	return raw(t, func(_ int, c net.Conn, r *bufio.Reader) {
		head := readHead(r)
		if head == "" {
			return // given up before it was used
		}
		if !strings.Contains(head, "\r\nConnection: Upgrade\r\nUpgrade: chat\r\n") {
			t.Errorf("got %q", head)
		}
		// Its first words come in the same packet as the head.
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nhi ")
		f(c, r)
	})
}

func TestTunnelHalfClose(t *testing.T) {
	up := chat(t, func(c net.Conn, r *bufio.Reader) {
		b, _ := io.ReadAll(r) // until the client has said all
		io.WriteString(c, strings.ToUpper(string(b)))
	})
	g := start(t, proxy.Settings{}, up)
	c, r := dial(t, g.addr, "%s", upgradeRequest+"early ")
	if head := readHead(r); !strings.HasPrefix(head, "HTTP/1.1 101") || !strings.Contains(head, "\r\nUpgrade: chat\r\n") {
		t.Fatalf("got %q", head)
	}
	io.WriteString(c, "words")
	c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(r); err != nil || string(b) != "hi EARLY WORDS" {
		t.Errorf("%q, %v", b, err)
	}
	g.await(t, 1)
}

func TestTunnelIdle(t *testing.T) {
	stretched(t, 150*time.Millisecond, func(t *testing.T, idle time.Duration) error {
		ended := make(chan struct{})
		up := chat(t, func(c net.Conn, r *bufio.Reader) {
			io.Copy(io.Discard, r)
			close(ended)
		})
		g := start(t, proxy.Settings{Timeouts: proxy.Timeouts{Idle: idle}}, up)
		c, r := dial(t, g.addr, "%s", upgradeRequest)
		if head := readHead(r); !strings.HasPrefix(head, "HTTP/1.1 101") {
			return fmt.Errorf("got %q", head)
		}
		for range 5 { // one busy direction keeps both alive
			time.Sleep(idle * 2 / 5)
			io.WriteString(c, "x")
		}
		select {
		case <-ended:
			return errors.New("a busy tunnel was ended")
		default:
		}
		<-ended
		io.ReadAll(r)
		if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != reason.TunnelIdle || f.tunnel.Received != 5 || f.tunnel.Sent != 3 {
			return fmt.Errorf("%w, %+v", f.refusal, f.tunnel) // it may have ended as the last byte came
		}
		return nil
	})
}

func TestTunnelEndsWithEitherSide(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		ended := make(chan struct{})
		up := chat(t, func(_ net.Conn, r *bufio.Reader) {
			io.Copy(io.Discard, r)
			close(ended)
		})
		g := start(t, proxy.Settings{}, up)
		c, r := dial(t, g.addr, "%s", upgradeRequest)
		readHead(r)
		io.ReadFull(r, make([]byte, len("hi "))) // or writing that would be told of the reset, and reading of an end
		socket(c).SetLinger(0)
		socket(c).Close()
		<-ended
		if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != reason.ClientGone {
			t.Errorf("%v", f.refusal)
		}
	})
	t.Run("upstream", func(t *testing.T) {
		up := chat(t, func(c net.Conn, _ *bufio.Reader) {
			socket(c).SetLinger(0)
			socket(c).Close()
		})
		g := start(t, proxy.Settings{}, up)
		_, r := dial(t, g.addr, "%s", upgradeRequest)
		readHead(r)
		io.ReadAll(r) // ends, one way or the other
		if f := g.await(t, 1); f.refusal == nil || f.refusal.Reason != reason.UpstreamReset {
			t.Errorf("%v", f.refusal)
		}
	})
}

// While a server shuts down, tunnels end too.
func TestTunnelEndsWithTheServer(t *testing.T) {
	up := chat(t, func(_ net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
	g := start(t, proxy.Settings{Timeouts: proxy.Timeouts{Idle: time.Hour}}, up)
	_, r := dial(t, g.addr, "%s", upgradeRequest)
	readHead(r)
	// The test's cleanup closes the server under the open tunnel; goleak and
	// the upstream's own cleanup see to it that nothing stays behind.
}

// A plugin may answer otherwise although the endpoint has switched: nothing of
// the endpoint's connection is left then.
func TestTunnelThatIsNotWanted(t *testing.T) {
	closed := make(chan struct{})
	up := newUpstreamOf(t, chat(t, func(_ net.Conn, r *bufio.Reader) {
		io.Copy(io.Discard, r)
		close(closed)
	}))
	g := &gateway{ended: make(chan struct{}, 1)}
	p, err := proxy.New(proxy.Settings{Route: "test", Observer: g, Backends: []proxy.Backend{{Upstream: up, Weight: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	g.serve(t, func(c *fiber.Ctx) error {
		err := c.Next()
		c.Status(fiber.StatusForbidden)
		return err
	}, p.Handle)
	_, r := dial(t, g.addr, "%s", upgradeRequest)
	if head := readHead(r); !strings.HasPrefix(head, "HTTP/1.1 403") {
		t.Fatalf("got %q", head)
	}
	<-closed
	g.await(t, 1)
	if n, r := up.Breaker().Connections(), up.Breaker().Requests(); n != 0 || r != 0 {
		t.Errorf("%d connections, %d requests are left", n, r)
	}
}
