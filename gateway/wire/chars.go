package wire

import (
	"encoding/binary"
	"strings"
)

// The character classes of RFC 9110 5.6.2 (token) and RFC 3986, as far as heads need them.
var (
	tokenChar = classOf(func(c byte) bool {
		return alnum(c) || c < 128 && strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
	})
	hostChar = classOf(func(c byte) bool { return alnum(c) || c == '-' || c == '.' || c == '_' })
	// targetChar leaves bytes above 0x7f in: they are sent, and mean one thing.
	targetChar = classOf(func(c byte) bool { return c > 0x20 && c != 0x7f && c != '#' })
)

func classOf(in func(byte) bool) (t [256]bool) {
	for c := range t {
		t[c] = in(byte(c))
	}
	return t
}

func alnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isHex(c byte) bool { return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

const lowBits, highBits = 0x0101010101010101, 0x8080808080808080

// hasControl reports a byte below 0x20 or 0x7f in b, tab excepted. It looks at
// eight bytes at a time: header values are most of a head.
func hasControl(b []byte) bool {
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		d := x ^ (lowBits * 0x7f)
		if ((x-lowBits*0x20)&^x|(d-lowBits)&^d)&highBits != 0 && hasControlSlow(b[:8]) {
			return true
		}
		b = b[8:]
	}
	return hasControlSlow(b)
}

func hasControlSlow(b []byte) bool {
	for _, c := range b {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

// EqualFold reports whether b is lower, an ASCII string in lower case, in any case.
func EqualFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// SameName reports whether two field names are the same to applications that
// get them the way CGI hands them over, without case and with '_' for '-'.
func SameName[A, B string | []byte](a A, b B) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if a[i] != b[i] && nameFold(a[i]) != nameFold(b[i]) {
			return false
		}
	}
	return true
}

func nameFold(c byte) byte {
	switch {
	case c >= 'A' && c <= 'Z':
		return c | 0x20
	case c == '_':
		return '-'
	}
	return c
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// nextToken cuts the first element off a comma-separated list.
func nextToken(list []byte) (token, rest []byte) {
	for i, c := range list {
		if c == ',' {
			return trim(list[:i]), list[i+1:]
		}
	}
	return trim(list), nil
}

// contentLength reads a Content-Length value; ok is false unless it is 1 to 18 digits.
func contentLength(v []byte) (n int64, ok bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	for _, c := range v {
		if !isDigit(c) {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
