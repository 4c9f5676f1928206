package http2

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// around is what TLS and the like put around a socket.
type around struct{ net.Conn }

func (a around) NetConn() net.Conn { return a.Conn }

func TestSilenceIsLimitedOnTheSocket(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	value := func() (ms int) {
		rc, err := nc.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = rc.Control(func(fd uintptr) { ms, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) })
		if err != nil {
			t.Fatal(err)
		}
		return ms
	}
	limitSilence(nc, 20*time.Second)
	if ms := value(); ms != 20000 {
		t.Errorf("got %d ms", ms)
	}
	limitSilence(around{around{nc}}, 30*time.Second)
	if ms := value(); ms != 30000 {
		t.Errorf("through TLS: got %d ms", ms)
	}
	one, other := net.Pipe()
	defer one.Close()
	defer other.Close()
	limitSilence(one, time.Second) // not a socket: nothing to do
}
