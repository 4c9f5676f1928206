package attribute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// KeySettings say what a Key is made of.
type KeySettings struct {
	// Attributes as users write them; at least one.
	Attributes []string
	// IPv6Prefix makes client_ip of an IPv6 client its network of that many
	// bits, because one client has a whole network. 0 means 128.
	IPv6Prefix int
	// Seed makes hashes differ between purposes and, where it is random,
	// unpredictable to clients. Balancers on several nodes need the same.
	Seed uint64
}

// KeyOf are the settings of a list of attributes as users write it, with commas.
func KeyOf(list string, ipv6Prefix int) KeySettings {
	s := KeySettings{IPv6Prefix: ipv6Prefix}
	for part := range strings.SplitSeq(list, ",") {
		s.Attributes = append(s.Attributes, strings.TrimSpace(part))
	}
	return s
}

// Key tells requests apart by several attributes. It never changes.
type Key struct {
	parts []Attribute
	bits  int
	seed  uint64
}

// NewKey checks s; errors name the knob ("attributes", "ipv6_prefix").
func NewKey(s KeySettings) (*Key, error) {
	k := &Key{bits: s.IPv6Prefix, seed: s.Seed}
	if len(s.Attributes) == 0 {
		return nil, errors.New("attributes: must not be empty; known: " + Known)
	}
	if s.IPv6Prefix < 0 || s.IPv6Prefix > 128 {
		return nil, fmt.Errorf("ipv6_prefix: must be 0 to 128, got %d", s.IPv6Prefix)
	}
	for _, name := range s.Attributes {
		a, err := Parse(name)
		if err != nil {
			return nil, fmt.Errorf("attributes: %w", err)
		}
		k.parts = append(k.parts, a)
	}
	return k, nil
}

// String lists the attributes.
func (k *Key) String() string {
	names := make([]string, len(k.parts))
	for i, a := range k.parts {
		names[i] = a.String()
	}
	return strings.Join(names, ",")
}

// Append appends the request's key: text for one attribute, else for each its
// value's length in two bytes and the value, so that different requests never
// share a key by shifting bytes from one attribute to the next. complete is
// false if an attribute is absent; absent and empty are then told apart from
// each other too. It does not allocate when dst has room.
func (k *Key) Append(dst []byte, ctx *fasthttp.RequestCtx, e *exchange.Exchange) (out []byte, complete bool) {
	if len(k.parts) == 1 {
		return k.part(dst, k.parts[0], ctx, e)
	}
	const absent, digest = 0xFFFF, 0xFFFE
	complete = true
	for _, a := range k.parts {
		at := len(dst)
		dst = append(dst, 0, 0)
		var ok bool
		dst, ok = k.part(dst, a, ctx, e)
		n := len(dst) - at - 2
		switch {
		case !ok:
			n, complete = absent, false
		case n >= digest: // longer than two bytes can say
			h := xxhash.Sum64(dst[at+2:])
			dst = binary.BigEndian.AppendUint64(dst[:at+2], h)
			n = digest
		}
		binary.BigEndian.PutUint16(dst[at:], uint16(n))
	}
	return dst, complete
}

func (k *Key) part(dst []byte, a Attribute, ctx *fasthttp.RequestCtx, e *exchange.Exchange) ([]byte, bool) {
	if a.kind == clientIP && k.bits > 0 {
		return appendClient(dst, e.Client, k.bits)
	}
	return a.Append(dst, ctx, e)
}

// appendClient appends an address as a key: IPv4 in full, IPv6 as its network
// of that many bits ("2001:db8::/64"). ok is false for the zero address.
func appendClient(dst []byte, a netip.Addr, ipv6Bits int) (out []byte, ok bool) {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return dst, false
	}
	if a.Is4() || ipv6Bits >= 128 {
		return a.AppendTo(dst), true
	}
	p, err := a.Prefix(ipv6Bits)
	if err != nil {
		return dst, false
	}
	return p.AppendTo(dst), true
}

// scratch is memory for keys that only live until they are hashed.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }}

const maxPooled = 16 << 10

// Hash is a 64-bit hash (xxHash, seeded) of what Append writes. It does not
// allocate.
func (k *Key) Hash(ctx *fasthttp.RequestCtx, e *exchange.Exchange) (hash uint64, complete bool) {
	p := scratch.Get().(*[]byte)
	b := binary.LittleEndian.AppendUint64((*p)[:0], k.seed)
	b, complete = k.Append(b, ctx, e)
	hash = xxhash.Sum64(b)
	if cap(b) <= maxPooled {
		*p = b
		scratch.Put(p)
	}
	return hash, complete
}
