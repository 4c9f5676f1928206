// Package discovery has what the sources of endpoints share: the pauses between
// tries, and the last list kept on disk. Each kind of source is a folder below;
// gateway/compile makes them of the config and hands them to upstreams.
package discovery

import (
	"context"
	"math/rand/v2"
	"time"
)

// AttemptTimeout bounds one try of a source that does not wait for changes.
const AttemptTimeout = 5 * time.Second

// Backoff is how long to wait between tries that fail: 1 s, 2 s, 4 s … up to
// Max, each up to half longer, so that nodes do not come back in step. The zero
// value goes up to a minute.
type Backoff struct {
	// Max is the longest pause before the random part; 0 means 1 min.
	Max    time.Duration
	failed int
}

// Next is the pause after one more failure.
func (b *Backoff) Next() time.Duration {
	limit := b.Max
	if limit <= 0 {
		limit = time.Minute
	}
	wait := min(limit, time.Second<<min(b.failed, 20))
	b.failed++
	return wait + rand.N(wait/2+1)
}

// Reset is told of a success.
func (b *Backoff) Reset() { b.failed = 0 }

// Sleep waits; false: ctx has ended.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
