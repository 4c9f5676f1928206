package http1

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/gatehouse-proxy/gatehouse/gateway/socket/nowait"
)

// rawState is what a connection needs to work on its socket directly.
type rawState struct {
	ready func(fd uintptr) bool
	peek  func(fd uintptr)
	poll  [1]unix.PollFd
	alive bool
}

// openRaw prepares direct use of a plain TCP socket.
func (c *Conn) openRaw() {
	t, ok := c.nc.(*net.TCPConn)
	if !ok {
		return
	}
	rc, err := t.SyscallConn()
	if err != nil {
		return
	}
	c.rc = rc
	c.raw.ready = c.ready
	c.raw.peek = func(fd uintptr) { c.raw.alive = c.nothingToRead(int(fd)) }
}

// quiet reports that an idle connection is still open and has received
// nothing. Where that cannot be told it is taken to be so.
func (c *Conn) quiet() bool {
	if c.rc == nil {
		return c.quietPortable()
	}
	return c.rc.Control(c.raw.peek) == nil && c.raw.alive
}

// nothingToRead polls the socket without waiting: bytes, an end or an error
// all make it readable.
func (c *Conn) nothingToRead(fd int) bool {
	c.raw.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}
	n, err := nowait.Poll(c.raw.poll[:])
	return n == 0 || err == unix.EINTR
}

// exchange sends the request, unless an upload does, and reads the reply head.
//
// Go's poller reports edges. net.Conn.Read always tries to read first, fails
// with EAGAIN and then waits. Here the request is written from inside
// RawConn.Read: the poller is armed before, so the reply's edge cannot be lost
// and nothing needs to be read before it comes.
func (c *Conn) exchange() {
	if c.rc == nil {
		c.exchangePortable()
		return
	}
	if err := c.rc.Read(c.raw.ready); err != nil && c.err == nil {
		c.err = err
	}
}

// ready is called with the poller armed: first to send, then whenever the
// socket has become readable. It returns false to wait.
func (c *Conn) ready(fd uintptr) bool {
	if !c.wrote {
		// Whatever an idle connection has received was not asked for: an end,
		// or bytes that would be taken for this request's reply.
		if c.reused && !c.nothingToRead(int(fd)) {
			c.err = errStale
			return true
		}
		c.wrote = true
		if c.writeErr = c.writeRaw(int(fd), c.call.Head); c.writeErr == nil {
			return false
		}
		// The reply may have come before the connection was reset.
	}
	for {
		c.room()
		n, err := nowait.Read(int(fd), c.in[c.w:])
		switch {
		case n > 0:
			c.w += n
			if c.parse() {
				return true
			}
		case err == syscall.EAGAIN:
			return false
		case err == syscall.EINTR:
		default:
			if err == nil {
				err = io.EOF
			}
			c.err = err
			return true
		}
	}
}

func (c *Conn) writeRaw(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := nowait.Write(fd, p)
		switch {
		case n > 0:
			p = p[n:]
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			_, err := c.nc.Write(p)
			return err
		default:
			return err
		}
	}
	return nil
}
