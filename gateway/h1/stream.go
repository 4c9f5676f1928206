package h1

import (
	"io"
	"strconv"

	"github.com/valyala/fasthttp"
)

// peeker is a body stream that knows how much it has without blocking.
type peeker interface{ BufferedNow() int }

const (
	// streamBuffer is how much of a streamed body goes out in one write.
	streamBuffer = 16 << 10
	// chunkHead and chunkTail are what a chunk costs around its data.
	chunkHead = len("004000\r\n")
	chunkTail = len("\r\n")
)

// sendStream copies a body stream to the client behind the head in o. What a
// Read returns goes out at once: events and slow bodies are never held back.
func (c *conn) sendStream(resp *fasthttp.Response, stream io.Reader, o []byte) bool {
	left := int64(resp.Header.ContentLength())
	chunked := left < 0 && !c.s.head.HTTP10
	switch {
	case left >= 0:
		o = append(o, "Content-Length: "...)
		o = strconv.AppendInt(o, left, 10)
		o = append(o, "\r\n\r\n"...)
	case chunked:
		o = append(o, "Transfer-Encoding: chunked\r\n\r\n"...)
	default:
		o = append(o, "\r\n"...)
	}
	if p, ok := stream.(peeker); !ok || p.BufferedNow() == 0 {
		if c.write(o) != nil {
			return false
		}
		o = o[:0]
	}
	if need := len(o) + chunkHead + streamBuffer + chunkTail; cap(o) < need {
		o = append(make([]byte, 0, need), o...)
	}
	c.s.out = o[:0]
	if chunked {
		return c.copyChunked(resp, stream, o)
	}
	return c.copyPlain(stream, o, left)
}

// copyPlain sends left bytes of stream, or all of it if left is negative.
func (c *conn) copyPlain(stream io.Reader, o []byte, left int64) bool {
	for left != 0 {
		at := len(o)
		b := o[at : at+streamBuffer]
		if left > 0 && int64(len(b)) > left {
			b = b[:left]
		}
		n, err := stream.Read(b)
		if n > 0 {
			if c.write(o[:at+n]) != nil {
				return false
			}
			o = o[:0]
			c.replied += int64(n)
			if left > 0 {
				left -= int64(n)
			}
		}
		switch {
		case err == io.EOF && left > 0, err != nil && err != io.EOF && left != 0:
			return false // it promised more
		case err == io.EOF:
			return len(o) == 0 || c.write(o) == nil
		}
	}
	return len(o) == 0 || c.write(o) == nil
}

// copyChunked sends all of stream in chunks, one for each Read.
func (c *conn) copyChunked(resp *fasthttp.Response, stream io.Reader, o []byte) bool {
	for {
		at := len(o)
		n, err := stream.Read(o[at+chunkHead : at+chunkHead+streamBuffer])
		if n > 0 {
			o = appendChunkSize(o, n)
			o = o[:at+chunkHead+n]
			o = append(o, "\r\n"...)
		}
		switch {
		case err == io.EOF:
			o = append(o, "0\r\n"...)
			o = append(o, c.s.trailers...)
			for _, k := range resp.Header.PeekTrailerKeys() {
				o = append(append(append(append(o, k...), ": "...), resp.Header.PeekBytes(k)...), "\r\n"...)
			}
			o = append(o, "\r\n"...)
			if c.write(o) != nil {
				return false
			}
			c.replied += int64(n)
			return true
		case err != nil:
			return false
		}
		if n == 0 {
			continue
		}
		if c.write(o) != nil {
			return false
		}
		c.replied += int64(n)
		o = o[:0]
	}
}

// appendChunkSize appends a size line of constant width, so that the data can
// be read into its place before its length is known.
func appendChunkSize(o []byte, n int) []byte {
	const digits = "0123456789abcdef"
	return append(o, digits[n>>20&15], digits[n>>16&15], digits[n>>12&15], digits[n>>8&15], digits[n>>4&15], digits[n&15], '\r', '\n')
}
