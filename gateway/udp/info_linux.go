package udp

import (
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// askForInfo makes the socket tell by which of this machine's addresses a
// datagram came.
func askForInfo(c *net.UDPConn) (bool, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, err
	}
	level, option := unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	if c.LocalAddr().(*net.UDPAddr).IP.To4() != nil {
		level, option = unix.IPPROTO_IP, unix.IP_PKTINFO
	}
	failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
	if failed != nil {
		return false, failed
	}
	return err == nil, err
}

// infoAt is the control message in b: struct in_pktinfo {interface, local
// address, address} or in6_pktinfo {address, interface}; nil if there is none.
func infoAt(b []byte) (level int32, data []byte) {
	if len(b) < unix.SizeofCmsghdr {
		return 0, nil
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b))) //nolint:gosec // the kernel wrote it there
	head, end := unix.CmsgLen(0), int(h.Len)
	if end > len(b) || end < head {
		return 0, nil
	}
	switch data = b[head:end]; {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo,
		h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		return h.Level, data
	}
	return 0, nil
}

// localOf is the address that a datagram was sent to.
func localOf(info []byte) (local [16]byte) {
	switch level, data := infoAt(info); {
	case data == nil:
	case level == unix.IPPROTO_IP:
		copy(local[:], data[4:8])
	default:
		copy(local[:], data[:16])
	}
	return local
}

// replyInfo makes of what came with a datagram what goes with the replies: the
// same address, by whatever interface the way to the client leads. Addresses of
// one link keep theirs.
func replyInfo(info []byte) []byte {
	switch level, data := infoAt(info); {
	case data == nil:
		return nil
	case level == unix.IPPROTO_IP:
		clear(data[:4])
	case data[0] != 0xfe:
		clear(data[16:20])
	}
	return info
}
