package target

import (
	"net/netip"
	"unsafe"
)

// parseNode reads ADDRESS, IPV4:PORT or [IPV6]:PORT.
func parseNode(s []byte) (netip.Addr, bool) {
	if len(s) > 0 && s[0] == '[' {
		return parseBracketed(s)
	}
	colons := 0
	last := -1
	for i, c := range s {
		if c == ':' {
			colons, last = colons+1, i
		}
	}
	if colons == 1 {
		if parsePort(s[last+1:]) == 0 {
			return netip.Addr{}, false
		}
		s = s[:last]
	}
	a, ok := parseAddr(s)
	return a, ok && (colons != 1 || a.Is4())
}

func parseBracketed(s []byte) (netip.Addr, bool) {
	for i, c := range s {
		if c != ']' {
			continue
		}
		if rest := s[i+1:]; len(rest) > 0 && (rest[0] != ':' || parsePort(rest[1:]) == 0) {
			return netip.Addr{}, false
		}
		return parse6(s[1:i])
	}
	return netip.Addr{}, false
}

func parse6(s []byte) (netip.Addr, bool) {
	for _, c := range s {
		if c == ':' {
			return parseAddr(s)
		}
	}
	return netip.Addr{}, false
}

// parseAddr reads an address without zone. A zone means something on one
// machine only, so nobody can honestly send one.
func parseAddr(s []byte) (netip.Addr, bool) {
	if len(s) == 0 || len(s) > 45 {
		return netip.Addr{}, false
	}
	for _, c := range s {
		if unhex(c) < 0 && c != '.' && c != ':' {
			return netip.Addr{}, false
		}
	}
	// Without a zone ParseAddr keeps no part of its argument but in its error,
	// which is dropped: no copy is needed.
	a, err := netip.ParseAddr(unsafe.String(&s[0], len(s)))
	return a.Unmap(), err == nil
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

// equalFold compares with a lower-case word.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
