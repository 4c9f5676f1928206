package compress

import (
	"errors"
	"io"
)

// chunk is how much of a stream is read at a time.
const chunk = 32 << 10

var errClosed = errors.New("the compressed reply is over")

// stream compresses a reply body as it comes. What has come is flushed before
// it waits for more, so that a slow reply is not held back.
type stream struct {
	from   io.Reader
	coding *coding
	w      *worker // nil once over
	held   bool    // Close is ignored
	err    error   // from from; told when what came before it has been read
}

func newStream(from io.Reader, c *coding) *stream {
	w := c.get()
	if w.in == nil {
		w.in = make([]byte, chunk)
	}
	return &stream{from: from, coding: c, w: w}
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if s.w == nil {
		if s.err == nil {
			return 0, errClosed
		}
		return 0, s.err
	}
	for s.w.out.Len() == 0 && s.err == nil {
		s.more()
	}
	if s.w.out.Len() > 0 {
		return s.w.out.Read(p)
	}
	s.release()
	return 0, s.err
}

// more compresses one read of the body.
func (s *stream) more() {
	n, err := s.from.Read(s.w.in)
	if n > 0 {
		must(s.w.enc.Write(s.w.in[:n]))
	}
	switch {
	case err == io.EOF:
		must(0, s.w.enc.Close())
	case err != nil:
		// What is broken must not look complete: no trailer of the encoding.
	case n > 0 && waits(s.from):
		must(0, s.w.enc.Flush())
	}
	s.err = err
}

// waits reports whether the next Read of r may take time.
func waits(r io.Reader) bool {
	b, ok := r.(interface{ BufferedNow() int })
	return ok && b.BufferedNow() == 0
}

// BufferedNow is how many bytes Read returns without waiting.
func (s *stream) BufferedNow() int {
	if s.w == nil {
		return 0
	}
	return s.w.out.Len()
}

// Hold lets the stream be wrapped again: Close is ignored meanwhile.
func (s *stream) Hold(on bool) {
	s.held = on
	if h, ok := s.from.(interface{ Hold(on bool) }); ok {
		h.Hold(on)
	}
}

// Close implements io.Closer.
func (s *stream) Close() error {
	if s.held {
		return nil
	}
	s.release()
	if c, ok := s.from.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (s *stream) release() {
	if s.w != nil {
		s.coding.put(s.w)
		s.w = nil
	}
}
