package http2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// spoken is an endpoint that says what is in says once it has been asked.
type spoken struct {
	net.Conn
	settings, says *bytes.Reader
	asked, closed  chan struct{}
	once, end      sync.Once
}

// Read implements net.Conn.
func (s *spoken) Read(p []byte) (int, error) {
	if s.settings.Len() > 0 {
		return s.settings.Read(p)
	}
	select {
	case <-s.asked:
		return s.says.Read(p)
	case <-s.closed:
		return 0, net.ErrClosed
	}
}

// Write implements net.Conn.
func (s *spoken) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("/fuzz")) {
		s.once.Do(func() { close(s.asked) })
	}
	return len(p), nil
}

// Close implements net.Conn.
func (s *spoken) Close() error {
	s.end.Do(func() { close(s.closed) })
	return nil
}

// Whatever an endpoint says, a request ends, nothing of it gets into the head
// that is none, and no more body comes than was announced.
func FuzzReplies(f *testing.F) {
	settings := frames.AppendSettings(nil)
	head := func(end bool, block string) []byte { return frames.AppendBlock(nil, 1, end, []byte(block), 1<<14) }
	f.Add(head(true, "\x88"))
	f.Add(append(head(false, "\x88\x5c\x013"), frames.AppendData(nil, 1, true, []byte("abc"))...))
	f.Add(append(append(head(false, "\x88"), frames.AppendData(nil, 1, false, []byte("abc"))...), head(true, "\x00\x01a\x01b")...))
	f.Add(append(head(false, "\x08\x03103\x00\x04link\x01x"), head(true, "\x89\x00\x03a\nb\x01c")...))
	f.Add(append(frames.AppendGoAway(nil, 0, frames.NoError, ""), frames.AppendReset(nil, 1, frames.RefusedStream)...))
	f.Add(append(frames.AppendWindowUpdate(nil, 1, 7), frames.AppendPing(nil, false, [8]byte{})...))
	f.Fuzz(func(t *testing.T, says []byte) {
		m := NewManager()
		p := NewPool(Settings{
			Address: "a.test:80", Manager: m, Limits: wire.Limits{Head: 2000, Fields: 20}, Window: 1 << 15,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				one, other := net.Pipe()
				_ = other.Close()
				_ = one.Close()
				return &spoken{
					Conn: one, settings: bytes.NewReader(settings), says: bytes.NewReader(says),
					asked: make(chan struct{}), closed: make(chan struct{}),
				}, nil
			},
		})
		defer m.Close()
		defer p.Close()
		call := &transport.Call{Head: []byte("POST /fuzz HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"), Deadline: time.Now().Add(30 * time.Second)}
		c, err := p.Get(call, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Do(call); err != nil {
			if errors.Is(err, reason.UpstreamTimeout) {
				t.Error("it ended by its deadline only")
			}
			return
		}
		h, raw := c.Head()
		if bytes.Count(raw, []byte("\n")) != len(h.Fields)+2 || bytes.Count(raw, []byte("\r")) != len(h.Fields)+2 {
			t.Errorf("%d fields in %q", len(h.Fields), raw)
		}
		length := c.Length()
		b, err := io.ReadAll(c)
		if length >= 0 && (int64(len(b)) > length || err == nil && int64(len(b)) != length) {
			t.Errorf("%d bytes of %d, %v", len(b), length, err)
		}
		if err == nil && len(c.Trailers()) > 0 && !bytes.HasSuffix(c.Trailers(), []byte("\r\n")) {
			t.Errorf("trailers %q", c.Trailers())
		}
		_ = c.Release()
	})
}
