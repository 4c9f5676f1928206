//go:build unix

package dial

import (
	"io"
	"syscall"
)

// rawSocket reads and writes a socket without waiting for it. One goroutine
// may read while another one writes.
type rawSocket struct {
	conn      syscall.RawConn // nil: not a socket
	in, out   []byte
	nIn, nOut int
	inErr     error
	outErr    error
	readNow   func(fd uintptr)
	writeNow  func(fd uintptr)
}

func (s *socket) open(c syscall.RawConn) {
	r := &s.raw
	r.conn = c
	r.readNow = func(fd uintptr) {
		for {
			if r.nIn, r.inErr = syscall.Read(int(fd), r.in); r.inErr != syscall.EINTR {
				return
			}
		}
	}
	r.writeNow = func(fd uintptr) {
		for {
			if r.nOut, r.outErr = syscall.Write(int(fd), r.out); r.outErr != syscall.EINTR {
				return
			}
		}
	}
}

// direct reports that reading and writing without waiting is possible.
func (s *socket) direct() bool { return s.raw.conn != nil }

func (r *rawSocket) tryRead(p []byte) (int, error) {
	r.in = p
	err := r.conn.Control(r.readNow)
	r.in = nil
	switch {
	case err != nil:
		return 0, err
	case r.inErr == syscall.EAGAIN:
		return 0, errNothingYet
	case r.inErr != nil:
		return 0, r.inErr
	case r.nIn == 0:
		return 0, io.EOF
	}
	return r.nIn, nil
}

func (r *rawSocket) tryWrite(p []byte) (int, error) {
	r.out = p
	err := r.conn.Control(r.writeNow)
	r.out = nil
	switch {
	case err != nil:
		return 0, err
	case r.outErr == syscall.EAGAIN:
		return 0, errNothingYet
	case r.outErr != nil:
		return 0, r.outErr
	case r.nOut < len(p):
		return r.nOut, errNothingYet
	}
	return r.nOut, nil
}
