package target

// Host is the normal form of a Host header or authority that the front has
// already found valid: lower case, without port and without the one trailing
// dot of a fully qualified name. IPv6 addresses keep their brackets. It
// returns a part of host when that is lower case already, else its result is
// in dst's memory, whose contents are overwritten. port is 0 if there is none.
func Host(dst, host []byte) (name []byte, port uint16) {
	name = host
	for i := len(host) - 1; i >= 0; i-- {
		c := host[i]
		if c == ':' {
			name, port = host[:i], parsePort(host[i+1:])
			break
		}
		if c < '0' || c > '9' {
			break
		}
	}
	if n := len(name); n > 0 && name[n-1] == '.' {
		name = name[:n-1]
	}
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			return appendLower(append(dst[:0], name[:i]...), name[i:]), port
		}
	}
	return name, port
}

func appendLower(dst, s []byte) []byte {
	for _, c := range s {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst
}

// parsePort is the port that digits name, 0 if they name none.
func parsePort[S string | []byte](digits S) uint16 {
	if len(digits) == 0 || len(digits) > 5 {
		return 0
	}
	n := 0
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return 0
		}
		n = n*10 + int(digits[i]-'0')
	}
	if n > 65535 {
		return 0
	}
	return uint16(n)
}
