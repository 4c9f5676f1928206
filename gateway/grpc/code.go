package grpc

import "strconv"

// Code is a gRPC status code (doc/statuscodes.md of the gRPC project).
type Code uint8

// The codes.
const (
	OK                 Code = 0
	Cancelled          Code = 1
	Unknown            Code = 2
	InvalidArgument    Code = 3
	DeadlineExceeded   Code = 4
	NotFound           Code = 5
	AlreadyExists      Code = 6
	PermissionDenied   Code = 7
	ResourceExhausted  Code = 8
	FailedPrecondition Code = 9
	Aborted            Code = 10
	OutOfRange         Code = 11
	Unimplemented      Code = 12
	Internal           Code = 13
	Unavailable        Code = 14
	DataLoss           Code = 15
	Unauthenticated    Code = 16
)

// Codes is how many codes there are.
const Codes = 17

var names = [Codes]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED",
	"NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
	"FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// String is the code's name in gRPC's documents, such as "NOT_FOUND".
func (c Code) String() string {
	if int(c) < len(names) {
		return names[c]
	}
	return "UNKNOWN"
}

// ParseCode reads the value of grpc-status. Codes that are not known are
// Unknown, as gRPC's libraries have it; ok is false for what is no number.
func ParseCode(v []byte) (c Code, ok bool) {
	if len(v) == 0 || len(v) > 9 {
		return Unknown, false
	}
	n := 0
	for _, d := range v {
		if d < '0' || d > '9' {
			return Unknown, false
		}
		n = n*10 + int(d-'0')
	}
	if n >= Codes {
		return Unknown, true
	}
	return Code(n), true
}

// AppendCode appends the value of grpc-status.
func AppendCode(dst []byte, c Code) []byte { return strconv.AppendInt(dst, int64(c), 10) }

// FromHTTP is what a client makes of a reply that has no grpc-status: the
// table of http-grpc-status-mapping.md.
func FromHTTP(status int) Code {
	switch status {
	case 400:
		return Internal
	case 401:
		return Unauthenticated
	case 403:
		return PermissionDenied
	case 404:
		return Unimplemented
	case 429, 502, 503, 504:
		return Unavailable
	}
	return Unknown
}

// ForRefusal is the code a gateway answers with where it would have answered
// with an HTTP status. It tells more than FromHTTP where the gateway knows
// more than a client could: limits and timeouts have codes of their own.
func ForRefusal(status int) Code {
	switch status {
	case 401:
		return Unauthenticated
	case 403:
		return PermissionDenied
	case 404, 405, 501:
		return Unimplemented
	case 408, 504:
		return DeadlineExceeded
	case 413, 414, 429, 431:
		return ResourceExhausted
	case 499:
		return Cancelled
	case 502, 503:
		return Unavailable
	}
	if status < 400 || status > 599 {
		return Unknown
	}
	return Internal
}
