package h3

import (
	"io"
	"sync"
	"time"
)

// bodyIsUnusual tells the methods whose requests have no body, as a rule.
// HTTP/3 says that there is none only by ending the stream, perhaps in a packet
// of its own, whereas upstreams want to know beforehand.
func bodyIsUnusual(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT", "PROPFIND", "PURGE":
		return true
	}
	return false
}

// endTime is how long the end of such a request is waited for. A client that
// takes longer has a body in mind.
const endTime = time.Second

// peeked is a body of which the beginning is being read ahead. A read deadline
// would not do: it may strike inside a frame's head, and lose it.
type peeked struct {
	body io.ReadCloser
	done chan struct{} // the read ahead is over

	mu    sync.Mutex // of whoever reads
	ahead [512]byte
	rest  []byte
	err   error
}

func peek(body io.ReadCloser) *peeked {
	p := &peeked{body: body, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		n, err := body.Read(p.ahead[:])
		p.rest, p.err = p.ahead[:n], err
	}()
	return p
}

// empty waits for the first bytes of the body and reports that there are none.
func (p *peeked) empty() bool {
	t := time.NewTimer(endTime)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
	}
	return p.read() && len(p.rest) == 0 && p.err == io.EOF // who was late may have been us
}

// read reports that reading ahead is over.
func (p *peeked) read() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Read implements io.Reader.
func (p *peeked) Read(b []byte) (int, error) {
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rest) > 0 {
		n := copy(b, p.rest)
		p.rest = p.rest[n:]
		return n, nil
	}
	if p.err != nil {
		return 0, p.err
	}
	return p.body.Read(b)
}

// Close implements io.Closer; it interrupts Read.
func (p *peeked) Close() error { return p.body.Close() }

// finish ends the read ahead, of a body that nobody wants any more.
func (p *peeked) finish() {
	select {
	case <-p.done:
	default:
		_ = p.body.Close() // never fails
		<-p.done
	}
}
