//go:build !linux

package h1

import (
	"net"
	"syscall"
)

// rawConn is nil: sockets are read and written through net.Conn here.
func rawConn(*net.TCPConn) syscall.RawConn { return nil }

func shutdown(syscall.RawConn) {}

func (c *conn) serveReady(uintptr) bool { return true }

func (c *conn) writeNow(p []byte) ([]byte, error) { return p, nil }
