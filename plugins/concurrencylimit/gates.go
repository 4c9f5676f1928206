package concurrencylimit

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// gates count what is in flight for every key. A key is known only while
// something of it is in flight, so memory is bounded by what is in flight.
type gates struct {
	limit  *atomic.Int64
	queue  int
	wait   time.Duration
	shards []shard
	spare  sync.Pool // of *waiter
}

const shards = 16

type shard struct {
	mu    sync.Mutex // guards all below
	gates map[uint64]*gate
	idle  []*gate // to be used again
	_     [64]byte
}

// gate is one key.
type gate struct {
	inFlight    int
	queued      int
	first, last *waiter
}

// waiter is a request in a queue.
type waiter struct {
	prev, next *waiter
	granted    bool          // guarded by the shard's mu
	ready      chan struct{} // has room for one
}

// outcome of entering a gate.
type outcome uint8

const (
	entered outcome = iota
	enteredLate
	full
	tooLate
	gone
)

func newGates(limit *atomic.Int64, queue int, wait time.Duration, keys bool) *gates {
	g := &gates{limit: limit, queue: queue, wait: wait}
	n := 1
	if keys {
		n = shards
	}
	g.spare.New = func() any { return &waiter{ready: make(chan struct{}, 1)} }
	g.shards = make([]shard, n)
	for i := range g.shards {
		g.shards[i].gates = make(map[uint64]*gate)
	}
	return g
}

func (g *gates) shard(key uint64) *shard { return &g.shards[key%uint64(len(g.shards))] }

// enter takes a place for key, waiting for one if there is a queue with room.
// After entered and enteredLate, leave must be called once.
func (g *gates) enter(e *exchange.Exchange, key uint64) outcome {
	s := g.shard(key)
	s.mu.Lock()
	k := s.gates[key]
	if k == nil {
		k = s.open(key)
	}
	if k.first == nil && int64(k.inFlight) < g.limit.Load() {
		k.inFlight++
		s.mu.Unlock()
		return entered
	}
	if k.queued >= g.queue {
		s.shut(key, k)
		s.mu.Unlock()
		return full
	}
	w := g.spare.Get().(*waiter)
	k.push(w)
	s.mu.Unlock()
	return g.await(e, s, key, w)
}

// await waits for a place. Whoever grants it has counted it already.
func (g *gates) await(e *exchange.Exchange, s *shard, key uint64, w *waiter) outcome {
	t := time.NewTimer(g.wait)
	defer t.Stop()
	result := tooLate
	select {
	case <-w.ready:
		g.put(w)
		return enteredLate
	case <-t.C:
	case <-e.Context().Done():
		result = gone
	}
	s.mu.Lock()
	if w.granted { // at the last moment
		s.mu.Unlock()
		<-w.ready
		g.put(w)
		if result == gone {
			g.leave(key)
			return gone
		}
		return enteredLate
	}
	k := s.gates[key]
	k.remove(w)
	s.shut(key, k)
	s.mu.Unlock()
	g.put(w)
	return result
}

// leave gives a place back and lets in who waits, as far as the limit allows
// now.
func (g *gates) leave(key uint64) {
	s := g.shard(key)
	s.mu.Lock()
	k := s.gates[key]
	k.inFlight--
	for k.first != nil && int64(k.inFlight) < g.limit.Load() {
		w := k.first
		k.remove(w)
		k.inFlight++
		w.granted = true
		w.ready <- struct{}{}
	}
	s.shut(key, k)
	s.mu.Unlock()
}

// inFlight is how many places of key are taken.
func (g *gates) inFlight(key uint64) int {
	s := g.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.gates[key]; k != nil {
		return k.inFlight
	}
	return 0
}

// maxIdle is how many gates a shard keeps for the next keys.
const maxIdle = 64

func (s *shard) open(key uint64) *gate {
	var k *gate
	if n := len(s.idle); n > 0 {
		k, s.idle = s.idle[n-1], s.idle[:n-1]
	} else {
		k = new(gate)
	}
	s.gates[key] = k
	return k
}

// shut forgets a key of which nothing is left.
func (s *shard) shut(key uint64, k *gate) {
	if k.inFlight > 0 || k.first != nil {
		return
	}
	delete(s.gates, key)
	if len(s.idle) < maxIdle {
		s.idle = append(s.idle, k)
	}
}

func (k *gate) push(w *waiter) {
	w.prev = k.last
	if k.last != nil {
		k.last.next = w
	} else {
		k.first = w
	}
	k.last = w
	k.queued++
}

func (k *gate) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		k.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		k.last = w.prev
	}
	w.prev, w.next = nil, nil
	k.queued--
}

func (g *gates) put(w *waiter) {
	w.granted = false
	g.spare.Put(w)
}
