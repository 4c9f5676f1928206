package h2

import (
	"net"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// Protocol implements exchange.Front.
func (s *stream) Protocol() string { return protocol }

const protocol = "HTTP/2.0"

// TLS implements exchange.Secured.
func (s *stream) TLS() *exchange.TLS { return s.c.tls }

// RawTarget implements exchange.Front.
func (s *stream) RawTarget() []byte { return s.head.RawTarget }

// EachField implements exchange.Front. Host comes first, cookies last, as one.
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

// Whole implements exchange.Front.
func (s *stream) Whole() []byte { return s.body.Whole() }

// BodyDone implements exchange.Front.
func (s *stream) BodyDone() bool { return !s.hasBody || s.body.done.Load() }

// LimitBody implements exchange.Front.
func (s *stream) LimitBody(limit int64) {
	s.c.mu.Lock()
	s.body.lower(limit)
	s.c.mu.Unlock()
}

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
	b := s.body
	if !s.hasBody || b.done.Load() {
		return
	}
	s.c.mu.Lock()
	b.broke = true
	b.canRead.Broadcast()
	s.c.mu.Unlock()
}

// Inform implements exchange.Front. A 100 is the body's affair: it is sent when
// somebody reads what the client waits to send.
func (s *stream) Inform(status int, fields []byte) error {
	if status < 102 || status > 199 {
		return nil
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.started {
		return nil
	}
	if err := s.awaitRoom(); err != nil {
		return err
	}
	s.beginBlock(status)
	s.lines(fields)
	s.sendBlock(false)
	c.kick()
	return nil
}

// sayContinue tells the client to send its body. c.mu is held.
func (s *stream) sayContinue() {
	if s.started || s.fault() != nil {
		return
	}
	s.beginBlock(100)
	s.sendBlock(false)
	s.c.kick()
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
