//go:build !unix

package dial

import "syscall"

// rawSocket is empty where sockets cannot be used directly.
type rawSocket struct{}

func (s *socket) open(syscall.RawConn) {}

func (s *socket) direct() bool { return false }

func (r *rawSocket) tryRead([]byte) (int, error) { return 0, errNothingYet }

func (r *rawSocket) tryWrite([]byte) (int, error) { return 0, errNothingYet }
