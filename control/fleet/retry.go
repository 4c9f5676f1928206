package fleet

import (
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// What keeps a node from running a revision may go away by itself: a file
// arrives, another process lets go of a port. It is tried again after
// firstRetry, and then after twice the time before, up to lastRetry.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// retry is the revision that is to be tried again. It is guarded by
// Follower.turn; without a number there is none.
type retry struct {
	number uint64
	wait   time.Duration
	at     time.Time
}

// later plans the next try of a revision that could not be run.
func (x *retry) later(number uint64) {
	switch {
	case x.number != number:
		x.number, x.wait = number, firstRetry
	default:
		x.wait = min(2*x.wait, lastRetry)
	}
	x.at = time.Now().Add(x.wait)
}

// due is the revision to be tried again now; nil: none is.
func (f *Follower) due() *store.Revision {
	if f.again.number == 0 {
		if n := f.Status().Revision; n > 0 && f.s.Incomplete != nil && f.s.Incomplete() {
			f.again.later(n)
		}
		return nil
	}
	if time.Now().Before(f.again.at) {
		return nil
	}
	return f.kept.number(f.again.number)
}
