package h2

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
)

// tunnel is a stream that carries another protocol, as the connection that it is
// to those who read and write it. Its deadlines are kept by the server's clock.
type tunnel struct {
	c *conn
	s *stream

	// Guarded by c.mu.
	over            bool  // s may be another request's
	readBy, writeBy int64 // coarse time; 0: no deadline
}

var (
	_ net.Conn         = (*tunnel)(nil)
	_ exchange.Drainer = (*stream)(nil)
)

// openTunnel tells the client that its stream is one from now on: with the status
// that an extended CONNECT succeeds by, where HTTP/1 has 101.
func (s *stream) openTunnel(resp *fasthttp.Response) (complete bool) {
	_ = resp.CloseBodyStream() // there is none
	c := s.c
	c.mu.Lock()
	if s.sendHead(resp, -1, false) != nil {
		c.mu.Unlock()
		return false
	}
	s.tunnel = &tunnel{c: c, s: s}
	c.mu.Unlock()
	s.flush()
	return true
}

// runTunnel hands the stream over until the tunnel is done with; without one, it
// tells whoever waits that there is none.
func (s *stream) runTunnel() {
	run, t := s.upgrade, s.tunnel
	s.upgrade = nil
	if t == nil {
		run(nil, nil)
		return
	}
	s.c.srv.tunnels.Add(1)
	defer s.endTunnel(t)
	run(t, nil)
}

// endTunnel ends the stream: in an orderly way where both sides have.
func (s *stream) endTunnel(t *tunnel) {
	c := s.c
	c.srv.tunnels.Add(-1)
	s.OnDrain(nil)
	s.OnGone(nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	t.over, s.tunnel = true, nil
	s.replied = 0 // what went through is the tunnel's
	if s.reset {
		return
	}
	if !(s.closed && s.ended) && !c.dead {
		code := frames.Cancel // RFC 8441, 5.1
		if s.closed {
			code = frames.NoError // all has been said: nobody listens any more
		}
		c.out = frames.AppendReset(c.room(), s.id, code)
		c.cut.add(s.id)
	}
	s.closed = true
	c.forget(s)
}

// passed reports that a deadline has.
func (t *tunnel) passed(by int64) bool { return by > 0 && t.c.srv.clock.Now() >= by }

// Read implements net.Conn. What was sent before a deadline is left for the next
// Read.
func (t *tunnel) Read(p []byte) (int, error) {
	c := t.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if t.over {
			return 0, net.ErrClosed
		}
		s, b := t.s, t.s.body
		switch {
		case t.passed(t.readBy):
			return 0, os.ErrDeadlineExceeded
		case b.buffer.Len() > 0:
			n := b.buffer.Read(p)
			c.owe(n)
			s.owe(n)
			c.kick()
			return n, nil
		case b.closed == io.EOF:
			return 0, io.EOF
		case s.reset, c.gone, c.dead:
			return 0, errGone
		}
		b.began, b.readBy = c.srv.clock.Now(), t.readBy
		b.canRead.Wait()
		b.readBy = 0
	}
}

// Write implements net.Conn.
func (t *tunnel) Write(p []byte) (int, error) { return t.send(p, false) }

// CloseWrite ends our side of the stream; the client's goes on.
func (t *tunnel) CloseWrite() error {
	_, err := t.send(nil, true)
	return err
}

// InParts says that a Write which a deadline has ended can be gone on with.
func (t *tunnel) InParts() {}

// OnGone is exchange.Front's, until the tunnel has ended: nobody reads a stream
// whose client has ended its side, and so nobody would see it reset. a may set
// deadlines.
func (t *tunnel) OnGone(a exchange.Aborter) { t.s.OnGone(a) }

func (t *tunnel) send(p []byte, end bool) (n int, err error) {
	c, s := t.c, t.s
	c.mu.Lock()
	if t.over || s.closed {
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	s.late = len(p) > 0 && t.passed(t.writeBy) // an end waits for nothing
	before := s.replied
	err = s.send(p, end)
	n = int(s.replied - before)
	c.mu.Unlock()
	s.flush()
	if errors.Is(err, errWriteTimeout) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// Close implements net.Conn, and does nothing: the stream ends with the tunnel.
func (t *tunnel) Close() error { return nil }

// LocalAddr implements net.Conn.
func (t *tunnel) LocalAddr() net.Addr { return t.c.face.Local }

// RemoteAddr implements net.Conn.
func (t *tunnel) RemoteAddr() net.Addr { return t.c.face.Remote }

// SetDeadline implements net.Conn.
func (t *tunnel) SetDeadline(d time.Time) error { return t.setDeadlines(d, true, true) }

// SetReadDeadline implements net.Conn.
func (t *tunnel) SetReadDeadline(d time.Time) error { return t.setDeadlines(d, true, false) }

// SetWriteDeadline implements net.Conn.
func (t *tunnel) SetWriteDeadline(d time.Time) error { return t.setDeadlines(d, false, true) }

func (t *tunnel) setDeadlines(d time.Time, read, write bool) error {
	var by int64
	if !d.IsZero() {
		by = t.c.srv.clock.By(d)
	}
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	if t.over {
		return net.ErrClosed
	}
	if read {
		t.readBy = by
		t.s.body.canRead.Broadcast()
	}
	if write {
		t.writeBy, t.s.writeBy = by, 0
		if t.passed(by) {
			t.s.late = true
		}
		t.s.canWrite.Broadcast()
	}
	return nil
}

// OnDrain implements exchange.Drainer.
func (s *stream) OnDrain(a exchange.Aborter) {
	s.mu.Lock()
	s.drainer = a
	s.mu.Unlock()
	if a != nil && s.c.srv.telling.Load() {
		s.tell()
	}
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

// tell has all tunnels of a connection end by themselves.
func (c *conn) tell() {
	var all []*stream
	c.mu.Lock()
	for _, s := range c.streams {
		if s.tunnel != nil {
			all = append(all, s)
		}
	}
	c.mu.Unlock()
	for _, s := range all {
		s.tell()
	}
}
