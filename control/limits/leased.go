package limits

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

const (
	// leaseTime is how long leased tokens are good for at most, leasePart what
	// part of the time that a burst takes to come back, shortLease the least.
	// Tokens were charged at most one lease before they are spent, so over any
	// time t the fleet grants burst + (t + lease) × rate at most.
	leaseTime  = time.Second
	leasePart  = 10
	shortLease = 10 * time.Millisecond
	// holdings is the part of a burst that all nodes together may have leased and
	// not spent: what is refused too early.
	holdings     = 2
	leasedShards = 64
)

// leased spends tokens that the node has taken from the store before. It asks in
// the background when they run low; a request waits, as with exact, only where
// the node holds none for its key.
type leased struct {
	*exact
	seed   maphash.Seed
	life   int64 // of a lease, ns
	max    int   // entries of a shard
	shards [leasedShards]leasedShard
}

type leasedShard struct {
	mu      sync.Mutex // guards all below
	entries map[uint64]*entry
	sweepAt int
	_       [64]byte
}

// generation is tokens that lapse at the same time.
type generation struct {
	tokens  int64
	expires int64
}

// entry is what the node holds and knows of one key. Its shard's lock guards it.
type entry struct {
	l     *leased
	shard *leasedShard
	key   string
	// older tokens are spent first.
	older, newer generation
	size         int64 // of the next lease
	asked        int64 // when the last lease was asked for
	asking       bool
	// until then less than refused tokens are known not to be there.
	until   int64
	refused int64
	// fullAt is when each bucket in the store is full, as it last said.
	fullAt []int64
}

func newLeased(x *exact, maxKeys int) *leased {
	l := &leased{exact: x, seed: maphash.MakeSeed(), life: int64(leaseTime)}
	for _, b := range x.buckets {
		l.life = min(l.life, int64(b.Interval)*b.Burst/leasePart)
	}
	l.life = max(l.life, int64(shortLease))
	if maxKeys <= 0 {
		maxKeys = 64 << 10
	}
	l.max = max(16, maxKeys/leasedShards)
	for i := range l.shards {
		l.shards[i].entries = map[uint64]*entry{}
	}
	return l
}

// Take implements ratelimit.Limiter. It does not allocate where it does not ask.
func (l *leased) Take(key []byte, cost uint32, d *ratelimit.Decision) error {
	want, now := int64(cost), l.node.now()
	if want > l.most {
		l.never(want, d)
		return nil
	}
	h := maphash.Bytes(l.seed, key)
	s := &l.shards[h%leasedShards]
	s.mu.Lock()
	e := s.entries[h]
	if e == nil {
		if e = l.open(s, h, key, now); e == nil {
			s.mu.Unlock()
			return l.exact.Take(key, cost, d) // no room to hold anything
		}
	}
	e.lapse(now)
	switch {
	case e.older.tokens+e.newer.tokens >= want: // also asking, which costs nothing
		e.spend(want)
		e.describe(now, want, true, d)
		q := e.refill(now)
		s.mu.Unlock()
		if q != nil {
			q.post(0)
		}
		return nil
	case now < e.until && want >= e.refused:
		e.describe(now, want, false, d)
		s.mu.Unlock()
		return nil
	case l.node.health.away():
		s.mu.Unlock()
		return l.instead.take(key, cost, d)
	}
	q := &leaseQuestion{e: e, cost: want, sent: now}
	if !e.asking {
		q.extra = e.grow(now)
	}
	s.mu.Unlock()
	in, at, ok := q.post(want)
	if !ok {
		return l.instead.take(key, cost, d)
	}
	a := in.wait(at)
	if a == nil {
		return l.instead.take(key, cost, d)
	}
	s.mu.Lock()
	ok = a.Got >= want
	if e.lapse(now); !ok && e.older.tokens+e.newer.tokens >= want {
		// The last there was had been leased just before.
		e.spend(want)
		ok = true
	}
	e.describe(l.node.now(), want, ok, d)
	s.mu.Unlock()
	d.Source = ratelimit.Store
	return nil
}

// open makes an entry; nil if there is no room. Holds s.mu.
func (l *leased) open(s *leasedShard, h uint64, key []byte, now int64) *entry {
	if len(s.entries) >= max(16, s.sweepAt) || len(s.entries) >= l.max {
		for k, e := range s.entries {
			if e.lapse(now); e.older.tokens+e.newer.tokens == 0 && now >= e.until && !e.asking {
				delete(s.entries, k)
			}
		}
		s.sweepAt = 2 * len(s.entries)
		if len(s.entries) >= l.max {
			return nil
		}
	}
	e := &entry{l: l, shard: s, key: l.space.key(key), size: 1, fullAt: make([]int64, len(l.buckets))}
	s.entries[h] = e
	return e
}

// lapse forgets tokens whose time is over. Much that was not used makes the next
// lease smaller.
func (e *entry) lapse(now int64) {
	for _, g := range [...]*generation{&e.older, &e.newer} {
		if g.tokens > 0 && now >= g.expires {
			if 2*g.tokens >= e.size {
				e.size = max(1, e.size/2)
			}
			g.tokens = 0
		}
	}
}

func (e *entry) spend(n int64) {
	from := min(n, e.older.tokens)
	e.older.tokens -= from
	e.newer.tokens -= n - from
}

// add takes a lease in. Of three generations the older two become one that lapses
// with the oldest.
func (e *entry) add(n, expires int64) {
	if e.newer.tokens > 0 {
		if e.older.tokens == 0 {
			e.older = e.newer
		} else {
			e.older.tokens += e.newer.tokens
			e.older.expires = min(e.older.expires, e.newer.expires)
		}
	}
	e.newer = generation{n, expires}
}

// refill returns a question if the tokens run low. Holds the lock.
func (e *entry) refill(now int64) *leaseQuestion {
	if e.asking || 2*(e.older.tokens+e.newer.tokens) >= e.size || now < e.until || e.l.node.health.away() {
		return nil
	}
	q := &leaseQuestion{e: e, sent: now, extra: e.grow(now)}
	if q.extra == 0 {
		return nil
	}
	return q
}

// grow is the size of a lease that is asked for now: twice as much as the last
// one, if that was used up in half its time. Holds the lock.
func (e *entry) grow(now int64) int64 {
	most := e.l.most / int64(holdings*e.l.node.live())
	if e.asked > 0 && now-e.asked < e.l.life/2 {
		e.size *= 2
	}
	e.size = max(1, min(e.size, most))
	if most == 0 {
		return 0 // so small a limit cannot be leased
	}
	e.asking, e.asked = true, now
	return e.size
}

// describe writes what is known of the key, of which the tokens held are a part
// that can still be had. Holds the lock.
func (e *entry) describe(now, cost int64, taken bool, d *ratelimit.Decision) {
	var room [ratelimit.MaxWindows]time.Duration
	used, held := room[:len(e.fullAt)], e.older.tokens+e.newer.tokens
	for i, at := range e.fullAt {
		used[i] = max(0, time.Duration(at-now)-time.Duration(held)*e.l.buckets[i].Interval)
	}
	e.l.rates.Judge(used, cost, taken, d)
	d.Source = ratelimit.Lease
}

// leaseQuestion asks for tokens: cost for a request that waits, extra to hold.
type leaseQuestion struct {
	e           *entry
	cost, extra int64
	sent        int64
}

func (q *leaseQuestion) post(atLeast int64) (*batch[store.Take, store.Taken], int, bool) {
	in, at, ok := q.e.l.node.takes.post(store.Take{
		Key: q.e.key, Buckets: q.e.l.buckets, Cost: q.cost + q.extra, AtLeast: max(1, atLeast),
	}, q)
	if !ok {
		q.answered(nil, nil, 0)
	}
	return in, at, ok
}

// answered implements receiver. The part of a request that did not wait until
// now counts as spent: it may have been let through without.
func (q *leaseQuestion) answered(asked *store.Take, a *store.Taken, took time.Duration) {
	q.e.l.exact.answered(asked, a, took)
	e := q.e
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	if q.extra > 0 {
		e.asking = false
	}
	if a == nil {
		return
	}
	now := e.l.node.now()
	for i, used := range a.Used {
		e.fullAt[i] = now + int64(used)
	}
	if a.Got == 0 {
		var d ratelimit.Decision
		e.l.rates.Judge(a.Used, max(1, q.cost), false, &d)
		e.until, e.refused = now+int64(d.RetryAfter), max(1, q.cost)
		return
	}
	e.until = 0
	if n := a.Got - q.cost; n > 0 {
		e.add(n, q.sent+e.l.life)
	}
}
