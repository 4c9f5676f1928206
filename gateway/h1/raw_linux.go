package h1

import (
	"net"
	"syscall"

	"github.com/gatehouse-proxy/gatehouse/gateway/socket/nowait"
)

// rawConn gives access to the socket below t; nil if there is none any more.
func rawConn(t *net.TCPConn) syscall.RawConn {
	rc, err := t.SyscallConn()
	if err != nil {
		return nil
	}
	return rc
}

// shutdown ends both directions of a socket without closing it.
func shutdown(rc syscall.RawConn) {
	_ = rc.Control(func(fd uintptr) { // closed already: as good
		_ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) // the peer may have reset it: as good
	})
}

// serveReady is the loop while nothing but the loop needs the socket. It runs
// inside RawConn.Read, where returning false waits for the socket to become
// readable. The pending edge of Go's edge-triggered poller is not reset as long
// as we stay inside, so that after a short read there is no need for another
// one just to learn that nothing is left.
//
// The read lock of the socket is held here: net.Conn.Read and Close would wait
// for ever. That is why requests which need the socket are served outside.
func (c *conn) serveReady(fd uintptr) (done bool) {
	c.inReady, c.fd = true, int(fd)
	defer func() { c.inReady = false }()
	for {
		if c.s != nil && c.r < c.w {
			switch c.exit = c.step(); c.exit {
			case more:
			case served:
				continue
			default:
				return true
			}
		}
		if c.drained {
			c.drained = false
			if !c.wait() {
				return false
			}
			if c.phase.Load() == phaseIdle && c.leave.Load() {
				c.exit = ended
				return true
			}
		}
		c.getState()
		c.makeRoom()
		in := c.s.in[c.w:]
		n, err := nowait.Read(c.fd, in)
		switch {
		case n > 0:
			// A FIN that came with these bytes gives no edge of its own. Clients that
			// send one request and close their side are common enough to look again
			// behind the first; for later ones the sweeper does.
			c.drained = n < len(in) && c.seq.Load() > 0
			c.w += n
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			if c.wait() && c.phase.Load() == phaseIdle && c.leave.Load() {
				c.exit = ended
				return true
			}
			return false
		default: // the end, or an error
			c.exit = ended
			return true
		}
	}
}

// writeNow writes what the socket takes at once; inReady only.
func (c *conn) writeNow(p []byte) (rest []byte, err error) {
	for len(p) > 0 {
		n, err := nowait.Write(c.fd, p)
		switch {
		case n > 0:
			p = p[n:]
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return p, nil
		default:
			return p, err
		}
	}
	return nil, nil
}
