package wire

import (
	"bytes"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// validTarget checks the bytes of a request target, which is not empty, and
// the percent escapes of its path. A query's escapes are the application's.
func validTarget(t []byte) bool {
	escaped, inQuery := false, false
	for _, c := range t {
		if !targetChar[c] {
			return false
		}
		inQuery = inQuery || c == '?'
		escaped = escaped || c == '%' && !inQuery
	}
	return !escaped || validEscapes(t)
}

func validEscapes(t []byte) bool {
	for i := 0; i < len(t) && t[i] != '?'; i++ {
		if t[i] != '%' {
			continue
		}
		if i+2 >= len(t) || !isHex(t[i+1]) || !isHex(t[i+2]) {
			return false
		}
		i += 2
	}
	return true
}

// resolveTarget brings the target into origin-form.
func (h *Head) resolveTarget() *reason.Reason {
	t := h.Target
	if t[0] == '/' {
		return nil
	}
	if len(t) == 1 && t[0] == '*' {
		if string(h.Method) != "OPTIONS" {
			return reason.BadTarget
		}
		return nil
	}
	i := bytes.Index(t, []byte("://"))
	if i < 0 || !EqualFold(t[:i], "http") && !EqualFold(t[:i], "https") {
		return reason.BadTarget
	}
	t = t[i+3:]
	end := bytes.IndexAny(t, "/?")
	if end < 0 {
		end = len(t)
	}
	authority, path := t[:end], t[end:]
	if !validHost(authority) || !bytes.EqualFold(authority, h.Host) {
		return reason.AuthorityDiffers
	}
	switch {
	case len(path) == 0:
		path = []byte("/")
	case path[0] == '?': // "http://h?q" has no path; nobody sends it
		return reason.BadTarget
	}
	h.Target = path
	return nil
}

// maxHost is a DNS name of 255 bytes, a colon and a port.
const maxHost = 255 + 6

// validHost accepts a host name, an IPv4 address or an IPv6 address in
// brackets, with or without a port.
func validHost(v []byte) bool {
	if len(v) == 0 || len(v) > maxHost {
		return false
	}
	if v[0] == '[' {
		i := bytes.IndexByte(v, ']')
		if i < 3 {
			return false
		}
		for _, c := range v[1:i] {
			if !isHex(c) && c != ':' && c != '.' {
				return false
			}
		}
		return len(v) == i+1 || v[i+1] == ':' && validPort(v[i+2:])
	}
	for i, c := range v {
		if c == ':' {
			return i > 0 && validPort(v[i+1:])
		}
		if !hostChar[c] {
			return false
		}
	}
	return true
}

func validPort(p []byte) bool {
	if len(p) == 0 || len(p) > 5 {
		return false
	}
	n := 0
	for _, c := range p {
		if !isDigit(c) {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n > 0 && n <= 65535
}
