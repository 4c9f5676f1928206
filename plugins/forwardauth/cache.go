package forwardauth

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// cache remembers verdicts that let pass. It is bounded.
type cache struct {
	ttl     int64
	most    int
	headers []string
	base    time.Time

	mu      sync.Mutex // guards entries
	entries map[[sha256.Size]byte]remembered
}

type remembered struct {
	verdict *verdict
	until   int64
}

func newCache(c *Cache, headers []string) *cache {
	if c == nil {
		return nil
	}
	return &cache{ttl: int64(c.TTL), most: c.Size, headers: headers, base: time.Now(), entries: make(map[[sha256.Size]byte]remembered)}
}

// scratch is memory for what is digested.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

const maxPooled = 16 << 10

// key is a digest of everything the service sees. Lengths keep parts apart.
func (c *cache) key(e *exchange.Exchange) [sha256.Size]byte {
	h := &e.Ctx.Request.Header
	p := scratch.Get().(*[]byte)
	b := part((*p)[:0], h.Method())
	b = part(b, e.Scheme)
	b = part(b, h.Host())
	b = part(b, e.Path)
	b = part(b, e.Query)
	b = e.Client.AppendTo(b)
	for _, n := range c.headers {
		lines := h.PeekAll(n)
		b = append(b, ' ')
		b = binary.AppendUvarint(b, uint64(len(lines)))
		for _, l := range lines {
			b = part(b, l)
		}
	}
	sum := sha256.Sum256(b)
	if cap(b) <= maxPooled {
		*p = b
		scratch.Put(p)
	}
	return sum
}

func part[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func (c *cache) get(key [sha256.Size]byte) *verdict {
	now := int64(time.Since(c.base))
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.entries[key]
	if !ok {
		return nil
	}
	if now >= r.until {
		delete(c.entries, key)
		return nil
	}
	return r.verdict
}

// put makes room by dropping what has expired among a few entries, else any.
func (c *cache) put(key [sha256.Size]byte, v *verdict) {
	now := int64(time.Since(c.base))
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.entries[key]; !known && len(c.entries) >= c.most {
		looked := 0
		for k, r := range c.entries {
			if looked++; now >= r.until || looked == 8 {
				delete(c.entries, k)
				break
			}
		}
		for k := range c.entries {
			if len(c.entries) < c.most {
				break
			}
			delete(c.entries, k)
		}
	}
	c.entries[key] = remembered{v, now + c.ttl}
}
