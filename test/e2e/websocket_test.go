package e2e

//lint:file-ignore SA1019 The client that is to be used instead refuses the field :protocol.

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
)

// overHTTP2 carries the WebSockets of an ordinary client as streams of HTTP/2
// (RFC 8441): the client makes the handshake of HTTP/1, and is given the answer
// that it expects.
type overHTTP2 struct{ *http2.Transport }

func newOverHTTP2(t *testing.T) overHTTP2 {
	tr := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return overHTTP2{tr}
}

// RoundTrip implements http.RoundTripper.
func (o overHTTP2) RoundTrip(r *http.Request) (*http.Response, error) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if key == "" {
		return o.Transport.RoundTrip(r)
	}
	from, to := io.Pipe()
	// The stream lives longer than the context of its handshake.
	connect, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), http.MethodConnect, r.URL.String(), from)
	if err != nil {
		return nil, err
	}
	connect.Header = r.Header.Clone()
	for _, name := range []string{"Connection", "Upgrade", "Sec-WebSocket-Key"} {
		connect.Header.Del(name)
	}
	connect.Header.Set(":protocol", "websocket")
	resp, err := o.Transport.RoundTrip(connect)
	if err != nil {
		to.Close()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Sec-WebSocket-Accept") != "" {
		to.Close()
		return resp, nil
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	resp.StatusCode = http.StatusSwitchingProtocols
	resp.Header.Set("Connection", "Upgrade")
	resp.Header.Set("Upgrade", "websocket")
	resp.Header.Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	resp.Body = struct {
		io.Reader
		io.Writer
		io.Closer
	}{resp.Body, to, closers{to, resp.Body}}
	return resp, nil
}

type closers []io.Closer

func (c closers) Close() error {
	for _, one := range c {
		_ = one.Close() // the other side sees it
	}
	return nil
}

// A WebSocket over HTTP/2 goes through the guards that one over HTTP/1 goes
// through, to the same endpoint, and stands in the same log.
func TestWebSocketOverHTTP2(t *testing.T) {
	const large = 10 << 20
	g := startStreams(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/lies" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Sec-WebSocket-Accept", "x")
			w.WriteHeader(http.StatusSwitchingProtocols)
			return
		}
		if r.URL.Path == "/deaf" { // and mute
			nc, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer nc.Close()
			sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
			fmt.Fprintf(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
				base64.StdEncoding.EncodeToString(sum[:]))
			<-t.Context().Done()
			return
		}
		if r.URL.Path == "/page" {
			io.WriteString(w, "\x81\x02no") // it would even be a frame
			return
		}
		if r.Header.Get("Upgrade") == "" {
			return
		}
		if r.Method != http.MethodGet || r.ProtoMajor != 1 || r.Header.Get("X-API-Key") != "" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(large + 1)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	})
	client := &http.Client{Transport: newOverHTTP2(t)}
	dial := func(path, key string) (*websocket.Conn, int, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c, resp, err := websocket.Dial(ctx, "http://"+g.web+path, &websocket.DialOptions{
			HTTPClient: client, HTTPHeader: http.Header{"X-Api-Key": {key}}, Subprotocols: []string{"chat"},
		})
		status := 0
		if resp != nil {
			status = resp.StatusCode
		}
		return c, status, err
	}
	for _, c := range []struct {
		path, key string
		status    int
	}{
		{"/guarded/ws", "wrong", 401},
		{"/guarded/ws?" + sqli, "alice-key", 403},
		{"/lies", "", 502},
		{"/page", "", 501},
	} {
		if _, status, err := dial(c.path, c.key); err == nil || status != c.status {
			t.Errorf("%s: %d %v", c.path, status, err)
		}
	}
	// A client that has ended its side and then gives the tunnel up takes it along.
	deaf, _, err := dial("/deaf", "")
	if err != nil {
		t.Fatal(err)
	}
	deaf.CloseNow()
	g.eventually("the tunnel to the deaf endpoint ends", func() error {
		if n := g.metric("gatehouse_route_requests_in_flight"); n != 0 {
			return fmt.Errorf("%v requests in flight", n)
		}
		return nil
	})
	ws, _, err := dial("/guarded/ws", "alice-key")
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(large + 1)
	if ws.Subprotocol() != "chat" {
		t.Errorf("subprotocol %q", ws.Subprotocol())
	}
	echoed := func(kind websocket.MessageType, sent []byte) {
		t.Helper()
		got, b, err := ws.Read(t.Context())
		if err != nil || got != kind || !bytes.Equal(b, sent) {
			t.Fatalf("%d bytes sent, %d came: %v", len(sent), len(b), err)
		}
	}
	for _, n := range []int{0, 1, 125, 126, 65536} {
		for _, kind := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
			sent := bytes.Repeat([]byte("x"), n)
			if err := ws.Write(t.Context(), kind, sent); err != nil {
				t.Fatal(err)
			}
			echoed(kind, sent)
		}
	}
	w, err := ws.Writer(t.Context(), websocket.MessageText) // in fragments
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := io.WriteString(w, strings.Repeat("part", 2000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	echoed(websocket.MessageText, []byte(strings.Repeat("part", 6000)))
	// The endpoint answers once it has all, and has long been stopped by full
	// windows when somebody begins to read.
	sent := bytes.Repeat([]byte("0123456789abcdef"), large/16)
	if err := ws.Write(t.Context(), websocket.MessageBinary, sent); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // for the windows to fill; nothing is decided by it
	echoed(websocket.MessageBinary, sent)
	reading := ws.CloseRead(t.Context()) // pongs are read by somebody
	if err := ws.Ping(reading); err != nil {
		t.Errorf("ping: %v", err)
	}
	if n := g.metric("gatehouse_route_requests_in_flight"); n != 1 {
		t.Errorf("%v requests in flight", n)
	}
	if err := ws.Close(websocket.StatusNormalClosure, "done"); err != nil {
		t.Errorf("close handshake: %v", err)
	}
	line := g.accessLine("the tunnel", func(m map[string]any) bool { return m["status"] == 101.0 && m["path"] != "/deaf" })
	for key, want := range map[string]any{
		"consumer": "alice", "route": "guarded", "method": "GET", "protocol": "HTTP/2.0", "upstream_protocol": "http/1.1",
	} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v", key, line[key], want)
		}
	}
	for _, key := range []string{"bytes_in", "bytes_out"} {
		if n, _ := line[key].(float64); n < large || n > 2*large {
			t.Errorf("%s: %v", key, line[key])
		}
	}
	line = g.accessLine("the lie", func(m map[string]any) bool { return m["path"] == "/lies" })
	if line["reason"] != "upstream_protocol_error" {
		t.Errorf("%v", line)
	}
}

// A listener can leave WebSockets over HTTP/2 out; they are not offered then.
func TestWebSocketOverHTTP2SwitchedOff(t *testing.T) {
	app := upstreamServer(t, echo)
	address := freeAddress(t)
	start(t, fmt.Sprintf("  plain: { address: %q, http2: { websockets: false } }\n", address)+fmt.Sprintf(oneRoute, app, 1))
	_, _, err := websocket.Dial(t.Context(), "http://"+address+"/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: newOverHTTP2(t)}})
	if err == nil || !strings.Contains(err.Error(), "extended connect not supported") {
		t.Errorf("%v", err)
	}
}
