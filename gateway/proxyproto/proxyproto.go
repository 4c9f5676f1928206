// Package proxyproto reads and writes the header of the PROXY protocol,
// versions 1 and 2, by which one proxy tells the next whose connection it
// hands on (HAProxy's proxy-protocol.txt). It reads exactly the header's bytes
// and nothing behind them, so that the connection need not be wrapped: whoever
// is next may use the socket itself.
//
// What it is told is believed: whom to listen to is the caller's decision, by
// Policy.Trusts.
package proxyproto

import (
	"bytes"
	"net/netip"
	"slices"
	"time"
)

// Version of the header.
type Version uint8

// The versions. None is not to send a header.
const (
	None Version = iota
	V1
	V2
)

var (
	signature1 = []byte("PROXY ")
	signature2 = []byte("\r\n\r\n\x00\r\nQUIT\n")
)

// Policy says who sends headers.
type Policy struct {
	from    []netip.Prefix
	timeout time.Duration
}

// NewPolicy returns a policy by which peers in from send a header within
// timeout, and others send none.
func NewPolicy(from []netip.Prefix, timeout time.Duration) *Policy {
	return &Policy{from: slices.Clone(from), timeout: timeout}
}

// Trusts reports whether a peer has to send a header.
func (p *Policy) Trusts(peer netip.Addr) bool {
	peer = peer.Unmap().WithZone("")
	return slices.ContainsFunc(p.from, func(f netip.Prefix) bool { return f.Contains(peer) })
}

// Looks is what the first bytes of a connection look like.
type Looks uint8

// What Look returns.
const (
	Other     Looks = iota // no header
	Undecided              // too few bytes to say
	Proxy                  // the beginning of a header
)

// Look tells whether b, the first bytes of a connection, begin a header. It
// does not allocate.
func Look(b []byte) Looks {
	for _, sign := range [][]byte{signature1, signature2} {
		if bytes.HasPrefix(b, sign) {
			return Proxy
		}
		if bytes.HasPrefix(sign, b) {
			return Undecided
		}
	}
	return Other
}
