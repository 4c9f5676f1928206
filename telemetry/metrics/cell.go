package metrics

import (
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"
)

// shards spreads one counter over several cache lines, so that cores seldom
// wait for each other. More than 32 would cost memory for little.
var shards = shardCount(runtime.GOMAXPROCS(0))

func shardCount(procs int) int {
	n := 1 << bits.Len(uint(max(procs, 1)-1))
	return min(n, 32)
}

// shard picks one at random: Go offers no cheap core number, and a random
// choice keeps two cores apart often enough.
func shard() int {
	if shards == 1 {
		return 0
	}
	return int(rand.Uint32()) & (shards - 1)
}

// Bounds are the upper ends of the latency buckets in seconds. A gateway's own
// share is below a millisecond and its timeouts end at a minute.
var Bounds = [...]float64{
	0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
	0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
}

var boundsNanos = func() (ns [len(Bounds)]int64) {
	for i, s := range Bounds {
		ns[i] = int64(s * float64(time.Second))
	}
	return ns
}()

// bucket is the index of the first bound that is not below ns.
func bucket(ns int64) int {
	lo, hi := 0, len(boundsNanos)
	for lo < hi {
		mid := (lo + hi) / 2
		if boundsNanos[mid] < ns {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// cell is one shard of what is counted per route or upstream.
type cell struct {
	buckets  [len(Bounds) + 1]atomic.Uint64
	sumNanos atomic.Int64
	in, out  atomic.Int64
	codes    [numCodes]atomic.Uint64
	_        [64]byte // the next shard starts on its own cache line
}

func (c *cell) record(status int, took time.Duration) {
	c.buckets[bucket(int64(took))].Add(1)
	c.sumNanos.Add(int64(took))
	c.codes[codeSlot(status)].Add(1)
}

// cells are the shards of one counter set, made on first use: of ten thousand
// configured routes most are seldom asked for.
type cells struct{ p atomic.Pointer[[]cell] }

func (c *cells) any() *cell {
	p := c.p.Load()
	if p == nil {
		p = c.make()
	}
	return &(*p)[shard()]
}

func (c *cells) make() *[]cell {
	s := make([]cell, shards)
	if c.p.CompareAndSwap(nil, &s) {
		return &s
	}
	return c.p.Load()
}

// total is the sum of all shards at about one moment.
type total struct {
	buckets [len(Bounds) + 1]uint64
	sum     time.Duration
	in, out int64
	codes   [numCodes]uint64
	count   uint64
}

// total returns false when nothing has been counted yet.
func (c *cells) total(t *total) bool {
	*t = total{}
	p := c.p.Load()
	if p == nil {
		return false
	}
	for i := range *p {
		s := &(*p)[i]
		for j := range s.buckets {
			n := s.buckets[j].Load()
			t.buckets[j] += n
			t.count += n
		}
		for j := range s.codes {
			t.codes[j] += s.codes[j].Load()
		}
		t.sum += time.Duration(s.sumNanos.Load())
		t.in += s.in.Load()
		t.out += s.out.Load()
	}
	return true
}

// Counter is a number that only grows. Add is for concurrent use and does not allocate.
type Counter struct{ n atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Value is the count so far.
func (c *Counter) Value() uint64 { return c.n.Load() }

// Gauge is a number that goes up and down, for concurrent use.
type Gauge struct{ n atomic.Int64 }

// Inc adds one.
func (g *Gauge) Inc() { g.n.Add(1) }

// Dec takes one away.
func (g *Gauge) Dec() { g.n.Add(-1) }

// Set makes it n.
func (g *Gauge) Set(n int64) { g.n.Store(n) }

// Value is the number now.
func (g *Gauge) Value() int64 { return g.n.Load() }
