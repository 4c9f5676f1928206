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

// plain is a connection some bytes of which have been read.
type plain struct {
	net.Conn
	early []byte
}

// Read implements net.Conn.
func (p *plain) Read(b []byte) (int, error) {
	if len(p.early) > 0 {
		n := copy(b, p.early)
		if p.early = p.early[n:]; len(p.early) == 0 {
			p.early = nil
		}
		return n, nil
	}
	return p.Conn.Read(b)
}
