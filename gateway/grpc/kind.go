package grpc

// Kind says which form of gRPC a message's content type names.
type Kind uint8

// The kinds.
const (
	None    Kind = iota // not gRPC
	Native              // application/grpc: gRPC over HTTP/2
	Web                 // application/grpc-web: frames in the body, trailers as the last frame
	WebText             // application/grpc-web-text: the same in base64
)

// IsWeb reports one of the two forms of gRPC-Web.
func (k Kind) IsWeb() bool { return k == Web || k == WebText }

const prefix = "application/grpc"

// KindOf reads a content type: the kind, and the name of the message format
// with its sign ("+proto"), which is empty where none is named. Parameters are
// ignored. Any other type that begins with application/grpc is None.
func KindOf(contentType []byte) (k Kind, format []byte) {
	if len(contentType) < len(prefix) || !equalFold(contentType[:len(prefix)], prefix) {
		return None, nil
	}
	rest := contentType[len(prefix):]
	k = Native
	if len(rest) >= 4 && equalFold(rest[:4], "-web") {
		k, rest = Web, rest[4:]
		if len(rest) >= 5 && equalFold(rest[:5], "-text") {
			k, rest = WebText, rest[5:]
		}
	}
	for i, c := range rest {
		if c == ';' || c == ' ' || c == '\t' {
			rest = rest[:i]
			break
		}
	}
	if len(rest) > 0 && rest[0] != '+' {
		return None, nil
	}
	return k, rest
}

// AppendType appends the content type of a kind with a format that KindOf gave.
func AppendType(dst []byte, k Kind, format []byte) []byte {
	dst = append(dst, prefix...)
	switch k {
	case Web:
		dst = append(dst, "-web"...)
	case WebText:
		dst = append(dst, "-web-text"...)
	}
	return append(dst, format...)
}

// equalFold compares ASCII with a string in lower case.
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
