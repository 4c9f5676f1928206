package jwt

import (
	"crypto/sha256"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// cache remembers tokens that were right, by digest. It is bounded; only who
// has a valid token can put anything in.
type cache struct {
	shards  [16]cacheShard
	perEach int
}

type cacheShard struct {
	mu      sync.Mutex // guards entries
	entries map[[sha256.Size]byte]entry
}

// entry is a verified token. It counts only with the keys that verified it.
type entry struct {
	identity exchange.Identity
	until    int64 // Unix seconds
	keys     *keySet
}

// maxCachedToken keeps what is remembered small: claims take a few times the
// token's size.
const maxCachedToken = 4 << 10

func newCache(size int) *cache {
	if size == 0 {
		return nil
	}
	c := &cache{}
	c.perEach = max(1, size/len(c.shards))
	for i := range c.shards {
		c.shards[i].entries = make(map[[sha256.Size]byte]entry)
	}
	return c
}

func (c *cache) get(digest *[sha256.Size]byte, keys *keySet, now int64) (exchange.Identity, bool) {
	s := &c.shards[digest[0]%byte(len(c.shards))]
	s.mu.Lock()
	e, ok := s.entries[*digest]
	if ok && (now >= e.until || e.keys != keys) {
		delete(s.entries, *digest)
		ok = false
	}
	s.mu.Unlock()
	return e.identity, ok
}

// put makes room by dropping what has expired among a few entries, else any.
func (c *cache) put(digest *[sha256.Size]byte, e entry, now int64) {
	s := &c.shards[digest[0]%byte(len(c.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) >= c.perEach {
		looked := 0
		for k, old := range s.entries {
			if looked++; now >= old.until || old.keys != e.keys || looked == 8 {
				delete(s.entries, k)
				break
			}
		}
		for k := range s.entries {
			if len(s.entries) < c.perEach {
				break
			}
			delete(s.entries, k)
		}
	}
	s.entries[*digest] = e
}
