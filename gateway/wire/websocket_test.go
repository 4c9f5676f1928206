package wire_test

import (
	"bytes"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

func TestAccepts(t *testing.T) {
	for _, c := range []struct {
		key, accept string
		want        bool
	}{
		{"dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", true}, // RFC 6455, 1.3
		{"dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=", false},
		{"dGhlIHNhbXBsZSBub25jZQ==", "", false},
		{"", "Kfh9QIsMVZcl6xEPYxPHzW8SZ8w=", false},
		{string(make([]byte, 200)), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", false},
	} {
		if got := wire.Accepts([]byte(c.key), []byte(c.accept)); got != c.want {
			t.Errorf("%.30q, %q: %v", c.key, c.accept, got)
		}
	}
}

// What is added makes an upgrade of a head, with a key that nobody had before.
func TestAppendHandshake(t *testing.T) {
	var keys [2][]byte
	for i := range keys {
		raw := append(wire.AppendHandshake([]byte("GET / HTTP/1.1\r\nHost: a\r\n")), "\r\n"...)
		var h wire.Head
		n, why := h.Parse(raw, &wire.Limits{Head: 1 << 10, Fields: 10, URI: 100})
		if why != nil || n != len(raw) || !h.WantsUpgrade || string(h.Protocol) != wire.WebSocket || len(h.Fields) != 1+wire.HandshakeLines {
			t.Fatalf("%q: %v", raw, why)
		}
		f := h.Fields[len(h.Fields)-1]
		if string(f.Name(raw)) != "Sec-WebSocket-Key" || len(f.Value(raw)) != 24 {
			t.Fatalf("%q", raw)
		}
		keys[i] = f.Value(raw)
	}
	if bytes.Equal(keys[0], keys[1]) {
		t.Error("the key is the same twice")
	}
}
