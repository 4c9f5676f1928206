package tlsterm

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// Rate is how many full handshakes one client may begin, at once and in every Per.
type Rate struct {
	Limit int64
	Per   time.Duration
}

// What a handshake costs. Resuming spares the signature, but in TLS 1.3 not the
// key exchange, which with X25519MLKEM768 is the larger part. One that offers a
// session may turn out to be a full one: it then pays the difference.
const (
	fullCost    = 2
	resumedCost = 1
)

// maxClients is how many clients' buckets are kept apart: 64 Ki take at most
// 2 MiB, and those that find no room share some (see ratelimit.Local).
const maxClients = 64 << 10

// clientNetwork is how much of an IPv6 address is one client.
const clientNetwork = 64

var errTooMany = errors.New("too many handshakes from this address")

// newLimiter returns nil for no limit.
func newLimiter(r Rate) ratelimit.Limiter {
	if r.Limit <= 0 {
		return nil
	}
	l, err := ratelimit.NewLocal(ratelimit.Settings{
		Windows: []ratelimit.Window{{Limit: fullCost * r.Limit, Per: r.Per, Burst: fullCost * r.Limit}},
		MaxKeys: maxClients,
	})
	if err != nil {
		panic(fmt.Sprintf("BUG: a limit of handshakes passed validation: %v", err))
	}
	return l
}

// exhausted reports, before anything is read, that a client has nothing left:
// whoever floods is sent away at the price of an accept.
func (t *Terminator) exhausted(nc net.Conn) bool {
	if t.limiter == nil {
		return false
	}
	var d ratelimit.Decision
	t.take(nc, 0, &d)
	return d.Remaining < resumedCost
}

// charge takes the price of a handshake, before anything expensive is done.
func (t *Terminator) charge(nc net.Conn, cost uint32) bool {
	if t.limiter == nil {
		return true
	}
	var d ratelimit.Decision
	t.take(nc, cost, &d)
	return d.Allowed
}

func (t *Terminator) take(nc net.Conn, cost uint32, d *ratelimit.Decision) {
	var key [16]byte
	a := addressOf(nc)
	n := 4
	switch {
	case a.Is4():
		b := a.As4()
		copy(key[:], b[:])
	default: // what has no address at all is one client
		if a.Is6() {
			key = a.As16()
		}
		n = clientNetwork / 8
	}
	_ = t.limiter.Take(key[:n], cost, d) // ratelimit.Local never fails
}

func addressOf(nc net.Conn) netip.Addr {
	switch a := nc.RemoteAddr().(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

const extensionPreSharedKey = 41 // RFC 8446, 4.2

// offersSession says that a handshake may be a resumed one. In TLS 1.2 that
// cannot be told from outside, so it counts as full.
func offersSession(hello *tls.ClientHelloInfo) bool {
	return slices.Contains(hello.Extensions, extensionPreSharedKey) && slices.Contains(hello.SupportedVersions, tls.VersionTLS13)
}
