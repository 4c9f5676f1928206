package e2e

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/quic-go/quic-go"
	quichttp "github.com/quic-go/quic-go/http3"
)

// overHTTP3 carries the WebSockets of an ordinary client as streams of one
// connection of HTTP/3 (RFC 9220), as overHTTP2 does.
type overHTTP3 struct {
	conn   *quichttp.ClientConn
	stream *quichttp.RequestStream // the last one
}

func newOverHTTP3(t *testing.T, n *manyNode) *overHTTP3 {
	t.Helper()
	config := n.tls()
	config.NextProtos = []string{"h3"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	q, err := quic.DialAddr(ctx, n.secure, config, &quic.Config{HandshakeIdleTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	c := new(quichttp.Transport).NewClientConn(q)
	t.Cleanup(func() { _ = c.CloseWithError(0x100, "") })
	<-c.ReceivedSettings()
	return &overHTTP3{conn: c}
}

// RoundTrip implements http.RoundTripper.
func (o *overHTTP3) RoundTrip(r *http.Request) (*http.Response, error) {
	s, err := o.conn.OpenRequestStream(r.Context())
	if err != nil {
		return nil, err
	}
	o.stream = s
	connect := &http.Request{
		Method: http.MethodConnect, Proto: "websocket", Host: "a.test", Header: r.Header.Clone(),
		URL: &url.URL{Scheme: "https", Host: "a.test", Path: r.URL.Path, RawQuery: r.URL.RawQuery},
	}
	for _, name := range []string{"Connection", "Upgrade", "Sec-WebSocket-Key"} {
		connect.Header.Del(name)
	}
	if err := s.SendRequestHeader(connect); err != nil {
		return nil, err
	}
	resp, err := s.ReadResponse()
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Sec-WebSocket-Accept") != "" {
		return resp, err
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	resp.StatusCode = http.StatusSwitchingProtocols
	resp.Header.Set("Connection", "Upgrade")
	resp.Header.Set("Upgrade", "websocket")
	resp.Header.Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	resp.Body = s
	return resp, nil
}

// A WebSocket over HTTP/3 goes through the guards that one over HTTP/1 goes
// through, to the same endpoint, and stands in the same log.
func TestWebSocketOverHTTP3(t *testing.T) {
	const large = 1 << 20
	app := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.ProtoMajor != 1 || r.Header.Get("Upgrade") == "" || r.Header.Get("X-API-Key") != "" {
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
			switch {
			case err != nil:
				return
			case string(b) == "close":
				_ = c.Close(websocket.StatusGoingAway, "bye")
				return
			case string(b) == "break":
				return
			case c.Write(r.Context(), kind, b) != nil:
				return
			}
		}
	})
	n := prepareMany(t, "", fmt.Sprintf(streamConfig, app, sha256.Sum256([]byte("alice-key"))))
	n.begin()
	over := newOverHTTP3(t, n)
	dial := func(path, key string) (*websocket.Conn, int, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c, resp, err := websocket.Dial(ctx, "https://a.test"+path, &websocket.DialOptions{
			HTTPClient: &http.Client{Transport: over}, HTTPHeader: http.Header{"X-Api-Key": {key}}, Subprotocols: []string{"chat"},
		})
		status := 0
		if resp != nil {
			status = resp.StatusCode
		}
		return c, status, err
	}
	open := func() *websocket.Conn {
		t.Helper()
		ws, _, err := dial("/guarded/ws", "alice-key")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ws.CloseNow() })
		ws.SetReadLimit(large + 1)
		return ws
	}
	for path, want := range map[string]int{"/guarded/ws": 401, "/guarded/ws?" + sqli: 403} {
		key := "alice-key"
		if want == 401 {
			key = "wrong"
		}
		if _, status, err := dial(path, key); err == nil || status != want {
			t.Errorf("%s: %d %v", path, status, err)
		}
	}
	ws := open()
	if ws.Subprotocol() != "chat" {
		t.Errorf("subprotocol %q", ws.Subprotocol())
	}
	for _, size := range []int{0, 1, 125, 126, 65536, large} {
		sent := bytes.Repeat([]byte("x"), size)
		if err := ws.Write(t.Context(), websocket.MessageBinary, sent); err != nil {
			t.Fatal(err)
		}
		if kind, b, err := ws.Read(t.Context()); err != nil || kind != websocket.MessageBinary || !bytes.Equal(b, sent) {
			t.Fatalf("%d bytes sent, %d came: %v", size, len(b), err)
		}
	}
	if err := ws.Close(websocket.StatusNormalClosure, "done"); err != nil {
		t.Errorf("close handshake: %v", err)
	}
	line := n.accessLine("the tunnel", func(m map[string]any) bool { return m["status"] == 101.0 })
	for key, want := range map[string]any{
		"consumer": "alice", "route": "guarded", "method": "GET", "protocol": "HTTP/3.0", "upstream_protocol": "http/1.1", "reason": nil,
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
	say := func(ws *websocket.Conn, what string) error {
		t.Helper()
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(what)); err != nil {
			t.Fatal(err)
		}
		_, _, err := ws.Read(t.Context())
		return err
	}
	if err := say(open(), "close"); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the server's goodbye: %v", err)
	}
	if err := say(open(), "break"); err == nil || websocket.CloseStatus(err) != -1 {
		t.Errorf("the server breaks off: %v", err)
	}
	_ = open()
	over.stream.CancelWrite(quic.StreamErrorCode(quichttp.ErrCodeRequestCanceled))
	over.stream.CancelRead(quic.StreamErrorCode(quichttp.ErrCodeRequestCanceled))
	n.accessLine("the client's going", func(m map[string]any) bool { return m["status"] == 101.0 && m["reason"] == "client_gone" })
	if err := say(open(), "close"); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("after all that: %v", err)
	}
}

// Half-way through a stop the server of a WebSocket is told, so that it can say
// goodbye.
func TestStopTellsWebSocketsOverHTTP3(t *testing.T) {
	app := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		fmt.Fprintf(c, "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
		all, _ := io.ReadAll(buf)
		fmt.Fprintf(c, "%s bye", all)
	})
	n := prepareMany(t, "", fmt.Sprintf(oneRoute, app, 1))
	text, err := os.ReadFile(n.config)
	if err != nil {
		t.Fatal(err)
	}
	n.writeRaw(strings.Replace(string(text), "timeout: 30s", "timeout: 8s", 1)) // it is told after half of that
	n.begin()
	over := newOverHTTP3(t, n)
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://a.test/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-WebSocket-Version", "13")
	resp, err := over.RoundTrip(req)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v, %v", resp, err)
	}
	if _, err := over.stream.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(over.stream); err != nil || string(b) != "hi bye" {
		t.Errorf("%q, %v", b, err)
	}
}

// A listener can leave WebSockets over HTTP/3 out: clients are told by a reply.
func TestWebSocketOverHTTP3SwitchedOff(t *testing.T) {
	app := upstreamServer(t, echo)
	n := prepareMany(t, "", fmt.Sprintf(oneRoute, app, 1))
	text, err := os.ReadFile(n.config)
	if err != nil {
		t.Fatal(err)
	}
	n.writeRaw(strings.Replace(string(text), "http3: true", "http3: { websockets: false }", 1))
	n.begin()
	_, resp, err := websocket.Dial(t.Context(), "https://a.test/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: newOverHTTP3(t, n)}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusNotImplemented {
		t.Errorf("%v, %v", resp, err)
	}
	n.accessLine("the refusal", func(m map[string]any) bool { return m["reason"] == "protocol_refused" && m["protocol"] == "HTTP/3.0" })
}
