package http2

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limitSilence has TCP end a connection when what was sent is not acknowledged
// for so long.
func limitSilence(nc net.Conn, d time.Duration) {
	for range 3 { // TLS, and whatever is around the socket
		if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
			nc = t.NetConn()
		}
	}
	t, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	if rc, err := t.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) {
			// Where the kernel does not know it, its own, longer limit stays.
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		})
	}
}
