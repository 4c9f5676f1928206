package bridge

import (
	"net"
	"net/http"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// Protocol implements exchange.Front.
func (s *stream) Protocol() string {
	switch s.r.ProtoMajor {
	case 3:
		return "HTTP/3.0"
	case 2:
		return "HTTP/2.0"
	}
	return s.r.Proto
}

// TLS implements exchange.Secured.
func (s *stream) TLS() *exchange.TLS { return s.conn.TLS }

// RawTarget implements exchange.Front.
func (s *stream) RawTarget() []byte { return s.head.RawTarget }

// EachField implements exchange.Front. The fields are in alphabetical order.
func (s *stream) EachField(f func(name, value []byte) bool) {
	h := &s.head
	for _, field := range h.Fields {
		if !f(field.Name(h.Raw), field.Value(h.Raw)) {
			return
		}
	}
}

// HasBody implements exchange.Front.
func (s *stream) HasBody() bool { return s.hasBody }

// Whole implements exchange.Front. What has been received is the server's
// secret.
func (s *stream) Whole() []byte { return nil }

// BodyDone implements exchange.Front.
func (s *stream) BodyDone() bool { return s.body.done.Load() }

// LimitBody implements exchange.Front. It waits for a Read in progress.
func (s *stream) LimitBody(limit int64) { s.body.limit(limit) }

// RequestTrailers implements exchange.Front.
func (s *stream) RequestTrailers() []byte {
	if b := s.body; b.done.Load() && len(b.trailers) > 0 {
		return b.trailers
	}
	return nil
}

// InterruptBody implements exchange.Front. The connection stays; the stream
// ends with its reply.
func (s *stream) InterruptBody() {
	if s.body.done.Load() {
		return
	}
	s.bodyBroke.Store(true)
	s.interruptBody()
}

// Inform implements exchange.Front. A 100 is the server's own affair, or the
// body's: it is sent when somebody reads what the client waits to send.
func (s *stream) Inform(status int, fields []byte) error {
	s.interim.Lock()
	defer s.interim.Unlock()
	if s.started || status < 102 || status > 199 {
		return nil
	}
	h := s.w.Header()
	eachLine(fields, func(name, value string) { h[name] = append(h[name], value) })
	s.startWrite()
	s.w.WriteHeader(status)
	err := s.endWrite(nil)
	clear(h)
	return err
}

// eachLine cuts up complete lines "Name: value\r\n".
func eachLine(lines []byte, f func(name, value string)) {
	for {
		name, value, rest, ok := wire.CutLine(lines)
		if !ok {
			return
		}
		f(http.CanonicalHeaderKey(string(name)), string(value))
		lines = rest
	}
}

// ReplyDate implements exchange.Front.
func (s *stream) ReplyDate(value []byte) { s.date = append(s.date[:0], value...) }

// ReplyTrailers implements exchange.Front.
func (s *stream) ReplyTrailers(lines []byte) { s.trailers = append(s.trailers, lines...) }

// WantsUpgrade implements exchange.Front: an extended CONNECT is one.
func (s *stream) WantsUpgrade() (protocol []byte, ok bool) {
	if !s.connect {
		return nil, false
	}
	return s.head.Protocol, true
}

// Upgrade implements exchange.Front.
func (s *stream) Upgrade(tunnel func(client net.Conn, early []byte)) {
	if s.connect {
		s.upgrade = tunnel
	}
}

// ReplyBytes implements exchange.Front.
func (s *stream) ReplyBytes() int64 { return s.replied }

// RequestBytes implements exchange.Front.
func (s *stream) RequestBytes() int64 { return s.body.count.Load() }

// Cut implements exchange.Front.
func (s *stream) Cut() { s.cut = true }
