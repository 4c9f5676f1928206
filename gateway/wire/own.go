package wire

// ServersOwn reports whether a server leaves a field out that a handler has put
// into a reply's head: it says it itself, in another way or not at all, or
// announced it as one of the trailers. Only a reply that switches protocols
// keeps Upgrade.
func ServersOwn(k []byte, trailers [][]byte, switches bool) bool {
	switch len(k) {
	case 4:
		if EqualFold(k, "date") {
			return true
		}
	case 7:
		if EqualFold(k, "trailer") || !switches && EqualFold(k, "upgrade") {
			return true
		}
	case 10:
		if EqualFold(k, "connection") || EqualFold(k, "keep-alive") {
			return true
		}
	case 14:
		if EqualFold(k, "content-length") {
			return true
		}
	case 16:
		if EqualFold(k, "proxy-connection") {
			return true
		}
	case 17:
		if EqualFold(k, "transfer-encoding") {
			return true
		}
	}
	for _, t := range trailers {
		if string(t) == string(k) {
			return true
		}
	}
	return false
}
