// Package clientaddr says who the other end of a connection is: its address, and
// which addresses count as one client. Limits of every protocol ask here, so that
// none of them can be evaded by another.
package clientaddr

import (
	"net"
	"net/netip"
)

// AddrPort is a TCP or UDP address, IPv4 as such also where the socket is one of
// IPv6; zero for any other.
func AddrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// Network is what is counted as one client: an IPv4 address or, since whoever has
// an IPv6 address has the 2^64 of its network, an IPv6 /64. It is zero for the
// zero address.
func Network(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
