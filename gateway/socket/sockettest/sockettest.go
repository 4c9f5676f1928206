// Package sockettest finds addresses for tests whose servers are told where to
// listen: processes that are started, stopped and started again.
package sockettest

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// Ports are taken from below those that the system gives to clients, and to
// servers that ask for any: a UDP port cannot be held as one of TCP can.
const first, last = 10000, 21999

// Reserve returns an address on loopback that is the caller's until the test
// ends, for TCP and UDP, whether or not somebody listens there: nobody else who
// asks for any port, or asks here, gets it. The ports that are so much above it
// are the caller's, too.
func Reserve(t testing.TB, above ...int) string {
	t.Helper()
	for range 10000 {
		port := first + rand.IntN(last-first+1)
		if hold(t, port, above) {
			return netip.AddrPortFrom(loopback, uint16(port)).String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func hold(t testing.TB, port int, above []int) bool {
	t.Helper()
	fds := make([]int, 0, 1+len(above))
	for _, n := range append([]int{0}, above...) {
		fd, err := bind(port + n)
		if errors.Is(err, unix.EADDRINUSE) {
			for _, fd := range fds {
				_ = unix.Close(fd) // it has held a port for nothing
			}
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	t.Cleanup(func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	})
	return true
}

// bind returns a socket that has a port and does not listen. Servers, which allow
// the reuse of addresses, can bind to it as well; but only as long as it does, so
// that it allows that once it has the port for itself.
func bind(port int) (int, error) {
	u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, uint16(port))))
	if err != nil {
		return 0, err
	}
	defer u.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: loopback.As4()})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err != nil {
		_ = unix.Close(fd) // never used
		return 0, err
	}
	return fd, nil
}
