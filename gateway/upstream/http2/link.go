package http2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// link is one connection.
type link struct {
	pool   *Pool
	client *http.ClientConn
	socket *socket
	used   atomic.Bool
	active int // requests; guarded by Pool.mu
	// suspect is when a request began that has timed out while nothing at all was
	// heard, in Unix nanoseconds; 0: none.
	suspect atomic.Int64
}

// close ends the connection, whatever is going on there.
func (l *link) close() {
	// net/http first, so that requests learn why; it reports nothing.
	_ = l.client.Close()
	_ = l.socket.Close()
}

// silent is called when a request that began at since has timed out. net/http
// asks the endpoint then by a PING; without an answer the connection is dead.
func (l *link) silent(since int64) {
	if l.socket.heard.Load() > since || !l.suspect.CompareAndSwap(0, since) {
		return
	}
	time.AfterFunc(l.pool.settings.PingTimeout, func() {
		l.suspect.Store(0)
		if l.socket.heard.Load() <= since {
			l.close()
		}
	})
}

// suspected reports that nothing has been heard since.
func (l *link) suspected() bool {
	since := l.suspect.Load()
	return since != 0 && l.socket.heard.Load() <= since
}

// socket is a connection that tells what net/http does not: when something was
// last heard, when the endpoint's SETTINGS have come, and when it is closed.
type socket struct {
	net.Conn

	lost    func()
	heard   atomic.Int64 // Unix nanoseconds
	settled chan struct{}
	closed  chan struct{}
	once    sync.Once

	// The reader's own.
	first [9]byte // the header of the first frame
	got   int
	ready bool
	http1 atomic.Bool // what came first was a reply in HTTP/1
}

func newSocket(nc net.Conn) *socket {
	s := &socket{Conn: nc, settled: make(chan struct{}), closed: make(chan struct{})}
	s.heard.Store(time.Now().UnixNano())
	return s
}

// Read implements net.Conn. net/http reads on only when it has dealt with
// everything before.
func (s *socket) Read(p []byte) (int, error) {
	if !s.ready && s.got >= len(s.first) && s.got >= len(s.first)+s.firstLength() {
		s.ready = true
		close(s.settled)
	}
	n, err := s.Conn.Read(p)
	if n > 0 {
		s.heard.Store(time.Now().UnixNano())
		if !s.ready {
			if s.got < len(s.first) {
				copy(s.first[s.got:], p[:n])
			}
			s.got += n
			s.http1.Store(bytes.HasPrefix(s.first[:], []byte("HTTP/1.")))
		}
	}
	return n, err
}

func (s *socket) firstLength() int {
	return int(s.first[0])<<16 | int(s.first[1])<<8 | int(s.first[2])
}

// Close implements net.Conn.
func (s *socket) Close() error {
	err := s.Conn.Close()
	s.once.Do(func() {
		close(s.closed)
		if s.lost != nil {
			s.lost()
		}
	})
	return err
}

// over reports that the connection has been closed.
func (s *socket) over() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

var (
	errNotHTTP2 = errors.New("the endpoint does not speak HTTP/2: it answered in HTTP/1")
	errEnded    = errors.New("the endpoint closed the connection instead of sending SETTINGS")
)

// settle waits for the endpoint's SETTINGS, which show that it speaks HTTP/2
// and how many streams it takes.
func (s *socket) settle(ctx context.Context) error {
	select {
	case <-s.settled:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no SETTINGS from the endpoint: %w", ctx.Err())
	case <-s.closed:
		if s.http1.Load() {
			return errNotHTTP2
		}
		return errEnded
	}
}
