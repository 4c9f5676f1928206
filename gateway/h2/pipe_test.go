package h2_test

import (
	"net"
	"sync"
	"testing"
)

// newPipe is a connection in memory: ours is the client's side, theirs the
// server's, which remembers what was written with each call.
func newPipe() (ours net.Conn, theirs *pipe) {
	ours, other := net.Pipe()
	return ours, &pipe{Conn: other}
}

type pipe struct {
	net.Conn
	mu     sync.Mutex
	pieces [][]byte
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	p.pieces = append(p.pieces, append([]byte(nil), b...))
	p.mu.Unlock()
	return len(b), nil
}

// quiet waits until n frames have been written, and forgets them.
func (p *pipe) quiet(t *testing.T, n int) {
	t.Helper()
	eventually(t, "the greetings are over", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		got := 0
		for _, b := range p.pieces {
			for len(b) > 0 {
				got++
				b = b[9+(int(b[0])<<16|int(b[1])<<8|int(b[2])):]
			}
		}
		return got == n
	})
	p.mu.Lock()
	p.pieces = nil
	p.mu.Unlock()
}

// piece is the next that is written.
func (p *pipe) piece(t *testing.T) (b []byte) {
	t.Helper()
	eventually(t, "something is written", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.pieces) > 0 {
			b, p.pieces = p.pieces[0], p.pieces[1:]
		}
		return b != nil
	})
	return b
}
