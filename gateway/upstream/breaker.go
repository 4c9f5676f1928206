package upstream

import (
	"sync"
	"sync/atomic"
)

// Breaker counts what goes to one upstream at once and refuses more than its
// limits. It lives as long as the upstream's name does: reloads share it, so
// that work of the old revision counts in the new one. All methods are safe for
// concurrent use and do not allocate.
//
// Limits are checked without a lock against counters that are raised first, so
// they are never exceeded; when many ask at the very limit at once, all may be
// refused although one slot was left.
type Breaker struct {
	requests    gauge
	connections gauge
	pending     gauge
	retries     gauge

	mu     sync.Mutex // guards owners; a leaf
	owners []breakerOwner
}

type breakerOwner struct {
	by     *Upstream
	limits BreakerSettings
}

// gauge has a cache line of its own: all cores write it.
type gauge struct {
	n       atomic.Int64
	limit   atomic.Int64
	refused atomic.Uint64
	_       [40]byte
}

func (g *gauge) try() bool {
	if g.n.Add(1) > g.limit.Load() {
		g.n.Add(-1)
		g.refused.Add(1)
		return false
	}
	return true
}

func (g *gauge) release() { g.n.Add(-1) }

// NewBreaker returns a breaker with the given limits, for use without an Upstream.
func NewBreaker(limits BreakerSettings) *Breaker {
	b := &Breaker{}
	b.set(limits)
	return b
}

func (b *Breaker) set(l BreakerSettings) {
	b.requests.limit.Store(int64(l.MaxRequests))
	b.connections.limit.Store(int64(l.MaxConnections))
	b.pending.limit.Store(int64(l.MaxPending))
	b.retries.limit.Store(int64(l.MaxRetries))
}

// own makes the limits of u apply until it or a later owner leaves: a revision
// that is built and then thrown away gives the old limits back.
func (b *Breaker) own(u *Upstream, l BreakerSettings) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owners = append(b.owners, breakerOwner{by: u, limits: l})
	b.set(l)
}

func (b *Breaker) leave(u *Upstream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, o := range b.owners {
		if o.by == u {
			b.owners = append(b.owners[:i], b.owners[i+1:]...)
			break
		}
	}
	if n := len(b.owners); n > 0 {
		b.set(b.owners[n-1].limits)
	}
}

// TryConnection takes the right to one more connection; ReleaseConnection gives it back.
func (b *Breaker) TryConnection() bool { return b.connections.try() }

// ReleaseConnection is called once for each connection that was granted and has closed.
func (b *Breaker) ReleaseConnection() { b.connections.release() }

// TryPending takes the right to wait for a connection; ReleasePending gives it back.
func (b *Breaker) TryPending() bool { return b.pending.try() }

// ReleasePending is called once for each TryPending that was granted.
func (b *Breaker) ReleasePending() { b.pending.release() }

// TryRetry takes the right to one more concurrent retry; ReleaseRetry gives it back.
func (b *Breaker) TryRetry() bool { return b.retries.try() }

// ReleaseRetry is called once for each TryRetry that was granted.
func (b *Breaker) ReleaseRetry() { b.retries.release() }

// Refusals counts what each limit has refused.
type Refusals struct{ Requests, Connections, Pending, Retries uint64 }

// Refused is what the limits have refused since the upstream's name appeared.
// A refused connection only makes the request wait.
func (b *Breaker) Refused() Refusals {
	return Refusals{b.requests.refused.Load(), b.connections.refused.Load(), b.pending.refused.Load(), b.retries.refused.Load()}
}

// Requests is how many requests are active: picked and not yet done.
func (b *Breaker) Requests() int64 { return b.requests.n.Load() }

// Connections is how many connections are open.
func (b *Breaker) Connections() int64 { return b.connections.n.Load() }

// Pending is how many requests wait for a connection.
func (b *Breaker) Pending() int64 { return b.pending.n.Load() }

// Retries is how many retries are active.
func (b *Breaker) Retries() int64 { return b.retries.n.Load() }
