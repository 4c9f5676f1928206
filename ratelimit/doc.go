// Package ratelimit decides whether a key may be charged for one more request.
// It is GCRA (the generic cell rate algorithm): a token bucket that costs one
// timestamp for every key and window, refills continuously and has no edge at
// which a whole quota comes back at once.
//
// Local is the limiter of one node. Its memory is bounded, and no key can push
// another key's bucket out: a bucket is only forgotten once it is full again,
// which is the same as never having been used. Keys that find no room while
// every bucket nearby is in use share one of a fixed number of overflow
// buckets; they may be refused sooner than with a bucket of their own, never
// later.
//
// Limits that many nodes count together are made by a Fleet, which this package
// only describes.
//
// The package knows nothing of HTTP, routes or config.
package ratelimit

import (
	"fmt"
	"math"
	"time"
)

// Limiter charges keys. Implementations are safe for concurrent use.
type Limiter interface {
	// Take charges cost units to key in every window, or in none of them, and
	// writes the outcome to d. key is only read during the call. A cost of 0
	// asks without charging. An error means that the limiter could not decide
	// (a store that is away); d is then unspecified. Local never fails.
	Take(key []byte, cost uint32, d *Decision) error
}

// Window is one limit: a bucket of Burst units that Limit units a Per refill.
// Over any stretch of time t at most Burst + t/Per × Limit units are granted.
type Window struct {
	// Limit is how many units come back in every Per, at least 1.
	Limit int64
	// Per is at least 1 ms.
	Per time.Duration
	// Burst is how many units can be taken at once, at least 1.
	Burst int64
}

// MaxWindows is how many windows one limiter can have.
const MaxWindows = 8

// Decision is the outcome of one Take.
type Decision struct {
	// Allowed says that every window was charged; otherwise none was.
	Allowed bool
	// Source is who decided. Of decisions by Open and Closed the fields below say
	// nothing.
	Source Source
	// Squeezed says that this node decided by an overflow bucket, for want of room.
	Squeezed bool
	// Window is the index of the window the other fields describe: of those
	// that refused the one that refuses longest, else the one with the smallest
	// share of its burst left.
	Window int
	// Limit is that window's limit.
	Limit int64
	// Remaining is how many units could still be taken at once.
	Remaining int64
	// Reset is how long it takes until the bucket is full if nobody takes more,
	// Next how long until Remaining is one more; both are 0 for a full bucket.
	Reset, Next time.Duration
	// RetryAfter is how long to wait before the same cost can be granted: 0 if
	// it was, Never if it is more than the window's burst.
	RetryAfter time.Duration
}

// Never is the RetryAfter of a cost that no waiting makes affordable.
const Never = time.Duration(math.MaxInt64)

// rate is a Window in the units of the algorithm: nanoseconds.
type rate struct {
	limit, burst int64
	// interval is what one unit adds to the theoretical arrival time. It is
	// rounded up, so that rounding never grants more than was configured.
	interval int64
	// depth is the burst in time: burst × interval.
	depth int64
	// most is the largest cost that is ever granted: the burst, or of a node's
	// share of a limit the whole limit's.
	most int64
}

func compile(ws []Window) ([]rate, error) {
	if len(ws) == 0 || len(ws) > MaxWindows {
		return nil, fmt.Errorf("windows: must be 1 to %d, got %d", MaxWindows, len(ws))
	}
	rates := make([]rate, len(ws))
	for i, w := range ws {
		switch {
		case w.Limit < 1:
			return nil, fmt.Errorf("windows[%d].limit: must be at least 1, got %d", i, w.Limit)
		case w.Per < time.Millisecond:
			return nil, fmt.Errorf("windows[%d].per: must be at least 1ms, got %v", i, w.Per)
		case w.Burst < 1:
			return nil, fmt.Errorf("windows[%d].burst: must be at least 1, got %d", i, w.Burst)
		case w.Limit > int64(w.Per):
			return nil, fmt.Errorf("windows[%d].limit: must be at most one unit a nanosecond, got %d per %v", i, w.Limit, w.Per)
		}
		interval := (int64(w.Per) + w.Limit - 1) / w.Limit
		if w.Burst > maxDepth/interval {
			return nil, fmt.Errorf("windows[%d].burst: %d units at %d per %v take over 50 years to refill", i, w.Burst, w.Limit, w.Per)
		}
		rates[i] = rate{limit: w.Limit, burst: w.Burst, most: w.Burst, interval: interval, depth: w.Burst * interval}
	}
	return rates, nil
}

// share is the part that each of n nodes has of rates: what comes back takes n
// times as long, and bursts are divided. The parts of n nodes are never more
// than the whole, but for bursts of less than n, of which each node has one.
func share(rates []rate, n int64) []rate {
	out := make([]rate, len(rates))
	for i, r := range rates {
		s := r
		// Nothing may take longer than the longest time the arithmetic can bear.
		s.interval *= max(1, min(n, maxDepth/(r.interval*r.most)))
		s.burst = max(1, r.burst/max(1, n))
		s.depth = s.burst * s.interval
		out[i] = s
	}
	return out
}

// maxDepth keeps now + depth far from overflowing: 50 years in nanoseconds.
const maxDepth = 50 * 365 * 24 * int64(time.Hour)

// decide applies cost to the bucket tats, one theoretical arrival time for
// every rate, at time now. It charges them only if all of them allow it.
func decide(rates []rate, tats []int64, now int64, cost uint32, d *Decision) {
	tats = tats[:len(rates)]
	d.Allowed = true
	var worst int64 = -1
	for i := range rates {
		wait := waitFor(&rates[i], tats[i], now, int64(cost))
		if wait > worst && wait > 0 {
			worst, d.Window, d.Allowed = wait, i, false
		}
	}
	if !d.Allowed {
		d.describe(&rates[d.Window], tats[d.Window], now)
		d.RetryAfter = time.Duration(worst)
		return
	}
	d.RetryAfter = 0
	if len(rates) == 1 {
		d.Window = 0
		tats[0] = max(tats[0], now) + int64(cost)*rates[0].interval
		d.describe(&rates[0], tats[0], now)
		return
	}
	least := math.Inf(1)
	for i := range rates {
		r := &rates[i]
		tats[i] = max(tats[i], now) + int64(cost)*r.interval
		if left := 1 - float64(tats[i]-now)/float64(r.depth); left < least {
			least, d.Window = left, i
		}
	}
	d.describe(&rates[d.Window], tats[d.Window], now)
}

// waitFor is how many nanoseconds remain until cost can be taken; 0: now.
func waitFor(r *rate, tat, now, cost int64) int64 {
	if cost > r.most {
		return int64(Never)
	}
	// What a share's burst cannot hold needs all of it, and is paid off later.
	return max(0, max(tat, now)+min(cost, r.burst)*r.interval-r.depth-now)
}

func (d *Decision) describe(r *rate, tat, now int64) {
	used := max(0, tat-now)
	d.Limit = r.limit
	d.Remaining = max(0, (r.depth-used)/r.interval)
	d.Reset = time.Duration(used)
	d.Next = time.Duration(max(0, used-r.depth+(d.Remaining+1)*r.interval))
}
