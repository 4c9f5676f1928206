package l4

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/gatehouse-proxy/gatehouse/gateway/proxyproto"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Hello is what a ClientHello says before anything is encrypted. With ECH it is
// the outer one.
type Hello struct {
	// ServerName is the name asked for (SNI), in lower case; empty without one.
	ServerName string
	// Protocols are those offered by ALPN.
	Protocols []string
}

// ErrNothingSaid is the end of a connection whose client, a health check most
// likely, went away without a word, or which we closed ourselves.
var ErrNothingSaid = errors.New("the connection ended before a ClientHello began")

const (
	// maxHello is how long a ClientHello may be, records and all. Those with
	// post-quantum keys and ECH are below 4 KiB; Envoy's limit is the same.
	maxHello    = 16 << 10
	recordHead  = 5
	maxRecord   = 16 << 10 // RFC 8446 5.1
	handshake   = 22
	clientHello = 1
)

var hellos = sync.Pool{New: func() any { b := make([]byte, maxHello); return &b }}

// ReadHello reads a ClientHello from nc, within timeout. read is all that has
// been taken from nc, also with an error, which is a *reason.Refusal or
// ErrNothingSaid. Closing nc interrupts it.
func ReadHello(nc net.Conn, timeout time.Duration) (h Hello, read []byte, err error) {
	if timeout > 0 && nc.SetReadDeadline(time.Now().Add(timeout)) != nil {
		return h, nil, ErrNothingSaid // closed already
	}
	buf := hellos.Get().(*[]byte)
	defer hellos.Put(buf)
	b := (*buf)[:0]
	for {
		var more bool
		if h, more, err = ParseHello(b); !more || err != nil {
			break
		}
		if len(b) == cap(b) {
			err = reason.TLSHelloMalformed.Because("longer than %d bytes", maxHello)
			break
		}
		n, failed := nc.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if n == 0 && failed != nil {
			err = cut(failed, len(b))
			break
		}
	}
	_ = nc.SetReadDeadline(time.Time{}) // closed already: whoever reads next will see
	return h, append([]byte(nil), b...), err
}

// cut says what it means that no more comes after n bytes.
func cut(err error, n int) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return reason.TLSHandshakeTimeout.Because("%d bytes of a ClientHello had come", n)
	case errors.Is(err, net.ErrClosed),
		n == 0 && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return ErrNothingSaid
	}
	return reason.TLSHelloMalformed.Because("the connection ended after %d bytes of it", n)
}

// ParseHello reads a ClientHello from the first bytes of a connection, over as
// many records as it takes. more says that it is not complete yet. It is strict:
// the error, a *reason.Refusal, is for whatever crypto/tls would not take either.
func ParseHello(b []byte) (h Hello, more bool, err error) {
	switch looks := proxyproto.Look(b); {
	case len(b) > 0 && looks == proxyproto.Proxy:
		return h, false, reason.ProxyHeaderUntrusted.Because("before the ClientHello")
	case len(b) > 0 && looks == proxyproto.Undecided:
		return h, true, nil
	}
	var first [1024]byte // where a hello of several records is put together
	message, length := first[:0], -1
	for {
		record, rest, r := nextRecord(b)
		if r != nil || record == nil {
			return h, r == nil, r
		}
		b = rest
		message = append(message, record...)
		if length < 0 && len(message) >= 4 {
			if message[0] != clientHello {
				return h, false, reason.TLSHelloMalformed.Because("the first message is of type %d", message[0])
			}
			length = int(message[1])<<16 | int(message[2])<<8 | int(message[3])
			if length > maxHello {
				return h, false, reason.TLSHelloMalformed.Because("a ClientHello of %d bytes; at most %d are read", length, maxHello)
			}
		}
		if length >= 0 && len(message) >= 4+length {
			h, ok := parseMessage(message[4 : 4+length])
			if !ok || len(message) > 4+length {
				return Hello{}, false, reason.TLSHelloMalformed.Because("the ClientHello does not parse")
			}
			return h, false, nil
		}
	}
}

// nextRecord returns the contents of a handshake record; nil if it is not
// complete. As much as there is of its head is checked.
func nextRecord(b []byte) (record, rest []byte, err error) {
	switch {
	case len(b) > 0 && b[0] != handshake:
		if isHTTP(b) {
			return nil, nil, reason.TLSRequired.Because("plain HTTP")
		}
		return nil, nil, reason.TLSHelloMalformed.Because("the first byte is %#x", b[0])
	case len(b) > 1 && b[1] != 3: // the version: 3.1 to 3.3 are sent, and mean nothing
		return nil, nil, reason.TLSHelloMalformed.Because("a record of version %d", b[1])
	case len(b) < recordHead:
		return nil, nil, nil
	}
	n := int(b[3])<<8 | int(b[4])
	if n == 0 || n > maxRecord {
		return nil, nil, reason.TLSHelloMalformed.Because("a record of %d bytes", n)
	}
	if len(b) < recordHead+n {
		return nil, nil, nil
	}
	return b[recordHead : recordHead+n], b[recordHead+n:], nil
}

// isHTTP is true for what begins like a request line.
func isHTTP(b []byte) bool {
	n := 0
	for n < len(b) && n < 5 && 'A' <= b[n] && b[n] <= 'Z' {
		n++
	}
	return n == min(len(b), 5) || n >= 3 && b[n] == ' '
}

const (
	extensionServerName = 0
	extensionALPN       = 16
)

// parseMessage reads the body of a ClientHello (RFC 8446 4.1.2).
func parseMessage(b []byte) (h Hello, ok bool) {
	s := cryptobyte.String(b)
	var version uint16
	var session, suites, compressions cryptobyte.String
	if !s.ReadUint16(&version) || !s.Skip(32) || !s.ReadUint8LengthPrefixed(&session) ||
		!s.ReadUint16LengthPrefixed(&suites) || !s.ReadUint8LengthPrefixed(&compressions) ||
		len(suites)%2 != 0 {
		return h, false
	}
	if s.Empty() {
		return h, true // no extensions: TLS 1.2 and before allow it
	}
	var extensions cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return h, false
	}
	var seen [2]bool
	for !extensions.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return h, false
		}
		switch kind {
		case extensionServerName:
			if seen[0] || !h.readName(data) {
				return h, false
			}
			seen[0] = true
		case extensionALPN:
			if seen[1] || !h.readProtocols(data) {
				return h, false
			}
			seen[1] = true
		}
	}
	return h, true
}

// readName reads the one host name there may be (RFC 6066 3).
func (h *Hello) readName(data cryptobyte.String) bool {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || list.Empty() || !data.Empty() {
		return false
	}
	found := false
	for !list.Empty() {
		var kind uint8
		var name cryptobyte.String
		if !list.ReadUint8(&kind) || !list.ReadUint16LengthPrefixed(&name) || name.Empty() {
			return false
		}
		if kind != 0 {
			continue
		}
		if found || !isName(name) {
			return false
		}
		found, h.ServerName = true, strings.ToLower(string(name))
	}
	return true
}

// isName refuses what no host is called and what would be strange in a log.
func isName(b []byte) bool {
	if len(b) > 255 || b[len(b)-1] == '.' {
		return false
	}
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// readProtocols reads the protocols offered (RFC 7301 3.1).
func (h *Hello) readProtocols(data cryptobyte.String) bool {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || list.Empty() || !data.Empty() {
		return false
	}
	for !list.Empty() {
		var name cryptobyte.String
		if !list.ReadUint8LengthPrefixed(&name) || name.Empty() {
			return false
		}
		h.Protocols = append(h.Protocols, string(name))
	}
	return true
}
