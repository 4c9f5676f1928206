package wire

import (
	"io"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Source is the connection a body is read from: bytes that have arrived
// already, and more of them. The server's and the upstream client's
// connections implement it.
type Source interface {
	// Buffered returns what has arrived and was not consumed.
	Buffered() []byte
	// Consume drops the first n buffered bytes; they stay valid until More.
	Consume(n int)
	// More blocks until there are more buffered bytes; io.EOF at the end.
	More() error
	// Direct reads past the buffer, which is empty. io.EOF at the end.
	Direct(p []byte) (int, error)
}

type bodyState uint8

const (
	stateDone bodyState = iota
	stateLength
	stateChunkSize
	stateChunkData
	stateChunkEnd
	stateTrailer
)

// Body decodes one message body. It ends with io.EOF at its true end only: a
// source that ends early is reason.BodyCut, bad chunks are reason.BadChunk, bad
// trailers reason.BadTrailer, too many bytes reason.BodyTooLarge; whatever else
// the source says is passed on. Errors are final. It is not safe for concurrent
// use. The zero value is an empty body.
type Body struct {
	// Count is how many bytes of the body have been read.
	Count int64
	// Trailers are the validated lines "Name: value\r\n" that followed a
	// chunked body. They are complete once AtEOF; forbidden names never get in.
	Trailers []byte

	src      Source
	state    bodyState
	left     int64 // bytes left of the body, or of the chunk
	max      int64 // -1: unlimited
	overhead int   // bytes of chunk extensions and trailers so far
	trailers int
	err      error
}

// Start begins a body: chunked, or n bytes long. More than limit bytes are
// refused; 0 means no limit.
func (b *Body) Start(src Source, chunked bool, n, limit int64) {
	*b = Body{src: src, left: n, max: -1, Trailers: b.Trailers[:0]}
	switch {
	case chunked:
		b.state, b.left = stateChunkSize, 0
	case n > 0:
		b.state = stateLength
	}
	if limit > 0 {
		b.Limit(limit)
	}
}

// Limit lowers the number of bytes that may be read; reading more fails with
// reason.BodyTooLarge, at once where the length is announced. A higher limit
// than the one in force, and a negative one, change nothing.
func (b *Body) Limit(limit int64) {
	if limit < 0 || b.max >= 0 && b.max <= limit {
		return
	}
	b.max = limit
	if b.state == stateLength && b.Count+b.left > limit && b.err == nil {
		b.err = reason.BodyTooLarge
	}
}

// AtEOF reports that the body was read to its end.
func (b *Body) AtEOF() bool { return b.state == stateDone }

// Remaining is how many bytes are left of a body of announced length that is
// still sound; ok is false for any other.
func (b *Body) Remaining() (n int64, ok bool) {
	return b.left, b.state == stateLength && b.err == nil
}

// Whole takes the complete body when it is buffered already and nothing of it
// was read, else nil. The bytes are valid until the source's next More. It
// counts as reading the body.
func (b *Body) Whole() []byte {
	if b.state != stateLength || b.err != nil || b.Count > 0 {
		return nil
	}
	p := b.src.Buffered()
	if int64(len(p)) < b.left {
		return nil
	}
	p = p[:b.left:b.left]
	b.src.Consume(len(p))
	b.Count += int64(len(p))
	b.left, b.state = 0, stateDone
	return p
}

// Read implements io.Reader. It hands out what has arrived rather than wait
// for p to be filled.
func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.state == stateDone {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	var n int
	var err error
	if b.state == stateLength {
		n, err = b.data(p)
		if b.left == 0 && err == nil {
			b.state, err = stateDone, io.EOF
		}
	} else {
		n, err = b.chunked(p)
	}
	b.Count += int64(n)
	if b.max >= 0 && b.Count > b.max {
		n, err = 0, reason.BodyTooLarge
	}
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// data reads of the b.left bytes that come next.
func (b *Body) data(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	if buf := b.src.Buffered(); len(buf) > 0 {
		n := copy(p, buf)
		b.src.Consume(n)
		b.left -= int64(n)
		return n, nil
	}
	n, err := b.src.Direct(p)
	b.left -= int64(n)
	if n > 0 {
		return n, nil // the error comes again
	}
	return 0, cutShort(err)
}

func (b *Body) more() error { return cutShort(b.src.More()) }

func cutShort(err error) error {
	if err == io.EOF {
		return reason.BodyCut
	}
	return err
}
