package frames

import (
	"strings"
	"unsafe"
)

// What a field may consist of (RFC 9113, 8.2.1, RFC 9110, 5.5 and 5.6.2).
var nameChar, valueChar = func() (name, value [256]bool) {
	for c := range 256 {
		lower := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		name[c] = lower || c < 128 && strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
		value[c] = c >= ' ' && c != 0x7f || c == '\t'
	}
	return name, value
}()

// ValidName reports that a field may be called that: a token in lower case.
// Pseudo-header fields are none.
func ValidName(s string) bool {
	for i := range len(s) {
		if !nameChar[s[i]] {
			return false
		}
	}
	return len(s) > 0
}

// ValidValue reports that a field may say that: no control character, so that no
// line of HTTP/1 ends there. White space around it is tolerated; see Trim.
func ValidValue(s string) bool {
	for i := range len(s) {
		if !valueChar[s[i]] {
			return false
		}
	}
	return true
}

// Trim removes white space around a value.
func Trim(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// OfConnection reports the fields that concern one connection of HTTP/1 and have
// no place in HTTP/2 (RFC 9113, 8.2.2). name is in lower case.
func OfConnection(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return true
	}
	return false
}

// Lower puts a name into lower case, in place.
func Lower(name []byte) []byte {
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			name[i] = c | 0x20
		}
	}
	return name
}

// Title appends a name in lower case the way HTTP/1 writes it: Content-Type.
func Title(b []byte, name string) []byte {
	at, up := len(b), true
	b = append(b, name...)
	for i := at; i < len(b); i++ {
		if c := b[i]; up && c >= 'a' && c <= 'z' {
			b[i] = c - 0x20
		}
		up = b[i] == '-'
	}
	return b
}

// Text is b as a string, for as long as b does not change.
func Text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
