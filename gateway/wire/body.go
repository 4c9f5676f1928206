package wire

import (
	"bytes"
	"io"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Source gives buffered bytes and refills them; the server's and the upstream client's connections implement it.
type Source interface {
	Buffered() []byte
	Consume(n int)
	More() error                  // blocks; io.EOF at the end
	Direct(p []byte) (int, error) // read past an empty buffer
}

const (
	bNone = iota
	bLength
	bChunkSize
	bChunkData
	bChunkEnd
	bTrailer
	bDone
)

// Body decodes one message body. Clean io.EOF only at its true end.
type Body struct {
	src      Source
	st       int
	left     int64
	extra    int // bytes of chunk extensions + trailers so far
	Count    int64
	Max      int64
	err      error
	Trailers []byte       // raw, validated lines "Name: value\r\n"
	First    func() error // runs before the first read: sends 100 Continue
}

func (b *Body) Start(src Source, chunked bool, n, max int64) {
	tr := b.Trailers[:0]
	*b = Body{src: src, left: n, Max: max, Trailers: tr}
	switch {
	case chunked:
		b.st = bChunkSize
	case n > 0:
		b.st = bLength
	default:
		b.st = bDone
	}
	if max > 0 && n > max {
		b.err = reason.BodyTooLarge
	}
}

// Limit lowers the number of bytes that may be read; reading more fails with
// reason.BodyTooLarge, at once where the length is announced.
func (b *Body) Limit(max int64) {
	if b.Max > 0 && b.Max <= max {
		return
	}
	b.Max = max
	if b.st == bLength && b.Count+b.left > max && b.err == nil {
		b.err = reason.BodyTooLarge
	}
}

// AtEOF reports that the body was read to its end.
func (b *Body) AtEOF() bool  { return b.st == bDone || b.st == bNone }
func (b *Body) Left() int64  { return b.left }
func (b *Body) Length() bool { return b.st == bLength }

func (b *Body) more() error {
	err := b.src.More()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.st == bDone || b.st == bNone {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.First != nil {
		f := b.First
		b.First = nil
		if err := f(); err != nil {
			b.err = err
			return 0, err
		}
	}
	n, err := b.read(p)
	b.Count += int64(n)
	if b.Max > 0 && b.Count > b.Max {
		n, err = 0, reason.BodyTooLarge
	}
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

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
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if n > 0 {
		err = nil
	}
	return n, err
}

func (b *Body) read(p []byte) (n int, err error) {
	for {
		switch b.st {
		case bLength:
			n, err = b.data(p)
			if b.left == 0 && err == nil {
				b.st = bDone
				return n, io.EOF
			}
			return n, err
		case bChunkSize:
			if n > 0 && bytes.IndexByte(b.src.Buffered(), '\n') < 0 {
				return n, nil // hand out what we have rather than wait for the next chunk
			}
			line, err := b.line(1024)
			if err != nil {
				return n, err
			}
			size, i := int64(0), 0
			for i < len(line) && isHex(line[i]) {
				c := line[i]
				if c |= 0x20; c >= 'a' {
					c -= 'a' - 10
				} else {
					c = line[i] - '0'
				}
				size = size<<4 | int64(c)
				if i++; i > 15 {
					return n, reason.BadChunk
				}
			}
			if i == 0 || i < len(line) && (line[i] != ';' || hasControl(line[i:])) {
				return n, reason.BadChunk
			}
			if b.extra += len(line) - i; b.extra > 16<<10 {
				return n, reason.BadChunk
			}
			b.src.Consume(len(line) + 2)
			b.left = size
			if size == 0 {
				b.st = bTrailer
			} else {
				b.st = bChunkData
			}
		case bChunkData:
			if n > 0 {
				if len(p) == 0 || len(b.src.Buffered()) == 0 {
					return n, nil
				}
			}
			m, err := b.data(p)
			n, p = n+m, p[m:]
			if err != nil {
				return n, err
			}
			if b.left == 0 {
				b.st = bChunkEnd
			}
			if len(p) == 0 {
				return n, nil
			}
		case bChunkEnd:
			for len(b.src.Buffered()) < 2 {
				if n > 0 {
					return n, nil
				}
				if err := b.more(); err != nil {
					return n, err
				}
			}
			if buf := b.src.Buffered(); buf[0] != '\r' || buf[1] != '\n' {
				return n, reason.BadChunk
			}
			b.src.Consume(2)
			b.st = bChunkSize
		case bTrailer:
			if n > 0 && bytes.IndexByte(b.src.Buffered(), '\n') < 0 {
				return n, nil
			}
			line, err := b.line(8 << 10)
			if err != nil {
				return n, err
			}
			if len(line) == 0 {
				b.src.Consume(2)
				b.st = bDone
				return n, io.EOF
			}
			q := 0
			for q < len(line) && tokenChar[line[q]] {
				q++
			}
			if q == 0 || q == len(line) || line[q] != ':' || hasControl(line[q:]) || forbiddenTrailer(line[:q]) {
				return n, reason.BadTrailer
			}
			if b.extra += len(line); b.extra > 16<<10 {
				return n, reason.BadTrailer
			}
			b.Trailers = append(append(b.Trailers, line...), "\r\n"...)
			b.src.Consume(len(line) + 2)
		case bDone:
			return n, io.EOF
		}
	}
}

// line returns the next CRLF line without consuming it.
func (b *Body) line(max int) ([]byte, error) {
	for {
		buf := b.src.Buffered()
		i := bytes.IndexByte(buf, '\n')
		if i >= 0 {
			if i == 0 || buf[i-1] != '\r' || i > max {
				return nil, reason.BadChunk
			}
			return buf[:i-1], nil
		}
		if len(buf) > max {
			return nil, reason.BadChunk
		}
		if err := b.more(); err != nil {
			return nil, err
		}
	}
}

// what must never arrive as a trailer: framing, routing, authentication, request modifiers
func forbiddenTrailer(n []byte) bool {
	for _, s := range [...]string{"content-length", "transfer-encoding", "host", "authorization", "proxy-authorization", "cookie", "set-cookie", "connection", "te", "trailer", "upgrade", "expect", "content-encoding", "content-type", "content-range", "cache-control", "max-forwards", "range", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "keep-alive", "www-authenticate", "proxy-authenticate"} {
		if EqualFold(n, s) {
			return true
		}
	}
	return false
}

// Whole takes the complete body when it is already buffered; the bytes stay valid until the reply is finished.
func (b *Body) Whole() []byte {
	if b.st != bLength || b.err != nil || b.First != nil {
		return nil
	}
	p := b.src.Buffered()
	if int64(len(p)) < b.left {
		return nil
	}
	p = p[:b.left]
	b.src.Consume(len(p))
	b.Count, b.left, b.st = int64(len(p)), 0, bDone
	return p
}
