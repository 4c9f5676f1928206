package target

import (
	"net/netip"

	"github.com/gaissmai/bart"
	"github.com/valyala/fasthttp"
)

// Source says which header names the client. A proxy appends to the one it
// knows and passes the other on as the client wrote it, so the two cannot be
// mixed: exactly one is read.
type Source uint8

const (
	// XForwardedFor reads X-Forwarded-For, and Forwarded only where that is
	// absent: right for proxies that write the first or both. Proxies that
	// write Forwarded alone need ForwardedOnly, or clients could send the
	// other and choose their address.
	XForwardedFor Source = iota
	// ForwardedOnly reads nothing but Forwarded (RFC 7239).
	ForwardedOnly
	// XForwardedForOnly reads nothing but X-Forwarded-*.
	XForwardedForOnly
)

// TrustSettings say whose word about the client is taken.
type TrustSettings struct {
	// Proxies are the peers whose headers are believed; none by default.
	Proxies []netip.Prefix
	Source  Source
}

// Trust is whose word about the client is taken. It never changes.
type Trust struct {
	set    bart.Lite
	any    bool
	source Source
}

// NewTrust builds a Trust; it cannot fail, since prefixes are parsed already.
func NewTrust(s TrustSettings) *Trust {
	t := &Trust{source: s.Source, any: len(s.Proxies) > 0}
	for _, p := range s.Proxies {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		t.set.Insert(p.Masked())
	}
	return t
}

// Trusts reports whether a is a trusted proxy. It does not allocate.
func (t *Trust) Trusts(a netip.Addr) bool {
	return t.any && t.set.Lookup(a.Unmap().WithZone(""))
}

// Origin is who the request comes from and the scheme ("http", "https") they
// used: peer and scheme themselves, or what trusted proxies say. h is the
// request as received. It does not allocate.
func (t *Trust) Origin(peer netip.Addr, scheme string, h *fasthttp.RequestHeader) (netip.Addr, string) {
	peer = peer.Unmap().WithZone("")
	if !t.Trusts(peer) {
		return peer, scheme
	}
	if t.source != ForwardedOnly {
		if lines := h.PeekAll(fasthttp.HeaderXForwardedFor); len(lines) > 0 {
			client, hops := t.WalkXForwardedFor(peer, lines)
			return client, forwardedProto(h.PeekAll(fasthttp.HeaderXForwardedProto), hops, scheme)
		}
	}
	if t.source != XForwardedForOnly {
		if lines := h.PeekAll(fasthttp.HeaderForwarded); len(lines) > 0 {
			return t.WalkForwarded(peer, scheme, lines)
		}
	}
	if t.source != ForwardedOnly {
		return peer, forwardedProto(h.PeekAll(fasthttp.HeaderXForwardedProto), 1, scheme)
	}
	return peer, scheme
}

// WalkXForwardedFor reads the lines of X-Forwarded-For from the right: every
// trusted proxy vouches for the address it saw, so the client is the first
// that is not trusted, or the last that was believed when an entry is
// malformed or the list ends. hops is how many entries were believed. The
// caller has found peer trusted.
func (t *Trust) WalkXForwardedFor(peer netip.Addr, lines [][]byte) (client netip.Addr, hops int) {
	client = peer
	for i := len(lines) - 1; i >= 0; i-- {
		line := lines[i]
		for more := true; more; {
			var item []byte
			line, item, more = cutLast(line)
			if len(item) == 0 {
				continue // an empty list element says nothing (RFC 9110, 5.6.1)
			}
			a, ok := parseNode(item)
			if !ok {
				return client, hops
			}
			client, hops = a, hops+1
			if !t.Trusts(a) {
				return client, hops
			}
		}
	}
	return client, hops
}

// cutLast takes the last element off a comma-separated list.
func cutLast(line []byte) (rest, item []byte, more bool) {
	for i := len(line) - 1; i >= 0; i-- {
		if line[i] == ',' {
			return line[:i], trim(line[i+1:]), true
		}
	}
	return nil, trim(line), false
}

// forwardedProto is the scheme that X-Forwarded-Proto gives for the hop-th
// believed proxy from the right. A single value is meant for the client's
// connection, however many proxies there are.
func forwardedProto(lines [][]byte, hop int, scheme string) string {
	single := len(lines) == 1
	for i, n := len(lines)-1, 1; i >= 0; i-- {
		line := lines[i]
		for more := true; more; n++ {
			var item []byte
			line, item, more = cutLast(line)
			if n == hop || n == 1 && single && !more {
				return schemeOf(item, scheme)
			}
		}
	}
	return scheme
}

// schemeOf is the known scheme that s names, else otherwise.
func schemeOf(s []byte, otherwise string) string {
	switch {
	case equalFold(s, "https"), equalFold(s, "wss"):
		return "https"
	case equalFold(s, "http"), equalFold(s, "ws"):
		return "http"
	}
	return otherwise
}
