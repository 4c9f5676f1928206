package ratelimit

import (
	"hash/maphash"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Settings are what a Local needs to know. The zero value of every field but
// Windows means its default.
type Settings struct {
	// Windows are the limits; all must allow a request.
	Windows []Window
	// MaxKeys is how many keys can hold a bucket of their own at once, default
	// 65536. Room is made in powers of two, so that up to three times as many
	// may fit. A key takes 8 bytes and 8 for every window.
	MaxKeys int
	// Now is a monotonic clock in nanoseconds, default the system's.
	Now func() int64
}

// defaultMaxKeys is 64 Ki: 2 MiB with one window when all are in use.
const defaultMaxKeys = 64 << 10

const (
	// probe is how far from its home slot a key may lie. At three quarters
	// full, a run of 32 taken slots is rare enough to leave to the overflow.
	probe = 32
	// minSlots is a shard's first table.
	minSlots = 2 * probe
	// shared is how many overflow buckets a shard has.
	shared = 64
	// keysPerShard bounds how long a table is rebuilt under its lock.
	keysPerShard = 16 << 10
)

// Local is a Limiter in this process's memory. It starts no goroutine: shards
// forget full buckets and shrink as they are used.
type Local struct {
	whole    []rate                 // as configured
	rates    atomic.Pointer[[]rate] // this node's share of them
	seed     maphash.Seed
	now      func() int64
	shards   []shard
	mask     uint64
	maxSlots int
	sweep    int64 // nanoseconds between two sweeps of a shard
	squeezed atomic.Uint64
}

var _ Limiter = (*Local)(nil)

// shard is an open-addressing hash table from key hashes to buckets. A slot
// whose hash is 0 is empty; slots become empty only when the table is rebuilt,
// so a search may stop there. A bucket that is full again (all its times are
// in the past) says nothing and its slot may be taken by another key.
type shard struct {
	mu     sync.Mutex // guards all below
	hashes []uint64   // power of two long, or nil
	tats   []int64    // len(hashes) × windows
	used   int        // slots with a hash
	// spill are the overflow buckets, shared × windows, made on first use.
	spill   []int64
	sweepAt int64
	_       [128 - 8 - 3*24 - 16]byte // keep neighbours' locks off this cache line
}

// NewLocal makes a limiter; the error names the setting that is wrong.
func NewLocal(s Settings) (*Local, error) {
	rates, err := compile(s.Windows)
	if err != nil {
		return nil, err
	}
	keys := s.MaxKeys
	if keys <= 0 {
		keys = defaultMaxKeys
	}
	shards := ceilPow2(max(2*runtime.GOMAXPROCS(0), keys/keysPerShard))
	for shards > 1 && keys/shards < probe {
		shards /= 2
	}
	l := &Local{
		whole: rates, seed: maphash.MakeSeed(), now: s.Now,
		shards: make([]shard, shards), mask: uint64(shards - 1),
		maxSlots: max(minSlots, ceilPow2((keys/shards*4+2)/3)),
	}
	l.rates.Store(&rates)
	if l.now == nil {
		l.now = sinceNow()
	}
	for _, r := range rates {
		l.sweep = max(l.sweep, r.depth)
	}
	l.sweep = min(max(l.sweep, int64(10*time.Second)), int64(10*time.Minute))
	return l, nil
}

// Share makes the limiter grant the part that one of n nodes has of its windows,
// of which the parts of all n make up the whole, or less. (Bursts of less than n
// are more: each node has one of at least 1.) What keys have used remains used in
// proportion.
func (l *Local) Share(n int) {
	s := share(l.whole, int64(max(1, n)))
	l.rates.Store(&s)
}

// sinceNow is a monotonic clock that begins at 1: 0 is before every request.
func sinceNow() func() int64 {
	base := time.Now()
	return func() int64 { return int64(time.Since(base)) + 1 }
}

func ceilPow2(n int) int { return 1 << bits.Len(uint(max(n, 1)-1)) }

// Take implements Limiter. It holds one shard's lock for some ten nanoseconds
// and allocates nothing unless the shard's table must grow.
func (l *Local) Take(key []byte, cost uint32, d *Decision) error {
	h := maphash.Bytes(l.seed, key) | 1 // never 0, which marks an empty slot
	now, rates := l.now(), *l.rates.Load()
	s := &l.shards[h>>32&l.mask]
	s.mu.Lock()
	tats := l.own(s, h, now)
	d.Source, d.Squeezed = Own, tats == nil
	if d.Squeezed {
		l.squeezed.Add(1)
		tats = s.overflow(h, len(l.whole))
	}
	decide(rates, tats, now, cost, d)
	s.mu.Unlock()
	return nil
}

// Raise makes a key's bucket at least as empty as one that, some time ago, was
// to be full again after used, for each window. A key that there is no room for
// is left as it is, since others would be refused with it.
func (l *Local) Raise(key []byte, used []time.Duration, ago time.Duration) {
	h := maphash.Bytes(l.seed, key) | 1
	now := l.now()
	s := &l.shards[h>>32&l.mask]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.find(h) < 0 && !slices.ContainsFunc(used, func(d time.Duration) bool { return d > ago }) {
		return
	}
	tats := l.own(s, h, now)
	for i := range min(len(tats), len(used)) {
		tats[i] = max(tats[i], now+min(int64(used[i]-ago), l.whole[i].depth))
	}
}

// own finds or makes the bucket of h; nil if there is no room for one of its own.
// Holds s.mu.
func (l *Local) own(s *shard, h uint64, now int64) []int64 {
	w := len(l.whole)
	if i := s.find(h); i >= 0 {
		return s.tats[i*w : i*w+w]
	}
	if now >= s.sweepAt {
		l.sweepShard(s, now)
	}
	i := s.room(h, now, w)
	if i >= 0 && s.hashes[i] == 0 && s.used+1 > len(s.hashes)/4*3 || i < 0 {
		if l.grow(s, now) {
			i = s.room(h, now, w)
		}
	}
	if i < 0 {
		return nil
	}
	if s.hashes[i] == 0 {
		s.used++
	}
	s.hashes[i] = h
	b := s.tats[i*w : i*w+w]
	clear(b)
	if s.spill != nil {
		// The key may have been using an overflow bucket until now: what it
		// took there still counts.
		copy(b, s.overflow(h, w))
	}
	return b
}

// find returns the slot of h, or -1.
func (s *shard) find(h uint64) int {
	m := len(s.hashes) - 1
	for n := range probe {
		i := (int(h>>1) + n) & m
		if m < 0 {
			return -1
		}
		switch s.hashes[i] {
		case h:
			return i
		case 0:
			return -1
		}
	}
	return -1
}

// room returns a slot that a new key h may take: empty, or a bucket that is
// full again; -1 if there is none in reach.
func (s *shard) room(h uint64, now int64, w int) int {
	m := len(s.hashes) - 1
	if m < 0 {
		return -1
	}
	for n := range probe {
		i := (int(h>>1) + n) & m
		if s.hashes[i] == 0 || full(s.tats[i*w:i*w+w], now) {
			return i
		}
	}
	return -1
}

// full says that a bucket is as good as unused.
func full(tats []int64, now int64) bool {
	for _, t := range tats {
		if t > now {
			return false
		}
	}
	return true
}

// overflow is the shared bucket of keys that found no room.
func (s *shard) overflow(h uint64, w int) []int64 {
	if s.spill == nil {
		s.spill = make([]int64, shared*w)
	}
	i := int(h>>26%shared) * w
	return s.spill[i : i+w]
}

// grow makes room in a crowded table and says whether anything changed. A
// table of full size is left alone: rebuilding it for every new key would make
// many keys expensive, and slots are taken over without it.
func (l *Local) grow(s *shard, now int64) bool {
	if len(s.hashes) >= l.maxSlots {
		return false
	}
	size := max(minSlots, len(s.hashes))
	if s.hashes != nil && s.live(now, len(l.whole)) > len(s.hashes)*3/8 {
		size *= 2
	}
	l.rebuild(s, min(size, l.maxSlots), now)
	return true
}

// sweepShard forgets full buckets; a table mostly empty then shrinks.
func (l *Local) sweepShard(s *shard, now int64) {
	s.sweepAt = now + l.sweep
	if s.spill != nil && full(s.spill, now) {
		s.spill = nil
	}
	if s.used == 0 {
		return
	}
	live := s.live(now, len(l.whole))
	size := len(s.hashes)
	for size > minSlots && live < size/8 {
		size /= 2
	}
	if size < len(s.hashes) || live < s.used/2 {
		l.rebuild(s, size, now)
	}
}

func (s *shard) live(now int64, w int) (n int) {
	for i, h := range s.hashes {
		if h != 0 && !full(s.tats[i*w:i*w+w], now) {
			n++
		}
	}
	return n
}

// rebuild moves every bucket in use to a new table of size slots.
func (l *Local) rebuild(s *shard, size int, now int64) {
	w := len(l.whole)
	hashes, tats := s.hashes, s.tats
	s.hashes, s.tats, s.used = make([]uint64, size), make([]int64, size*w), 0
	for i, h := range hashes {
		old := tats[i*w : i*w+w]
		if h == 0 || full(old, now) {
			continue
		}
		to := s.room(h, now, w)
		if to < 0 {
			// No slot in reach even now: the stricter of both buckets serves.
			for j, t := range s.overflow(h, w) {
				s.spill[int(h>>26%shared)*w+j] = max(t, old[j])
			}
			continue
		}
		s.hashes[to] = h
		s.used++
		copy(s.tats[to*w:], old)
	}
}

// Keys counts the keys that hold a bucket of their own, full or not. It takes
// every shard's lock in turn: for metrics and tests.
func (l *Local) Keys() (n int) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += s.used
		s.mu.Unlock()
	}
	return n
}

// Slots is how many keys the tables have room for now. Like Keys, it is not
// for the hot path.
func (l *Local) Slots() (n int) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += len(s.hashes)
		s.mu.Unlock()
	}
	return n
}

// Squeezed counts the decisions that were made on an overflow bucket because
// there was no room: if it rises, MaxKeys is too small or somebody is trying
// many keys.
func (l *Local) Squeezed() uint64 { return l.squeezed.Load() }
