package grpc

// MaxMessage is how much of a grpc-message is kept for logs, in bytes.
const MaxMessage = 1 << 10

// AppendMessage appends text as a value of grpc-message: UTF-8 with everything
// but printable ASCII, and the percent sign, as %XX.
func AppendMessage[S ~string | ~[]byte](dst []byte, text S) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(text) {
		c := text[i]
		if c < ' ' || c > '~' || c == '%' {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// AppendText appends what a value of grpc-message says. A percent sign that
// two hexadecimal digits do not follow stands for itself, as the protocol
// asks: a message that is encoded badly must not be lost.
func AppendText(dst, message []byte) []byte {
	for i := 0; i < len(message); i++ {
		c := message[i]
		if c == '%' && i+2 < len(message) {
			hi, lo := hexValue(message[i+1]), hexValue(message[i+2])
			if hi >= 0 && lo >= 0 {
				c, i = byte(hi<<4|lo), i+2
			}
		}
		dst = append(dst, c)
	}
	return dst
}

func hexValue(c byte) int {
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
