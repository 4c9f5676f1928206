package grpc

import (
	"encoding/binary"
	"errors"
)

// PrefixLen is the length of what stands before every message: a byte of flags
// and four of length.
const PrefixLen = 5

// Flags of a frame.
const (
	flagCompressed = 0x01
	flagTrailers   = 0x80 // gRPC-Web only
)

// Errors of Scanner.
var (
	ErrFlags   = errors.New("a message begins with flags other than 0 and 1")
	ErrTooLong = errors.New("a message is longer than allowed")
	ErrCut     = errors.New("the body ends in the middle of a message")
)

// Scanner follows the frames of a stream of messages without holding any of
// it. The zero value is ready to use.
type Scanner struct {
	// Max is the longest message allowed, in bytes; 0: any.
	Max int64

	prefix [PrefixLen]byte
	have   int   // bytes of prefix
	left   int64 // bytes of the message still to come
	err    error
}

// Scan takes in the next bytes. An error stays.
func (s *Scanner) Scan(p []byte) error {
	for len(p) > 0 && s.err == nil {
		if s.left > 0 {
			n := min(s.left, int64(len(p)))
			s.left -= n
			p = p[n:]
			continue
		}
		n := copy(s.prefix[s.have:], p)
		s.have += n
		p = p[n:]
		if s.prefix[0]&^flagCompressed != 0 {
			s.err = ErrFlags
			break
		}
		if s.have < PrefixLen {
			break // p is used up
		}
		s.have = 0
		s.left = int64(binary.BigEndian.Uint32(s.prefix[1:]))
		if s.Max > 0 && s.left > s.Max {
			s.err = ErrTooLong
		}
	}
	return s.err
}

// End says whether the stream may end here.
func (s *Scanner) End() error {
	if s.err == nil && (s.have > 0 || s.left > 0) {
		s.err = ErrCut
	}
	return s.err
}

// BeginTrailers appends the prefix of a frame of trailers for gRPC-Web.
// EndTrailers must be called with where it began once the lines are there.
func BeginTrailers(dst []byte) []byte { return append(dst, flagTrailers, 0, 0, 0, 0) }

// EndTrailers writes the length of the trailer frame that begins at frame[at].
func EndTrailers(frame []byte, at int) {
	binary.BigEndian.PutUint32(frame[at+1:], uint32(len(frame)-at-PrefixLen)) //nolint:gosec // trailers are bounded by the limits of heads
}

// AppendStatusFrame appends the trailer frame of a gRPC-Web reply that has
// nothing but a status.
func AppendStatusFrame[S ~string | ~[]byte](dst []byte, c Code, text S) []byte {
	at := len(dst)
	dst = append(BeginTrailers(dst), "grpc-status:"...)
	dst = append(AppendCode(dst, c), "\r\ngrpc-message:"...)
	dst = append(AppendMessage(dst, text), "\r\n"...)
	EndTrailers(dst, at)
	return dst
}
