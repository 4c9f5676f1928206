package target

import (
	"bytes"
	"net/netip"
)

// WalkForwarded is WalkXForwardedFor for Forwarded (RFC 7239), which also
// tells the scheme that the client used towards the outermost proxy believed.
// It stops believing at an element that is malformed, hides its node
// ("unknown", "_name") or names none.
//
// Elements are cut from the right, so that an unbalanced quote in what the
// client sent cannot hide what a trusted proxy appended.
func (t *Trust) WalkForwarded(peer netip.Addr, scheme string, lines [][]byte) (netip.Addr, string) {
	client := peer
	for i := len(lines) - 1; i >= 0; i-- {
		line := lines[i]
		for more := true; more; {
			var item []byte
			line, item, more = cutLastElement(line)
			if len(item) == 0 {
				continue
			}
			var el element
			if !el.parse(item) {
				return client, scheme
			}
			scheme = schemeOf(el.proto, scheme)
			a, ok := parseForNode(el.node)
			if !ok {
				return client, scheme
			}
			client = a
			if !t.Trusts(a) {
				return client, scheme
			}
		}
	}
	return client, scheme
}

// cutLastElement takes the last element off a list whose elements may have
// quoted strings. From the right, the first quote closes a string, and the
// next one that no backslash escapes opened it.
func cutLastElement(line []byte) (rest, item []byte, more bool) {
	quoted := false
	for i := len(line) - 1; i >= 0; i-- {
		switch line[i] {
		case '"':
			if !quoted || !escaped(line[:i]) {
				quoted = !quoted
			}
		case ',':
			if !quoted {
				return line[:i], trim(line[i+1:]), true
			}
		}
	}
	return nil, trim(line), false
}

// escaped reports whether the byte after before has a backslash that counts.
func escaped(before []byte) bool {
	n := 0
	for n < len(before) && before[len(before)-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

// element is one forwarded-element: the values of for and proto, unquoted.
type element struct{ node, proto []byte }

const (
	seenFor = 1 << iota
	seenProto
	seenBy
	seenHost
)

// parse reads pairs separated by semicolons, each parameter at most once. It
// allows white space around semicolons, which RFC 7239 does not but everybody
// sends.
func (e *element) parse(s []byte) bool {
	seen := 0
	for len(s) > 0 {
		n := 0
		for n < len(s) && isToken(s[n]) {
			n++
		}
		if n == 0 {
			if s[0] != ';' {
				return false
			}
			s = trim(s[1:]) // an empty pair
			continue
		}
		if n == len(s) || s[n] != '=' {
			return false
		}
		value, after, ok := cutValue(s[n+1:])
		if !ok {
			return false
		}
		bit := 0
		switch name := s[:n]; {
		case equalFold(name, "for"):
			e.node, bit = value, seenFor
		case equalFold(name, "proto"):
			e.proto, bit = value, seenProto
		case equalFold(name, "by"):
			bit = seenBy
		case equalFold(name, "host"):
			bit = seenHost
		}
		if seen&bit != 0 {
			return false
		}
		seen |= bit
		s = trim(after)
		if len(s) > 0 && s[0] != ';' {
			return false
		}
	}
	return true
}

// cutValue reads a token or a quoted string. A quoted string with escapes is
// returned as it is: no node and no scheme has any.
func cutValue(s []byte) (value, after []byte, ok bool) {
	if len(s) == 0 {
		return nil, nil, false
	}
	if s[0] != '"' {
		n := 0
		for n < len(s) && isToken(s[n]) {
			n++
		}
		return s[:n], s[n:], n > 0
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return s[1:i], s[i+1:], true
		case c == '\\':
			i++
			if i == len(s) || s[i] < 0x20 && s[i] != '\t' || s[i] == 0x7f {
				return nil, nil, false
			}
		case c < 0x20 && c != '\t' || c == 0x7f:
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// parseForNode reads the address of a node (RFC 7239, section 6): IPv4 or
// bracketed IPv6, with or without a port, which may be obfuscated.
func parseForNode(s []byte) (netip.Addr, bool) {
	if len(s) > 0 && s[0] == '[' {
		i := bytes.IndexByte(s, ']')
		if i < 0 || i+1 < len(s) && (s[i+1] != ':' || !validNodePort(s[i+2:])) {
			return netip.Addr{}, false
		}
		return parse6(s[1:i])
	}
	if i := bytes.IndexByte(s, ':'); i >= 0 {
		if !validNodePort(s[i+1:]) {
			return netip.Addr{}, false
		}
		s = s[:i]
	}
	return parseAddr(s)
}

// validNodePort accepts digits or an obfuscated port ("_" and letters, digits, ".", "_", "-").
func validNodePort(p []byte) bool {
	if len(p) == 0 || p[0] != '_' {
		return parsePort(p) != 0 || string(p) == "0"
	}
	for _, c := range p[1:] {
		if rawKind[c] != plain || c == '~' || c == '+' {
			return false
		}
	}
	return len(p) > 1
}

// isToken reports a tchar (RFC 9110, 5.6.2).
func isToken(c byte) bool {
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' && c < 0x80
}
