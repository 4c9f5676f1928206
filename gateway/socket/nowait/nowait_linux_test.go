package nowait_test

import (
	"bytes"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatehouse-proxy/gatehouse/gateway/socket/nowait"
)

func pair(t *testing.T) (a, b int) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Close(fds[0])
		syscall.Close(fds[1])
	})
	return fds[0], fds[1]
}

func readable(t *testing.T, fd int) bool {
	t.Helper()
	n, err := nowait.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}})
	if err != nil {
		t.Fatal(err)
	}
	return n == 1
}

// What is written arrives, however much it is and however little of it a call
// takes; a full socket and an empty one say so.
func TestAllArrives(t *testing.T) {
	a, b := pair(t)
	var in [4 << 10]byte
	if n, err := nowait.Read(b, in[:]); n > 0 || err != syscall.EAGAIN || readable(t, b) {
		t.Fatalf("an empty socket: %d, %v", n, err)
	}
	sent := bytes.Repeat([]byte("0123456789abcdef!"), 100_000)
	var got []byte
	full := false
	for out := sent; len(got) < len(sent); {
		n, err := nowait.Write(a, out)
		switch {
		case err == nil && n == 0 && len(out) > 0:
			t.Fatal("nothing was written, and no error")
		case err == nil:
			out = out[n:]
		case err != syscall.EAGAIN:
			t.Fatal(err)
		}
		full = full || err == syscall.EAGAIN
		if err == nil && len(out) > 0 {
			continue // until it is full
		}
		for {
			n, err := nowait.Read(b, in[:])
			if err == syscall.EAGAIN {
				break
			}
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
			got = append(got, in[:n]...)
		}
	}
	if !bytes.Equal(got, sent) || !full {
		t.Errorf("%d bytes of %d, or others; was full: %v", len(got), len(sent), full)
	}
}

func TestTheEndIsRead(t *testing.T) {
	a, b := pair(t)
	if n, err := nowait.Write(a, []byte("x")); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if err := syscall.Shutdown(a, syscall.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	var in [2]byte
	if n, err := nowait.Read(b, in[:]); n != 1 || err != nil || in[0] != 'x' {
		t.Fatal(n, err)
	}
	if n, err := nowait.Read(b, in[:]); n != 0 || err != nil || !readable(t, b) {
		t.Fatal(n, err)
	}
	if _, err := nowait.Write(a, in[:]); err != syscall.EPIPE {
		t.Fatal(err)
	}
	if n, err := nowait.Read(-1, in[:]); n > 0 || err != syscall.EBADF {
		t.Fatal(n, err)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	a, b := pair(t)
	p, fds := make([]byte, 100), []unix.PollFd{{Fd: int32(b), Events: unix.POLLIN}}
	if n := testing.AllocsPerRun(100, func() {
		nowait.Write(a, p)
		nowait.Poll(fds)
		nowait.Read(b, p)
		nowait.Read(b, p) // nothing there
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
