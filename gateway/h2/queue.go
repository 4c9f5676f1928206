package h2

import (
	"net"
	"sync"
)

// queue is a net.Listener of connections that others have accepted.
type queue struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newQueue() *queue { return &queue{conns: make(chan net.Conn), closed: make(chan struct{})} }

// put hands nc over; false, if nobody takes it any more.
func (q *queue) put(nc net.Conn) bool {
	select {
	case q.conns <- nc:
		return true
	case <-q.closed:
		return false
	}
}

func (q *queue) close() { q.once.Do(func() { close(q.closed) }) }

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case nc := <-q.conns:
		return nc, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.close()
	return nil
}

// Addr implements net.Listener; each connection has its own.
func (q *queue) Addr() net.Addr { return &net.TCPAddr{} }

// plain is a connection in plain text that some bytes have been read from. It
// reads ahead: net/http asks for the nine bytes of a frame's head and then for
// the rest, which would be two system calls for each. (TLS reads whole records.)
type plain struct {
	net.Conn
	early []byte // read, and not handed out
	room  [4 << 10]byte
}

// Read implements net.Conn; one goroutine reads.
func (p *plain) Read(b []byte) (int, error) {
	if len(p.early) == 0 {
		if len(b) >= len(p.room) {
			return p.Conn.Read(b)
		}
		n, err := p.Conn.Read(p.room[:])
		if n == 0 {
			return 0, err // one that came with bytes comes again
		}
		p.early = p.room[:n]
	}
	n := copy(b, p.early)
	p.early = p.early[n:]
	return n, nil
}
