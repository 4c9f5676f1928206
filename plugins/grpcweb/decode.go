package grpcweb

import (
	"bytes"
	"io"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// chunk is how much of a body is decoded or encoded at a time.
const chunk = 4 << 10

// decoder reads a body in base64. It is strict: only the standard alphabet,
// padded, whose unused bits are zero. Padding may come in the middle, because a
// client that sends piece by piece encodes each piece by itself.
type decoder struct {
	from io.Reader
	buf  [chunk]byte
	r, w int     // decoded bytes are buf[r:w]
	odd  [3]byte // characters of a group that is not complete
	n    int     // how many
	err  error   // told when what came before it has been read
}

// Read implements io.Reader.
func (d *decoder) Read(p []byte) (int, error) {
	for d.r == d.w {
		if d.err != nil {
			return 0, d.err
		}
		d.fill()
	}
	n := copy(p, d.buf[d.r:d.w])
	d.r += n
	return n, nil
}

// fill reads once and decodes in place.
func (d *decoder) fill() {
	copy(d.buf[:], d.odd[:d.n])
	n, err := d.from.Read(d.buf[d.n:])
	n += d.n
	d.r, d.w = 0, 0
	whole := n / 4 * 4
	d.n = copy(d.odd[:], d.buf[whole:n])
	w, ok := decodeGroups(d.buf[:], d.buf[:whole])
	d.w = w
	switch {
	case !ok:
		d.err = errBase64
	case err == io.EOF && d.n > 0:
		d.err = errBase64
	default:
		d.err = err
	}
}

var errBase64 = reason.BadGRPCMessage.Because("the body is not in base64, or not padded")

// decode is decoder for a body that is in memory.
func decode(b []byte) ([]byte, error) {
	out := make([]byte, len(b)/4*3)
	n, ok := decodeGroups(out, b)
	if !ok || len(b)%4 != 0 {
		return nil, errBase64
	}
	return out[:n], nil
}

// decodeGroups decodes groups of four characters, of which src has a whole
// number, into dst, which may begin where src does.
func decodeGroups(dst, src []byte) (n int, ok bool) {
	for ; len(src) >= 4; src = src[4:] {
		a, b, c, d := digits[src[0]], digits[src[1]], digits[src[2]], digits[src[3]]
		switch {
		case a|b|c|d < 64:
			dst[n], dst[n+1], dst[n+2] = a<<2|b>>4, b<<4|c>>2, c<<6|d
			n += 3
		case a|b|c < 64 && d == pad && c&3 == 0:
			dst[n], dst[n+1] = a<<2|b>>4, b<<4|c>>2
			n += 2
		case a|b < 64 && c == pad && d == pad && b&15 == 0:
			dst[n] = a<<2 | b>>4
			n++
		default:
			return n, false
		}
	}
	return n, true
}

// What digits says of characters that are no digits.
const (
	pad = 64
	bad = 128
)

var digits = func() (t [256]byte) {
	for i := range t {
		t[i] = bad
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		t[c] = byte(i)
	}
	t['='] = pad
	return t
}()

// lowerNames writes trailer lines with their names in lower case, as gRPC-Web
// wants them. It changes lines.
func lowerNames(lines []byte) {
	for len(lines) > 0 {
		line := lines
		if i := bytes.IndexByte(lines, '\n'); i >= 0 {
			line, lines = lines[:i], lines[i+1:]
		} else {
			lines = nil
		}
		for i, c := range line {
			if c == ':' {
				break
			}
			if c >= 'A' && c <= 'Z' {
				line[i] = c | 0x20
			}
		}
	}
}
