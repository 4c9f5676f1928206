package bridge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// tunnel is a stream that carries another protocol, as the connection that it is
// to those who read and write it. quic-go reads and writes the DATA frames that
// it goes in.
type tunnel struct {
	stream *http3.Stream
	face   *exchange.Face
	closed bool // by us; its writer's

	// A read deadline of quic-go may strike inside a frame's head, and lose it.
	// So a goroutine reads without one, and what it has read goes through a pipe,
	// which keeps the deadlines. It holds one buffer's worth at most.
	net.Conn
	ended error // why the goroutine has ended; set before the pipe is closed
	done  chan struct{}

	mu      sync.Mutex
	aborter exchange.Aborter // interrupted when the client has gone; nil: nobody
	unwatch func() bool      // nil: nobody watches the stream
}

var (
	_ net.Conn         = (*tunnel)(nil)
	_ exchange.Drainer = (*stream)(nil)
)

// openTunnel tells the client that its stream is one from now on: with the status
// that an extended CONNECT succeeds by, where HTTP/1 has 101.
func (s *stream) openTunnel(resp *fasthttp.Response) (complete bool) {
	_ = resp.CloseBodyStream() // there is none
	w, ok := s.w.(http3.HTTPStreamer)
	if !ok {
		return false // who gave us one has given its writer
	}
	h := s.w.Header()
	s.putHead(h, resp)
	delete(h, http.CanonicalHeaderKey("Sec-WebSocket-Accept"))
	s.w.WriteHeader(http.StatusOK)
	if !s.startWrite() {
		return false
	}
	str, err := w.HTTPStream()
	if err = s.endWrite(err); err != nil {
		if str != nil {
			cancelRead(str, http3.ErrCodeRequestCanceled)
			cancelWrite(str)
		}
		return false
	}
	s.tunnel = newTunnel(str, &s.conn.Face)
	return true
}

// runTunnel hands the stream over until the tunnel is done with; without one, it
// tells whoever waits for one that there is none.
func (s *stream) runTunnel() {
	run, t := s.upgrade, s.tunnel
	s.upgrade = nil
	switch {
	case run == nil:
		return
	case t == nil:
		run(nil, nil)
		return
	}
	s.bridge.tunnels.Add(1)
	defer func() {
		s.bridge.tunnels.Add(-1)
		s.OnDrain(nil)
		t.end()
	}()
	run(t, nil)
}

func newTunnel(str *http3.Stream, face *exchange.Face) *tunnel {
	out, in := net.Pipe()
	t := &tunnel{stream: str, face: face, Conn: out, done: make(chan struct{})}
	go t.fetch(in)
	return t
}

// fetch reads what the client sends, as it is taken.
func (t *tunnel) fetch(in net.Conn) {
	defer close(t.done)
	defer in.Close()
	for much := false; ; {
		var n int
		var err error
		if much {
			b := large.Get().(*[32 << 10]byte)
			n, err = t.pass(in, b[:])
			large.Put(b)
			much = n >= len(b)/4
		} else {
			b := small.Get().(*[4 << 10]byte)
			n, err = t.pass(in, b[:])
			small.Put(b)
			much = n == len(b)
		}
		if err != nil {
			t.ended = err
			return
		}
	}
}

func (t *tunnel) pass(in net.Conn, b []byte) (n int, err error) {
	n, err = t.stream.Read(b)
	if n > 0 {
		if _, e := in.Write(b[:n]); e != nil {
			return n, e
		}
	}
	return n, err
}

// end ends the stream: in an orderly way where both sides have.
func (t *tunnel) end() {
	t.OnGone(nil)
	_ = t.Conn.Close()                   // never fails
	code := http3.ErrCodeRequestCanceled // RFC 9220, 3
	if t.closed {
		code = http3.ErrCodeNoError // all has been said: nobody listens any more
	} else {
		cancelWrite(t.stream)
	}
	cancelRead(t.stream, code) // does nothing once the client has ended its side
	<-t.done
}

func cancelRead(str *http3.Stream, code http3.ErrCode) { str.CancelRead(quic.StreamErrorCode(code)) }

func cancelWrite(str *http3.Stream) {
	str.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
}

// Read implements net.Conn.
func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if err == io.EOF {
		err = t.ended
	}
	return n, err
}

// Write implements net.Conn. What a deadline interrupts is gone on with by the
// next one, which has to be given the rest.
func (t *tunnel) Write(p []byte) (int, error) { return t.stream.Write(p) }

// InParts says that a Write which a deadline has ended can be gone on with.
func (t *tunnel) InParts() {}

// CloseWrite ends our side of the stream; the client's goes on.
func (t *tunnel) CloseWrite() error {
	if t.closed {
		return net.ErrClosed
	}
	t.closed = true
	return t.stream.Close()
}

// Close implements net.Conn, and does nothing: the stream ends with the tunnel.
func (t *tunnel) Close() error { return nil }

// OnGone is exchange.Front's, until the tunnel has ended: behind the end of the
// client's side no read shows that it has gone. That it listens no more, or that
// the connection is lost, ends the stream's context, as ending our own side does.
func (t *tunnel) OnGone(a exchange.Aborter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.aborter = a
	switch {
	case a != nil && t.unwatch == nil:
		t.unwatch = context.AfterFunc(t.stream.Context(), t.gone)
	case a == nil && t.unwatch != nil:
		t.unwatch()
		t.unwatch = nil
	}
}

func (t *tunnel) gone() {
	if errors.Is(context.Cause(t.stream.Context()), quic.ErrStreamClosed) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.aborter; a != nil {
		t.aborter = nil
		a.Abort()
	}
}

// LocalAddr implements net.Conn.
func (t *tunnel) LocalAddr() net.Addr { return t.face.Local }

// RemoteAddr implements net.Conn.
func (t *tunnel) RemoteAddr() net.Addr { return t.face.Remote }

// SetDeadline implements net.Conn.
func (t *tunnel) SetDeadline(d time.Time) error {
	_ = t.SetReadDeadline(d) // never fails
	return t.SetWriteDeadline(d)
}

// SetReadDeadline implements net.Conn.
func (t *tunnel) SetReadDeadline(d time.Time) error {
	_ = t.Conn.SetReadDeadline(d) // fails where the client has ended, which Read says
	return nil
}

// SetWriteDeadline implements net.Conn.
func (t *tunnel) SetWriteDeadline(d time.Time) error { return t.stream.SetWriteDeadline(d) }

// OnDrain implements exchange.Drainer.
func (s *stream) OnDrain(a exchange.Aborter) {
	s.mu.Lock()
	s.drainer = a
	s.mu.Unlock()
}

// tell has the stream's tunnel end by itself. No lock is held while it hears of
// it: it sets a deadline.
func (s *stream) tell() {
	s.mu.Lock()
	a := s.drainer
	s.drainer = nil
	s.mu.Unlock()
	if a != nil {
		a.Abort()
	}
}
