//go:build !race

package nowait

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mostWritten is what one call writes: some dozen microseconds of copying.
const mostWritten = 64 << 10

// Read reads what is there. As with syscall.Read, err is EAGAIN where there is
// nothing, and n is 0 at the end.
func Read(fd int, p []byte) (n int, err error) {
	r, _, e := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return result(r, e)
}

// Write writes what the socket takes now of the first 64 KiB of p.
func Write(fd int, p []byte) (n int, err error) {
	r, _, e := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(min(len(p), mostWritten)))
	return result(r, e)
}

// Poll looks once at fds and returns how many have something to tell.
func Poll(fds []unix.PollFd) (n int, err error) {
	var none unix.Timespec // the kernel writes to it
	r, _, e := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(fds))), uintptr(len(fds)), uintptr(unsafe.Pointer(&none)), 0, 0, 0)
	return result(r, e)
}

func result(r uintptr, e syscall.Errno) (int, error) {
	if e != 0 {
		return -1, e
	}
	return int(r), nil
}
