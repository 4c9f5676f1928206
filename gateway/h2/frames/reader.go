package frames

import (
	"encoding/binary"
	"io"
	"sync"
)

// Error is a rule that the peer has broken.
type Error struct {
	Code Code
	// Stream is the one that ends; 0: the connection does.
	Stream uint32
	Detail string
}

// Error implements error.
func (e *Error) Error() string { return e.Code.String() + ": " + e.Detail }

// Break is the error of a connection whose peer has broken a rule.
func Break(c Code, detail string) error { return &Error{Code: c, Detail: detail} }

// Frame is one that has come, without what it begins with, padding and
// priorities. Its length, and that it belongs to a stream or to none, are right.
type Frame struct {
	Type   Type
	Flags  byte
	Stream uint32
	// Payload is borrowed until the next call of Next.
	Payload []byte
	// Padding is what of a DATA frame counts for the windows besides Payload.
	Padding int
}

// Ended reports that no frame of a body comes on the stream after this one.
func (f *Frame) Ended() bool { return f.Flags&EndStream != 0 }

// BlockEnded reports that a HEADERS or CONTINUATION frame ends its block.
func (f *Frame) BlockEnded() bool { return f.Flags&EndHeaders != 0 }

// Acknowledges reports a SETTINGS or PING frame that is an answer.
func (f *Frame) Acknowledges() bool { return f.Flags&Ack != 0 }

// Uint32 is the payload of RST_STREAM, WINDOW_UPDATE (above 0) and the first of
// GOAWAY, without the bit that is reserved in the latter two.
func (f *Frame) Uint32() uint32 {
	n := binary.BigEndian.Uint32(f.Payload)
	if f.Type != Reset {
		n &= MaxWindow
	}
	return n
}

// GoAwayCode is why the peer sent GOAWAY.
func (f *Frame) GoAwayCode() Code { return Code(binary.BigEndian.Uint32(f.Payload[4:])) }

// Setting is the i-th setting of a SETTINGS frame, ok while there is one. Its
// value is one that the RFC allows, or err says so.
func (f *Frame) Setting(i int) (s Setting, ok bool, err error) {
	if 6*i >= len(f.Payload) {
		return s, false, nil
	}
	p := f.Payload[6*i:]
	s = Setting{SettingID(binary.BigEndian.Uint16(p)), binary.BigEndian.Uint32(p[2:])}
	switch {
	case s.ID == EnablePush && s.Value > 1:
		err = Break(ProtocolError, "SETTINGS_ENABLE_PUSH is neither 0 nor 1")
	case s.ID == InitialWindowSize && s.Value > MaxWindow:
		err = Break(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE is too large")
	case s.ID == MaxFrameSize && (s.Value < MinFrame || s.Value > LargestFrame):
		err = Break(ProtocolError, "SETTINGS_MAX_FRAME_SIZE is out of range")
	}
	return s, true, err
}

const (
	// atRest is what a connection has to read into while it has little to say.
	atRest = 4 << 10
	// busy has room for a frame of MinFrame and for what comes behind it.
	busy = 32 << 10
)

var busyBuffers = sync.Pool{New: func() any { return new([busy]byte) }}

// Reader reads frames of at most MinFrame bytes, many with one Read of what is
// below. It is for one goroutine.
type Reader struct {
	src  io.Reader
	b    []byte // what was read and not yet handed out
	buf  []byte // rest, or big
	rest [atRest]byte
	big  *[busy]byte // nil while not needed
	got  int         // by the last Read
	// open is the stream whose header block is not complete; 0: none.
	open uint32
}

// NewReader returns a reader of what comes from src behind early, which was read
// before and is kept.
func NewReader(src io.Reader, early []byte) *Reader {
	r := &Reader{src: src, b: early}
	r.buf = r.rest[:]
	return r
}

// Buffered reports that Next has a frame without waiting.
func (r *Reader) Buffered() bool {
	return len(r.b) >= HeaderLen && len(r.b) >= HeaderLen+length(r.b)
}

// Peek is what has come and was not handed out, for whoever wants to know what a
// peer says that does not speak HTTP/2.
func (r *Reader) Peek() []byte { return r.b }

func length(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }

// Next reads a frame. An error is an *Error, or what the connection said, which
// is io.EOF only between frames. After one that ends a stream, not the
// connection, the next frame can be read.
func (r *Reader) Next() (f Frame, err error) {
	if err := r.fill(HeaderLen); err != nil {
		return f, err
	}
	n := length(r.b)
	f = Frame{Type: Type(r.b[3]), Flags: r.b[4], Stream: binary.BigEndian.Uint32(r.b[5:]) & MaxWindow}
	if n > MinFrame {
		return f, Break(FrameSizeError, "a frame is larger than allowed")
	}
	if err := r.fill(HeaderLen + n); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return f, err
	}
	f.Payload, r.b = r.b[HeaderLen:HeaderLen+n:HeaderLen+n], r.b[HeaderLen+n:]
	return f, r.check(&f)
}

// fill reads until there are n bytes.
func (r *Reader) fill(n int) error {
	for len(r.b) < n {
		r.room(n)
		m, err := r.src.Read(r.buf[len(r.b):])
		if r.got = m; m > 0 {
			r.b = r.buf[:len(r.b)+m]
			continue // the error comes again
		}
		if err == nil {
			err = io.ErrNoProgress
		}
		if err == io.EOF && len(r.b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// room moves what is left to the beginning of a buffer with room for n bytes. A
// large one is given back once little comes at a time.
func (r *Reader) room(n int) {
	switch {
	case r.big == nil && (n > atRest || r.got == atRest):
		r.big = busyBuffers.Get().(*[busy]byte)
		r.buf = r.big[:]
	case r.big != nil && n <= HeaderLen && r.got < atRest:
		n := copy(r.rest[:], r.b)
		busyBuffers.Put(r.big)
		r.big, r.buf, r.b = nil, r.rest[:], r.rest[:n]
		return
	}
	r.b = r.buf[:copy(r.buf, r.b)]
}

// Release gives memory back when the connection has ended.
func (r *Reader) Release() {
	if r.big != nil {
		busyBuffers.Put(r.big)
	}
	r.big, r.b, r.buf = nil, nil, r.rest[:]
}

// check makes of what came what a Frame promises.
func (r *Reader) check(f *Frame) error {
	if r.open != 0 && (f.Type != Continuation || f.Stream != r.open) {
		return Break(ProtocolError, "something else within a header block")
	}
	size := len(f.Payload)
	switch f.Type {
	case Data, Headers, Priority, Reset, PushPromise, Continuation:
		if f.Stream == 0 {
			return Break(ProtocolError, "a frame of a stream without one")
		}
	case Settings, Ping, GoAway:
		if f.Stream != 0 {
			return Break(ProtocolError, "a frame of the connection on a stream")
		}
	}
	switch f.Type {
	case Data:
		if err := f.strip(); err != nil {
			return err
		}
		f.Padding = size - len(f.Payload)
	case Headers:
		if err := f.strip(); err != nil {
			return err
		}
		if f.Flags&hasPriority != 0 {
			if len(f.Payload) < 5 {
				return Break(FrameSizeError, "HEADERS is too short for its priority")
			}
			if dependsOn(f.Payload) == f.Stream {
				return errItself
			}
			f.Payload = f.Payload[5:]
		}
		r.block(f)
	case Continuation:
		if r.open == 0 {
			return Break(ProtocolError, "CONTINUATION outside a header block")
		}
		r.block(f)
	case Priority:
		if size != 5 {
			return &Error{FrameSizeError, f.Stream, "PRIORITY has a wrong length"}
		}
		if dependsOn(f.Payload) == f.Stream {
			return errItself
		}
	case Reset:
		if size != 4 {
			return Break(FrameSizeError, "RST_STREAM has a wrong length")
		}
	case Settings:
		if size%6 != 0 || f.Acknowledges() && size > 0 {
			return Break(FrameSizeError, "SETTINGS has a wrong length")
		}
	case Ping:
		if size != 8 {
			return Break(FrameSizeError, "PING has a wrong length")
		}
	case GoAway:
		if size < 8 {
			return Break(FrameSizeError, "GOAWAY is too short")
		}
	case WindowUpdate:
		if size != 4 {
			return Break(FrameSizeError, "WINDOW_UPDATE has a wrong length")
		}
		if f.Uint32() == 0 {
			return &Error{ProtocolError, f.Stream, "WINDOW_UPDATE by nothing"}
		}
	}
	return nil
}

// dependsOn is the stream that a priority names.
func dependsOn(p []byte) uint32 { return binary.BigEndian.Uint32(p) & MaxWindow }

// errItself is of RFC 7540, 5.3.1. Priorities have been given up since, and who
// sends such ones anyway is not worth more than an end.
var errItself = Break(ProtocolError, "a stream depends on itself")

// block notes whether a header block goes on.
func (r *Reader) block(f *Frame) {
	r.open = f.Stream
	if f.BlockEnded() {
		r.open = 0
	}
}

// strip removes padding.
func (f *Frame) strip() error {
	if f.Flags&padded == 0 {
		return nil
	}
	p := f.Payload
	if len(p) == 0 {
		return Break(FrameSizeError, "a padded frame says not how much")
	}
	n := len(p) - 1 - int(p[0])
	if n < 0 {
		return Break(ProtocolError, "more padding than frame")
	}
	f.Payload = p[1 : 1+n]
	return nil
}
