package http2

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

var errOver = errors.New("the request is over")

// upload is a request's body as net/http reads it, in a goroutine of its own and
// for longer than the call may last: after stop nothing of the call is touched.
type upload struct {
	conn   *Conn
	some   bool
	length int64 // below 0: not known
	// allRead says that the body's end has been reached.
	allRead atomic.Bool
	// touched says that some of the stream has been read, which cannot be read again.
	touched atomic.Bool

	// stopping says that whatever Read fails with is our own doing.
	stopping atomic.Bool

	mu    sync.Mutex // held while reading; guards what follows
	call  *transport.Call
	first []byte // at hand, before anything from the stream
	more  []byte // at hand, behind first
	left  int64
	over  bool
	err   error // from the body
}

// start takes the body of call, of which first has come with the head.
func (u *upload) start(call *transport.Call, first []byte) {
	u.call, u.first, u.more = call, first, call.Body
	u.length = int64(len(first) + len(call.Body))
	u.some = u.length > 0
	if call.Stream != nil {
		u.some, u.length = true, call.Length
	}
	u.left = u.length
	if !u.some {
		u.allRead.Store(true)
	}
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.over:
		return 0, errOver
	case u.err != nil:
		return 0, u.err
	case u.allRead.Load():
		return 0, io.EOF
	}
	u.conn.touch() // what was read before has been sent
	n, err := u.read(p)
	u.conn.touch()
	switch {
	case err == nil:
	case err == io.EOF:
		u.allRead.Store(true)
	case u.stopping.Load():
		return 0, errOver
	default:
		u.err = err
	}
	return n, err
}

// read reads at most what the length allows, and tells the end together with
// the last bytes.
func (u *upload) read(p []byte) (n int, err error) {
	if u.left >= 0 && int64(len(p)) > u.left {
		p = p[:u.left]
	}
	if len(u.first) == 0 {
		u.first, u.more = u.more, nil
	}
	if len(u.first) > 0 {
		n = copy(p, u.first)
		u.first = u.first[n:]
	} else {
		if n, err = u.readStream(p); err != nil && err != io.EOF {
			return 0, err
		}
	}
	if u.left >= 0 {
		switch u.left -= int64(n); {
		case u.left == 0:
			return n, io.EOF
		case err == io.EOF:
			return 0, io.ErrUnexpectedEOF
		}
		return n, nil
	}
	if err == io.EOF {
		u.takeTrailers()
	}
	return n, err
}

// readStream reads at least a byte. An error from Tee, which means that the copy
// grew too long, is not one.
func (u *upload) readStream(p []byte) (int, error) {
	u.touched.Store(true)
	for range 100 {
		n, err := u.call.Stream.Read(p)
		if n > 0 && u.call.Tee != nil {
			_, _ = u.call.Tee.Write(p[:n])
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// takeTrailers hands the trailers that followed the body to net/http.
func (u *upload) takeTrailers() {
	f := u.call.Front
	if f == nil || !f.BodyDone() {
		return
	}
	for line := range bytes.Lines(f.RequestTrailers()) {
		u.conn.trailer(bytes.TrimRight(line, "\r\n"))
	}
}

// pending reports that some of the body has not been read.
func (u *upload) pending() bool { return u.some && !u.allRead.Load() }

// Close implements io.Closer; net/http wants no more of the body.
func (u *upload) Close() error {
	u.stop()
	return nil
}

// stop ends a Read in progress and waits for it.
func (u *upload) stop() {
	if !u.some {
		return
	}
	if !u.mu.TryLock() {
		u.stopping.Store(true)
		if u.call.Front != nil {
			u.call.Front.InterruptBody()
		}
		u.mu.Lock()
	}
	u.over, u.first, u.more = true, nil, nil
	u.mu.Unlock()
}

// failure is the error of a body that broke off.
func (u *upload) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}
