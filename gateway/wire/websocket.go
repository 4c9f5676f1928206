package wire

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
)

// WebSocket is the only protocol that an extended CONNECT (RFC 8441, RFC 9220)
// is taken for.
const WebSocket = "websocket"

// HandshakeLines is how many fields AppendHandshake adds.
const HandshakeLines = 3

// AppendHandshake adds to the fields of a head what makes of an extended CONNECT
// for a WebSocket the GET that it is in HTTP/1: what sees the request from here
// on need not know of the other form. The key is ours, as the client has none.
func AppendHandshake(dst []byte) []byte {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails
	dst = append(dst, "Connection: Upgrade\r\nUpgrade: "+WebSocket+"\r\nSec-WebSocket-Key: "...)
	return append(base64.StdEncoding.AppendEncode(dst, key[:]), "\r\n"...)
}

// acceptGUID is RFC 6455's, 1.3.
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// Accepts reports whether accept is a server's answer to key (RFC 6455, 4.2.2).
func Accepts(key, accept []byte) bool {
	var b [128]byte
	if len(key) == 0 || len(key) > len(b)-len(acceptGUID) {
		return false
	}
	sum := sha1.Sum(append(append(b[:0], key...), acceptGUID...)) // the protocol's choice; it guards nothing
	return string(accept) == string(base64.StdEncoding.AppendEncode(b[:0], sum[:]))
}
