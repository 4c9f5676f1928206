package target

import (
	"bytes"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Rules say what to do with paths that a client may write in several ways.
// The zero value is the strictest reading of slashes.
type Rules struct {
	// KeepEncodedSlashes lets %2F and %5C pass as escapes inside a segment.
	// Otherwise they are refused.
	KeepEncodedSlashes bool
	// MergeSlashes makes one slash of several in a row.
	MergeSlashes bool
	// RefuseDotSegments refuses "." and ".." instead of resolving them.
	RefuseDotSegments bool
	// RefusePathParams refuses every ';'. Without it only those are refused
	// that hide a dot segment or an empty one ("/..;/", "/;x/").
	RefusePathParams bool
}

// Normalize writes the one normal form of an absolute path without query, as
// it came in a request line ("*" stays). It returns path itself when that is
// normal, else its result is in dst's memory, whose contents are overwritten;
// dst must not overlap path.
//
// Escapes that every server reads like the letter they stand for are decoded,
// all others written in upper case; bytes that may not stand in a path are
// escaped; dot segments are resolved, encoded or not. What two servers could
// read differently is refused as reason.AmbiguousPath: encoded slashes,
// backslashes, control bytes, broken escapes, what is not UTF-8, ".." above
// the root, path parameters on dot or empty segments, and escaped escapes of
// dots, slashes, backslashes and control bytes (%252e), which the second of
// two servers in a row would decode. A %25 before anything else is a percent
// sign and stays. Normalizing twice is normalizing once.
func Normalize(dst, path []byte, rules Rules) ([]byte, *reason.Reason) {
	if len(path) == 0 || path[0] != '/' {
		if len(path) == 1 && path[0] == '*' {
			return path, nil
		}
		return nil, reason.BadTarget
	}
	if isNormal(path, rules.MergeSlashes) {
		return path, nil
	}
	n := normalizer{out: append(dst[:0], '/'), seg: 1, rules: rules}
	if !n.run(path[1:]) {
		return nil, reason.AmbiguousPath
	}
	if bytes.Equal(n.out, path) {
		return path, nil
	}
	return n.out, nil
}

// isNormal is the fast path: no escapes, no parameters, no dot segments.
func isNormal(path []byte, merge bool) bool {
	for i, c := range path {
		if k := rawKind[c]; k == plain || k == delim {
			continue
		} else if k != slash {
			return false
		}
		rest := path[i+1:]
		if len(rest) == 0 {
			return true
		}
		if rest[0] == '/' && merge || rest[0] == '.' && dotSegment(rest) {
			return false
		}
	}
	return true
}

// dotSegment reports that p, which begins with '.', begins with a dot segment.
func dotSegment(p []byte) bool {
	if len(p) > 1 && p[1] == '.' {
		p = p[1:]
	}
	return len(p) == 1 || p[1] == '/'
}

type normalizer struct {
	out      []byte
	seg      int  // where the current segment begins in out
	params   bool // the segment has a raw ';'
	slashes  bool // the segment has an encoded slash or backslash
	semi     bool // the segment has ';' or %3B
	percents bool // the segment has %25
	utf8     utf8Check
	rules    Rules
}

func (n *normalizer) run(path []byte) bool {
	for i := 0; i < len(path); i++ {
		c := path[i]
		kind := rawKind[c]
		if kind == percent {
			if i+2 >= len(path) {
				return false
			}
			h, l := unhex(path[i+1]), unhex(path[i+2])
			if h < 0 || l < 0 || !n.escape(byte(h<<4|l)) {
				return false
			}
			i += 2
			continue
		}
		if !n.utf8.next(c) {
			return false
		}
		switch kind {
		case plain, delim:
			n.out = append(n.out, c)
		case encode, high:
			n.put(c)
		case slash:
			if !n.end(false) {
				return false
			}
		case param:
			if n.rules.RefusePathParams {
				return false
			}
			n.out = append(n.out, c)
			n.params, n.semi = true, true
		default:
			return false
		}
	}
	return n.utf8.need == 0 && n.end(true)
}

// escape takes the escape of b.
func (n *normalizer) escape(b byte) bool {
	if !n.utf8.next(b) {
		return false
	}
	switch escKind[b] {
	case plain:
		n.out = append(n.out, b)
	case delim:
		if n.params {
			n.put(b) // a,b and a%2Cb are different values of a parameter
		} else {
			n.out = append(n.out, b)
		}
	case encode, high:
		n.put(b)
		n.semi = n.semi || b == ';'
	case slash:
		if !n.rules.KeepEncodedSlashes {
			return false
		}
		n.put(b)
		n.slashes = true
	case percent:
		n.put(b)
		n.percents = true
	default:
		return false
	}
	return true
}

func (n *normalizer) put(b byte) {
	n.out = append(n.out, '%', upperHex[b>>4], upperHex[b&15])
}

// hidesEscape reports that a normalised segment has %25, or %2525 and so on,
// and then the digits of a byte that must not appear when somebody decodes
// once more. It looks at what was written, since the digits may have been
// escaped too (%25%32%65).
func hidesEscape(name []byte) bool {
	for {
		i := bytes.Index(name, []byte("%25"))
		if i < 0 {
			return false
		}
		name = name[i+3:]
		p := name
		for len(p) >= 2 && p[0] == '2' && p[1] == '5' {
			p = p[2:]
		}
		if len(p) < 2 {
			continue
		}
		h, l := unhex(p[0]), unhex(p[1])
		if h < 0 || l < 0 {
			continue
		}
		b := byte(h<<4 | l)
		if b < 0x20 || b == 0x7f || b == '.' || b == '/' || b == '\\' {
			return true
		}
	}
}

// end finishes the segment before a slash, or the last one.
func (n *normalizer) end(last bool) bool {
	name := n.out[n.seg:]
	if n.percents {
		if hidesEscape(name) {
			return false
		}
		n.percents = false
	}
	if n.semi || n.slashes {
		if hidesDots(name, n.semi, n.slashes) {
			return false
		}
		n.params, n.semi, n.slashes = false, false, false
	}
	switch {
	case len(name) == 0:
		if n.rules.MergeSlashes {
			return true
		}
	case string(name) == ".", string(name) == "..":
		if n.rules.RefuseDotSegments {
			return false
		}
		n.out = n.out[:n.seg]
		if len(name) == 1 {
			return true
		}
		if n.seg == 1 {
			return false
		}
		n.seg = bytes.LastIndexByte(n.out[:n.seg-1], '/') + 1
		n.out = n.out[:n.seg]
		return true
	}
	if !last {
		n.out = append(n.out, '/')
		n.seg = len(n.out)
	}
	return true
}

// hidesDots reports that a server which cuts path parameters or decodes
// slashes would find a dot segment, or an empty one, in name.
func hidesDots(name []byte, semi, slashes bool) bool {
	for more := true; more; {
		var part []byte
		part, name, more = cutSlash(name)
		cut := false
		if semi {
			part, cut = cutParam(part)
		}
		switch {
		case len(part) == 0 && cut,
			len(part) <= 2 && len(part) > 0 && len(bytes.Trim(part, ".")) == 0 && (cut || slashes):
			return true
		}
	}
	return false
}

// cutSlash cuts a normalised segment at its first encoded slash or backslash.
func cutSlash(s []byte) (before, after []byte, found bool) {
	for i := 0; i+2 < len(s); i++ {
		if s[i] == '%' && (s[i+1] == '2' && s[i+2] == 'F' || s[i+1] == '5' && s[i+2] == 'C') {
			return s[:i], s[i+3:], true
		}
	}
	return s, nil, false
}

func cutParam(s []byte) (name []byte, found bool) {
	for i, c := range s {
		if c == ';' || c == '%' && i+2 < len(s) && s[i+1] == '3' && s[i+2] == 'B' {
			return s[:i], true
		}
	}
	return s, false
}
