package live

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Tick is how often a Clock moves: a limit is kept to within a tick, and costs
// whoever sets it one store.
const Tick = 100 * time.Millisecond

// Clock is a coarse clock for time limits, and tells the date. It counts ticks,
// and so stands still while the process does: a peer is not blamed for a pause
// that was ours, or for a step of the system's clock. All but Stop is safe for
// concurrent use.
type Clock struct {
	sweep   func(now int64)
	now     atomic.Int64 // milliseconds
	second  int64        // of date; the ticking goroutine's
	date    atomic.Pointer[[1]string]
	start   sync.Once
	stop    chan struct{}
	stopped sync.Once
	ticking sync.WaitGroup
}

// NewClock returns a clock that calls sweep with every tick, from Start to Stop,
// to look for limits that are over.
func NewClock(sweep func(now int64)) *Clock {
	c := &Clock{sweep: sweep, stop: make(chan struct{})}
	c.now.Store(1) // 0 is no time
	c.tell(time.Now())
	return c
}

// Start makes it move. Starting it again is allowed.
func (c *Clock) Start() {
	c.start.Do(func() {
		c.tell(time.Now())
		c.ticking.Go(c.tick)
	})
}

// Stop ends it, and waits for a sweep in progress. Stopping twice is allowed.
func (c *Clock) Stop() {
	c.stopped.Do(func() { close(c.stop) })
	c.ticking.Wait()
}

func (c *Clock) tick() {
	t := time.NewTicker(Tick)
	defer t.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-t.C: // those that came while nobody looked are lost
			c.tell(time.Now())
			c.sweep(c.now.Add(Tick.Milliseconds()))
		}
	}
}

// tell makes t the date.
func (c *Clock) tell(t time.Time) {
	if c.second == t.Unix() {
		return
	}
	c.second = t.Unix()
	c.date.Store(&[1]string{t.UTC().Format(http.TimeFormat)})
}

// Now is the time in milliseconds, late by up to a tick. Only other times of the
// same clock are comparable.
func (c *Clock) Now() int64 { return c.now.Load() }

// After is the time d from now; 0, which is no limit, for none. As the clock may
// be late by a tick it is one later: nothing is ever ended early.
func (c *Clock) After(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return c.now.Load() + (d + Tick).Milliseconds()
}

// By is t by this clock, as After has it: what has passed is over at once.
func (c *Clock) By(t time.Time) int64 {
	if d := time.Until(t); d > 0 {
		return c.After(d)
	}
	return c.now.Load()
}

// Date is the time as the value of the field Date.
func (c *Clock) Date() string { return c.date.Load()[0] }

// DateValues is Date as a header map has it. It is shared, and not to be changed.
func (c *Clock) DateValues() []string { return c.date.Load()[:] }
