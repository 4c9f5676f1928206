package config

import (
	"net/netip"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// bound is an address somebody listens on.
type bound struct {
	path string
	udp  bool       // which clashes with nothing that is TCP
	addr netip.Addr // the zero Addr: all addresses
	host string     // a name, which clashes only with itself
	port int
}

func (v *validator) listeners(p *problem.List) {
	var taken []bound
	if host, port, why := splitAddress(v.c.Node.Admin.Address); why == "" {
		taken = append(taken, newBound("node.admin.address", host, port))
	}
	byPort := make(map[int][]bound)
	for _, b := range taken {
		byPort[b.port] = append(byPort[b.port], b)
	}
	for name, l := range each(v.c.Listeners) {
		lp := under(p, "listeners", name)
		lp.Check(isName(name), "", "a listener's name %s", nameRule)
		v.listenerTLS(l.TLS, lp)
		v.listenerProtocol(&l, lp)
		lp.Check(l.TLS == nil || l.RedirectToHTTPS == nil, "redirect_to_https", "has no meaning on a listener that speaks TLS itself")
		lp.Under("http2").Check(l.HTTP2.ConnectionWindow >= l.HTTP2.StreamWindow, "connection_window",
			"must be at least stream_window (%v), got %v", l.HTTP2.StreamWindow, l.HTTP2.ConnectionWindow)
		lp.Check(!l.HTTP3.On() || l.Protocol == "http", "http3", "is for protocol http")
		lp.Check(!l.HTTP3.On() || l.TLS != nil, "http3", "needs tls: there is no HTTP/3 in plain text")
		lp.Check(!l.HTTP3.On() || l.ProxyProtocol == nil, "http3", "cannot go with proxy_protocol: QUIC has no such header, and clients could go round the balancer")
		if l.Address == "" {
			lp.Add("address", "must not be empty")
			continue
		}
		before := lp.Len()
		checkListenAddress(lp, "address", l.Address)
		if lp.Len() > before {
			continue
		}
		host, port, _ := splitAddress(l.Address)
		b := newBound(problem.Join(lp.Path(), "address"), host, port)
		b.udp = l.Protocol == udp
		byPort[port] = append(byPort[port], take(lp, "address", l.Address, b, byPort[port]))
		if l.HTTP3.On() {
			b.udp, b.path = true, problem.Join(lp.Path(), "http3")
			byPort[port] = append(byPort[port], take(lp, "http3", l.Address, b, byPort[port]))
		}
	}
}

// take notes that an address, of which the key is told, is taken already.
func take(p *problem.List, key, address string, b bound, taken []bound) bound {
	for _, other := range taken {
		if b.port != 0 && b.clashes(other) {
			p.Add(key, "%q is already taken by %s", address, other.path)
			break
		}
	}
	return b
}

func newBound(path, host string, port int) bound {
	b := bound{path: path, port: port}
	switch host {
	case "", "::":
	case "localhost":
		b.addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		var err error
		if b.addr, err = netip.ParseAddr(host); err != nil {
			b.host = host
		}
		b.addr = b.addr.Unmap()
	}
	return b
}

// clashes is true if the kernel would refuse the second of the two.
func (b bound) clashes(o bound) bool {
	if b.udp != o.udp {
		return false
	}
	if b.host != "" || o.host != "" {
		return b.host == o.host || b.all() || o.all()
	}
	if b.all() || o.all() || b.addr == o.addr {
		return true
	}
	any4 := netip.IPv4Unspecified()
	return b.addr == any4 && o.addr.Is4() || o.addr == any4 && b.addr.Is4()
}

func (b bound) all() bool { return b.host == "" && !b.addr.IsValid() }
