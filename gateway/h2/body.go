package h2

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// body is the body stream of one request. A reader in another goroutine (an
// upload that goes on while the reply comes) is allowed for. It ends with io.EOF
// at the body's true end only; its errors are final.
type body struct {
	s     *stream
	c     *conn
	count atomic.Int64
	done  atomic.Bool // read to its end

	// What follows is guarded by c.mu.
	canRead  sync.Cond
	buffer   frames.Buffer
	length   int64 // as announced, -1 if it was not
	got, max int64 // received; allowed, -1: all
	closed   error // io.EOF once it has ended, or why it has not; nil while it goes on
	waits    bool  // the client waits for 100 Continue
	broke    bool  // InterruptBody was called
	over     bool  // the request is: nothing is read any more
	late     bool  // the reader has waited for too long
	readBy   int64 // coarse time until which it may; 0: for ever
	began    int64 // coarse time since when it does
	err      error
	trailers []byte
}

// begin is called once for each request, with a body or without.
func (b *body) begin(s *stream) {
	b.s, b.c = s, s.c
	b.canRead.L = &s.c.mu
	b.buffer.Reset() // it is empty: nothing must ever come from another request
	b.length, b.got, b.max = -1, 0, -1
	b.closed, b.err = nil, nil
	b.waits, b.broke, b.over, b.late = false, false, false, false
	b.readBy = 0
	b.trailers = b.trailers[:0]
	b.count.Store(0)
	b.done.Store(false)
}

// put adds what has come. c.mu is held.
func (b *body) put(p []byte) {
	b.got += int64(len(p))
	if b.over || len(p) == 0 {
		b.c.owe(len(p)) // nobody reads it
		return
	}
	b.buffer.Write(p)
	b.canRead.Signal()
}

// endOfBody notes that the client has ended its side; why is nil, or what is
// wrong with it. c.mu is held.
func (s *stream) endOfBody(why error) {
	s.ended = true
	b := s.body
	switch {
	case b.closed != nil:
		return
	case why != nil:
		b.closed = why
	case b.got < b.length:
		b.closed = reason.BodyCut
	default:
		b.closed = io.EOF
	}
	b.canRead.Signal()
}

// lower sets the limit, if it is lower than that in force. c.mu is held.
func (b *body) lower(limit int64) {
	if limit < 0 || b.max >= 0 && b.max <= limit || b.done.Load() {
		return
	}
	b.max = limit
	if b.length > limit && b.err == nil {
		b.err = reason.BodyTooLarge
	}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) == 0 {
		return 0, b.err
	}
	if err := b.await(); err != nil {
		return 0, err
	}
	n := b.buffer.Read(p)
	err := b.took(n)
	return n - b.excess(err, n), err
}

// excess is how much of n bytes is not handed out because of err.
func (b *body) excess(err error, n int) int {
	if err == reason.BodyTooLarge {
		return n
	}
	return 0
}

// await waits until there is something to read, or an error. c.mu is held, but
// not while waiting.
func (b *body) await() error {
	for {
		switch {
		case b.over:
			return errOver
		case b.err != nil:
			return b.err
		case b.broke:
			return errInterrupted
		case b.buffer.Len() > 0 || b.closed == io.EOF:
			return nil
		case b.closed != nil:
			b.err = b.closed
			return b.err
		case b.s.reset || b.c.gone || b.c.dead:
			b.err = reason.BodyCut.Wrap(errGone)
			return b.err
		case b.late:
			b.err = reason.BodyTimeout
			return b.err
		}
		if b.waits {
			b.waits = false
			b.s.sayContinue()
		}
		b.began = b.c.srv.clock.Now()
		b.readBy = b.c.srv.clock.After(b.s.settings.BodyTimeout)
		b.canRead.Wait()
		b.readBy = 0
	}
}

// took accounts for n bytes that have been read. c.mu is held.
func (b *body) took(n int) error {
	got := b.count.Add(int64(n))
	if n > 0 {
		b.c.owe(n)
		b.s.owe(n)
		b.c.kick()
	}
	switch {
	case b.max >= 0 && got > b.max:
		b.err = reason.BodyTooLarge
	case b.buffer.Len() > 0 || b.closed == nil:
		return nil
	case b.closed == io.EOF:
		b.err = io.EOF
		b.done.Store(true)
	}
	return b.err
}

// Whole returns the complete body if it has been received and nothing of it was
// read, else nil; it counts as reading it. One whose length was not announced is
// read as a stream however soon it came: the upstream is told the same each time.
func (b *body) Whole() []byte {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.length < 0 || b.over || b.err != nil || b.broke || b.closed != io.EOF || b.count.Load() > 0 || b.max >= 0 && b.got > b.max {
		return nil
	}
	p, ok := b.buffer.One()
	if !ok || len(p) == 0 {
		return nil
	}
	b.count.Store(int64(len(p)))
	b.c.owe(len(p))
	b.err = io.EOF
	b.done.Store(true)
	return p
}

// end makes sure that nobody reads this body any more. c.mu is held.
func (b *body) end() {
	b.over = true
	if !b.done.Load() {
		b.c.owe(b.buffer.Len())
	}
	if b.s.dirty {
		b.buffer = frames.Buffer{} // what Whole has lent may still be read
	}
	b.buffer.Reset()
	b.canRead.Broadcast()
}
