package http2

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// upload is a request's body that is yet to come, as its goroutine reads it:
// after stop nothing of the call is touched.
type upload struct {
	conn *Conn
	some bool
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
	u.some, u.call, u.first, u.more, u.left = true, call, first, call.Body, call.Length
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
	if u.left == 0 {
		return 0, io.EOF
	}
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

// trailers are the lines that followed a body whose length was not known.
func (u *upload) trailers() []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over || u.left >= 0 || u.call.Front == nil || !u.call.Front.BodyDone() {
		return nil
	}
	return bytes.Clone(u.call.Front.RequestTrailers())
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

// failure is the error of a body that broke off. One that is being read has not.
func (u *upload) failure() error {
	if !u.mu.TryLock() {
		return nil
	}
	defer u.mu.Unlock()
	return u.err
}
