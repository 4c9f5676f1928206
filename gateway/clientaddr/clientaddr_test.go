package clientaddr_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/clientaddr"
)

func TestAddrPort(t *testing.T) {
	mapped := net.ParseIP("::ffff:192.0.2.1")
	for _, c := range []struct {
		a    net.Addr
		want string
	}{
		{&net.TCPAddr{IP: mapped, Port: 5}, "192.0.2.1:5"},
		{&net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 6}, "[2001:db8::1]:6"},
	} {
		if got := clientaddr.AddrPort(c.a).String(); got != c.want {
			t.Errorf("%v: got %s, want %s", c.a, got, c.want)
		}
	}
	for _, a := range []net.Addr{nil, &net.UnixAddr{Name: "x"}} {
		if got := clientaddr.AddrPort(a); got.IsValid() {
			t.Errorf("%v: got %v", a, got)
		}
	}
}

func TestNetwork(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := clientaddr.Network(netip.MustParseAddr(address)).String(); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
	if got := clientaddr.Network(netip.Addr{}); got.IsValid() {
		t.Errorf("got %v", got)
	}
}
