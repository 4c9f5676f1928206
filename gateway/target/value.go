package target

// Cookie returns the value of the first cookie of that name in one Cookie
// field value, as sent: not decoded, quotes included. Names are case-sensitive
// (RFC 6265, 4.2). The result is part of header; it is empty, not nil, for an
// empty value.
func Cookie(header []byte, name string) (value []byte, ok bool) {
	for len(header) > 0 {
		end := 0
		for end < len(header) && header[end] != ';' {
			end++
		}
		pair := trim(header[:end])
		if n := len(name); len(pair) > n && string(pair[:n]) == name {
			if v := pair[n:]; v[0] == '=' {
				return trim(v[1:]), true
			} else if v = trim(v); v[0] == '=' { // "name =value"
				return trim(v[1:]), true
			}
		}
		if end == len(header) {
			break
		}
		header = header[end+1:]
	}
	return nil, false
}

// Query returns the value of the first parameter of that name in a query
// string, still encoded. Parameters are separated by '&' only; names are
// compared decoded. A parameter without '=' has an empty value.
func Query(query, name string) (encoded string, ok bool) {
	for len(query) > 0 {
		end, eq := 0, -1
		for ; end < len(query) && query[end] != '&'; end++ {
			if query[end] == '=' && eq < 0 {
				eq = end
			}
		}
		key, value := query[:end], ""
		if eq >= 0 {
			key, value = query[:eq], query[eq+1:end]
		}
		if end > 0 && EqualDecoded(key, name) {
			return value, true
		}
		if end == len(query) {
			break
		}
		query = query[end+1:]
	}
	return "", false
}

// Encoded reports whether s has anything that AppendDecoded changes.
func Encoded(s string) bool {
	for i := range len(s) {
		if s[i] == '%' || s[i] == '+' {
			return true
		}
	}
	return false
}

// AppendDecoded appends a query parameter's name or value decoded: '+' is a
// space, %XX a byte. A broken escape stands for itself.
func AppendDecoded(dst []byte, s string) []byte {
	for i := 0; i < len(s); {
		c, n := decodeAt(s, i)
		dst = append(dst, c)
		i += n
	}
	return dst
}

// EqualDecoded reports whether s, decoded, is want.
func EqualDecoded(s, want string) bool {
	rest, ok := cutDecoded(s, want)
	return ok && rest == ""
}

// HasPrefixDecoded reports whether s, decoded, begins with prefix.
func HasPrefixDecoded(s, prefix string) bool {
	_, ok := cutDecoded(s, prefix)
	return ok
}

func cutDecoded(s, prefix string) (rest string, ok bool) {
	i := 0
	for j := range len(prefix) {
		if i >= len(s) {
			return "", false
		}
		c, n := decodeAt(s, i)
		if c != prefix[j] {
			return "", false
		}
		i += n
	}
	return s[i:], true
}

func decodeAt(s string, i int) (c byte, n int) {
	switch c = s[i]; {
	case c == '+':
		return ' ', 1
	case c == '%' && i+2 < len(s):
		h, l := unhex(s[i+1]), unhex(s[i+2])
		if h >= 0 && l >= 0 {
			return byte(h<<4 | l), 3
		}
	}
	return c, 1
}
