package proxyproto

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// Append appends the header that tells of a connection from one address to
// another. Without two valid addresses it says that the connection is the
// proxy's own (UNKNOWN, LOCAL). With None it appends nothing. Zones cannot be
// told and are left out.
func Append(b []byte, v Version, from, to netip.AddrPort) []byte {
	src, dst := from.Addr().Unmap().WithZone(""), to.Addr().Unmap().WithZone("")
	known := src.IsValid() && dst.IsValid()
	if known && src.Is4() != dst.Is4() { // one family for both: that of IPv6
		src, dst = netip.AddrFrom16(src.As16()), netip.AddrFrom16(dst.As16())
	}
	switch v {
	case V1:
		if !known {
			return append(b, "PROXY UNKNOWN\r\n"...)
		}
		b = append(b, "PROXY TCP"...)
		if src.Is4() {
			b = append(b, "4 "...)
		} else {
			b = append(b, "6 "...)
		}
		b = append(src.AppendTo(b), ' ')
		b = append(dst.AppendTo(b), ' ')
		b = append(strconv.AppendUint(b, uint64(from.Port()), 10), ' ')
		return append(strconv.AppendUint(b, uint64(to.Port()), 10), "\r\n"...)
	case V2:
		b = append(b, signature2...)
		if !known {
			return append(b, 0x20, 0x00, 0, 0)
		}
		if src.Is4() {
			b = append(b, 0x21, 0x11, 0, 12)
		} else {
			b = append(b, 0x21, 0x21, 0, 36)
		}
		b = append(b, src.AsSlice()...)
		b = append(b, dst.AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, from.Port())
		return binary.BigEndian.AppendUint16(b, to.Port())
	default:
		return b
	}
}
