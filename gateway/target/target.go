// Package target turns what a client sent into what everyone sees: one path,
// one host, one client address, and the values of cookies and query
// parameters. Routing, WAF, plugins and upstream read the results and never
// the raw bytes, so that two of them cannot understand a request differently.
// Nothing here keeps or changes its input, and nothing allocates when the
// caller's buffer has room. It knows no configuration and no socket.
package target

// The kinds of byte in a path: as sent raw, and as an escape (%XX) stands for.
const (
	refuse  = iota
	plain   // part of a segment, always written raw
	delim   // written raw, except where a path parameter gives it a meaning
	encode  // part of a segment, always written as an escape
	slash   // separates segments
	param   // ';': begins a path parameter
	percent // begins an escape; as an escape it hides another one
	high    // a byte of a UTF-8 sequence, always written as an escape
)

// rawKind and escKind are the grammar of RFC 3986, section 3.3, and what is
// ambiguous in practice. Raw and escaped forms that every server reads alike
// get one spelling: an unprotected route must not be reachable by writing ':'
// as %3A. '+' and ';' keep theirs, because for some servers "+" is a space
// and ';' a parameter where %2B and %3B are letters.
var rawKind, escKind = kinds()

func kinds() (raw, esc [256]uint8) {
	set := func(t *[256]uint8, chars string, kind uint8) {
		for i := range len(chars) {
			t[chars[i]] = kind
		}
	}
	for _, t := range []*[256]uint8{&raw, &esc} {
		for c := range 256 {
			switch {
			case c|0x20 >= 'a' && c|0x20 <= 'z' && c < 0x80, c >= '0' && c <= '9':
				t[c] = plain
			case c >= 0x80:
				t[c] = high
			}
		}
		set(t, "-._~", plain)
		set(t, "!$&'()*,=:@", delim)
		set(t, "\"<>[]^`{|}", encode)
		set(t, "%", percent)
	}
	set(&raw, "+", plain)
	set(&raw, "/", slash)
	set(&raw, ";", param)
	set(&esc, " +;?#", encode)
	set(&esc, "/\\", slash)
	return raw, esc
}

const upperHex = "0123456789ABCDEF"

// unhex is the value of a hexadecimal digit, or -1.
func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// utf8Check accepts exactly the sequences of RFC 3629, one byte at a time: no
// overlong form, no surrogate, nothing above U+10FFFF.
type utf8Check struct {
	need   int
	lo, hi byte
}

func (u *utf8Check) next(b byte) bool {
	if u.need > 0 {
		if b < u.lo || b > u.hi {
			return false
		}
		u.need--
		u.lo, u.hi = 0x80, 0xBF
		return true
	}
	u.lo, u.hi = 0x80, 0xBF
	switch {
	case b < 0x80:
		return true
	case b < 0xC2:
		return false
	case b < 0xE0:
		u.need = 1
	case b < 0xF0:
		u.need = 2
		if b == 0xE0 {
			u.lo = 0xA0
		} else if b == 0xED {
			u.hi = 0x9F
		}
	case b < 0xF5:
		u.need = 3
		if b == 0xF0 {
			u.lo = 0x90
		} else if b == 0xF4 {
			u.hi = 0x8F
		}
	default:
		return false
	}
	return true
}
