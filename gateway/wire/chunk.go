package wire

import (
	"bytes"
	"io"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

const (
	// maxChunkLine is for the size and its extensions, which nobody uses.
	maxChunkLine = 1 << 10
	// maxChunkDigits keeps a size within an int64.
	maxChunkDigits = 15
	maxTrailerLine = 8 << 10
	maxTrailers    = 100
	// maxOverhead bounds all extensions and trailers of one body: they reach
	// nobody's limits otherwise.
	maxOverhead = 16 << 10
)

// chunked reads a chunked body into p. Once it has bytes it returns rather
// than wait for the next chunk.
func (b *Body) chunked(p []byte) (n int, err error) {
	for {
		switch b.state {
		case stateChunkSize, stateTrailer:
			if n > 0 && bytes.IndexByte(b.src.Buffered(), '\n') < 0 {
				return n, nil
			}
			if b.state == stateTrailer {
				err = b.trailerLine()
			} else {
				err = b.chunkSize()
			}
			if err != nil {
				return n, err
			}
		case stateChunkData:
			if n > 0 && (len(p) == 0 || len(b.src.Buffered()) == 0) {
				return n, nil
			}
			m, err := b.data(p)
			n, p = n+m, p[m:]
			if err != nil {
				return n, err
			}
			if b.left == 0 {
				b.state = stateChunkEnd
			}
		case stateChunkEnd:
			if n > 0 && len(b.src.Buffered()) < 2 {
				return n, nil
			}
			if err := b.chunkEnd(); err != nil {
				return n, err
			}
		case stateDone:
			return n, io.EOF
		}
	}
}

func (b *Body) chunkSize() error {
	line, err := b.line(maxChunkLine, reason.BadChunk)
	if err != nil {
		return err
	}
	size, i := int64(0), 0
	for i < len(line) && isHex(line[i]) {
		if i == maxChunkDigits {
			return reason.BadChunk
		}
		size = size<<4 | int64(hexValue(line[i]))
		i++
	}
	if i == 0 {
		return reason.BadChunk
	}
	if extension := line[i:]; len(extension) > 0 {
		b.overhead += len(extension)
		if extension[0] != ';' || hasControl(extension) || b.overhead > maxOverhead {
			return reason.BadChunk
		}
	}
	b.src.Consume(len(line) + 2)
	b.left, b.state = size, stateChunkData
	if size == 0 {
		b.state = stateTrailer
	}
	return nil
}

func (b *Body) chunkEnd() error {
	for len(b.src.Buffered()) < 2 {
		if buf := b.src.Buffered(); len(buf) == 1 && buf[0] != '\r' {
			return reason.BadChunk
		}
		if err := b.more(); err != nil {
			return err
		}
	}
	if buf := b.src.Buffered(); buf[0] != '\r' || buf[1] != '\n' {
		return reason.BadChunk
	}
	b.src.Consume(2)
	b.state = stateChunkSize
	return nil
}

func (b *Body) trailerLine() error {
	line, err := b.line(maxTrailerLine, reason.BadTrailer)
	if err != nil {
		return err
	}
	if len(line) == 0 {
		b.src.Consume(2)
		b.state = stateDone
		return nil
	}
	q := 0
	for q < len(line) && tokenChar[line[q]] {
		q++
	}
	b.overhead += len(line)
	b.trailers++
	if q == 0 || q == len(line) || line[q] != ':' || hasControl(line[q:]) ||
		b.overhead > maxOverhead || b.trailers > maxTrailers || ForbiddenTrailer(line[:q]) {
		return reason.BadTrailer
	}
	b.Trailers = append(append(b.Trailers, line...), "\r\n"...)
	b.src.Consume(len(line) + 2)
	return nil
}

// line returns the next line without its CRLF, and does not consume it. bad is
// what a line that is too long or ends otherwise is refused with.
func (b *Body) line(limit int, bad *reason.Reason) ([]byte, error) {
	for seen := 0; ; {
		buf := b.src.Buffered()
		if i := bytes.IndexByte(buf[seen:], '\n'); i >= 0 {
			i += seen
			if i == 0 || buf[i-1] != '\r' || i > limit {
				return nil, bad
			}
			return buf[:i-1], nil
		}
		if len(buf) > limit {
			return nil, bad
		}
		seen = len(buf)
		if err := b.more(); err != nil {
			return nil, err
		}
	}
}

// AppendTrailer appends the line of a trailer that did not come in a chunked
// body, under the rules for those that do; false, if it must not be.
func AppendTrailer(lines []byte, name, value string) (_ []byte, ok bool) {
	at := len(lines)
	lines = append(append(append(lines, name...), ": "...), value...)
	n := lines[at : at+len(name)]
	for _, c := range n {
		if !tokenChar[c] {
			return lines[:at], false
		}
	}
	if len(n) == 0 || hasControl(lines[at:]) || len(lines) > maxOverhead || ForbiddenTrailer(n) {
		return lines[:at], false
	}
	return append(lines, "\r\n"...), true
}

func hexValue(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return (c | 0x20) - 'a' + 10
}

// ForbiddenTrailer names what must never come behind a body: framing, routing,
// authentication, whom a proxy speaks for, and whatever else changes how the
// request is understood, with '_' for '-' as well: there are applications that
// take trailers for headers. One of them ends the request; dropping it silently
// would let a sender believe in it.
func ForbiddenTrailer(name []byte) bool {
	for _, s := range [...]string{
		"content-length", "transfer-encoding", "host", "connection", "keep-alive",
		"te", "trailer", "upgrade", "expect", "max-forwards", "range",
		"authorization", "proxy-authorization", "www-authenticate", "proxy-authenticate",
		"cookie", "set-cookie", "cache-control",
		"content-encoding", "content-type", "content-range",
		"forwarded", "x-real-ip", "client-cert", "client-cert-chain", "early-data",
	} {
		if SameName(name, s) {
			return true
		}
	}
	const claims = "x-forwarded-"
	return len(name) > len(claims) && SameName(name[:len(claims)], claims)
}
