// Package live is what the servers of all protocols keep what they have under
// way with, connections or requests: a Set of them and a Clock for their time
// limits. It knows nothing of what they are.
package live

import (
	"sync"
	"sync/atomic"
)

// Set is what a server has under way. It has many parts, so that whoever comes,
// goes, or looks at all of them waits for others as little as possible. Its
// methods are safe for concurrent use.
type Set[T Member] struct {
	shards [16]shard[T]
	turn   atomic.Uint32
	count  atomic.Int64
	waited atomic.Bool
	// empty has an item when the last one has left and somebody waits.
	empty chan struct{}
}

// Member is what can be in a Set: a type that embeds Place.
type Member interface{ at() *Place }

// Place is where a member is, for its Set.
type Place struct{ shard, index int }

func (p *Place) at() *Place { return p }

type shard[T Member] struct {
	mu      sync.Mutex
	members []T
	_       [32]byte // a cache line of its own
}

// NewSet returns an empty set.
func NewSet[T Member]() *Set[T] { return &Set[T]{empty: make(chan struct{}, 1)} }

// Enter counts one that comes, which Wait waits for from now on. Who enters
// first, and then looks whether the server has closed, is not missed.
func (s *Set[T]) Enter() { s.count.Add(1) }

// Leave counts one that has gone.
func (s *Set[T]) Leave() {
	if s.count.Add(-1) == 0 && s.waited.Load() {
		s.tell()
	}
}

func (s *Set[T]) tell() {
	select {
	case s.empty <- struct{}{}:
	default:
	}
}

// Len is how many have entered and not left.
func (s *Set[T]) Len() int { return int(s.count.Load()) }

// Add lets Each see x, between its Enter and its Leave.
func (s *Set[T]) Add(x T) {
	p := x.at()
	p.shard = int(s.turn.Add(1) % uint32(len(s.shards)))
	h := &s.shards[p.shard]
	h.mu.Lock()
	p.index = len(h.members)
	h.members = append(h.members, x)
	h.mu.Unlock()
}

// Remove takes x away. Once it has returned nobody looks at x any more.
func (s *Set[T]) Remove(x T) {
	p := x.at()
	h := &s.shards[p.shard]
	h.mu.Lock()
	last := len(h.members) - 1
	moved := h.members[last]
	moved.at().index = p.index
	h.members[p.index] = moved
	var none T
	h.members[last] = none
	h.members = h.members[:last]
	h.mu.Unlock()
}

// Each calls f for all that are in the set, none of which is removed while f
// looks at it. f must not add or remove any.
func (s *Set[T]) Each(f func(T)) {
	for i := range s.shards {
		h := &s.shards[i]
		h.mu.Lock()
		for _, x := range h.members {
			f(x)
		}
		h.mu.Unlock()
	}
}

// Wait returns true once all have left, false when done comes first.
func (s *Set[T]) Wait(done <-chan struct{}) bool {
	s.waited.Store(true)
	for s.count.Load() > 0 {
		select {
		case <-s.empty:
		case <-done:
			return s.count.Load() == 0
		}
	}
	s.tell() // whoever waits besides
	return true
}
