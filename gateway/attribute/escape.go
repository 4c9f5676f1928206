package attribute

// Escape says where a template's values will stand.
type Escape uint8

const (
	// Raw leaves values as they are.
	Raw Escape = iota
	// Path makes values path segments: everything but unreserved characters
	// becomes %XX. The attribute path is a path already and stays.
	Path
	// HTML makes values text or quoted attribute values in HTML and XML.
	HTML
	// JSON makes values the inside of JSON strings.
	JSON
)

const upperHex, lowerHex = "0123456789ABCDEF", "0123456789abcdef"

// escapeTail escapes dst[at:]. It grows dst once and moves bytes from the end,
// so that a value needs no second buffer.
func escapeTail(dst []byte, at int, esc Escape) []byte {
	grown := 0
	for _, c := range dst[at:] {
		grown += escapedLen(c, esc) - 1
	}
	if grown == 0 {
		return dst
	}
	from := len(dst)
	for range grown {
		dst = append(dst, 0)
	}
	to := len(dst)
	for from > at {
		from--
		c := dst[from]
		to -= escapedLen(c, esc)
		writeEscaped(dst[to:], c, esc)
	}
	return dst
}

func escapedLen(c byte, esc Escape) int {
	switch esc {
	case Path:
		if !isUnreserved(c) {
			return len("%XX")
		}
	case HTML:
		if s := entity(c); s != "" {
			return len(s)
		}
	case JSON:
		switch {
		case c == '"' || c == '\\':
			return 2
		case c < 0x20 || c == 0x7f || c == '<' || c == '>' || c == '&': // also safe inside <script>
			return len(`\u00XX`)
		}
	}
	return 1
}

func writeEscaped(p []byte, c byte, esc Escape) {
	switch n := escapedLen(c, esc); {
	case n == 1:
		p[0] = c
	case esc == Path:
		p[0], p[1], p[2] = '%', upperHex[c>>4], upperHex[c&15]
	case esc == HTML:
		copy(p, entity(c))
	case n == 2:
		p[0], p[1] = '\\', c
	default:
		copy(p, `\u00`)
		p[4], p[5] = lowerHex[c>>4], lowerHex[c&15]
	}
}

func entity(c byte) string {
	switch c {
	case '&':
		return "&amp;"
	case '<':
		return "&lt;"
	case '>':
		return "&gt;"
	case '"':
		return "&#34;"
	case '\'':
		return "&#39;"
	}
	return ""
}

func isUnreserved(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' && c < 0x80 || c == '-' || c == '.' || c == '_' || c == '~'
}
