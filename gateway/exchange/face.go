package exchange

import (
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// Face is what plugins see as the connection of a request, where a connection
// carries many.
type Face struct {
	Untouchable
	Local, Remote net.Addr
	// State has it all of an encrypted connection; nil for plain text.
	State *tls.ConnectionState
}

// Conn is f for a RequestCtx, which tells by its type whether it is TLS.
func (f *Face) Conn() net.Conn {
	if f.State != nil {
		return secureFace{f}
	}
	return f
}

// LocalAddr implements net.Conn.
func (f *Face) LocalAddr() net.Addr { return f.Local }

// RemoteAddr implements net.Conn.
func (f *Face) RemoteAddr() net.Addr { return f.Remote }

type secureFace struct{ *Face }

// Handshake makes RequestCtx.IsTLS true; it was done before.
func (secureFace) Handshake() error { return nil }

// ConnectionState is RequestCtx.TLSConnectionState's.
func (f secureFace) ConnectionState() tls.ConnectionState { return *f.State }

// Untouchable is the part of a net.Conn that is not for plugins.
type Untouchable struct{}

var errNotYours = errors.New("the connection belongs to the server; use the request and the response")

// Read fails.
func (Untouchable) Read([]byte) (int, error) { return 0, errNotYours }

// Write fails.
func (Untouchable) Write([]byte) (int, error) { return 0, errNotYours }

// Close does nothing.
func (Untouchable) Close() error { return nil }

// SetDeadline does nothing.
func (Untouchable) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (Untouchable) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (Untouchable) SetWriteDeadline(time.Time) error { return nil }
