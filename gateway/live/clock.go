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

// Clock is a coarse clock. All but Stop is safe for concurrent use.
type Clock struct {
	sweep   func(now int64)
	now     atomic.Int64              // unix milliseconds
	date    atomic.Pointer[[1]string] // as now
	start   sync.Once
	stop    chan struct{}
	stopped sync.Once
	ticking sync.WaitGroup
}

// NewClock returns a clock that calls sweep with every tick, from Start to Stop,
// to look for limits that are over.
func NewClock(sweep func(now int64)) *Clock {
	c := &Clock{sweep: sweep, stop: make(chan struct{})}
	c.set(time.Now())
	return c
}

// Start makes it move. Starting it again is allowed.
func (c *Clock) Start() {
	c.start.Do(func() {
		c.set(time.Now())
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
		case now := <-t.C:
			c.set(now)
			c.sweep(now.UnixMilli())
		}
	}
}

func (c *Clock) set(t time.Time) {
	before := c.now.Swap(t.UnixMilli())
	if before/1000 == t.Unix() && c.date.Load() != nil {
		return
	}
	c.date.Store(&[1]string{t.UTC().Format(http.TimeFormat)})
}

// Now is the time in unix milliseconds, late by up to a tick.
func (c *Clock) Now() int64 { return c.now.Load() }

// After is the time d from now; 0, which is no limit, for none. As the clock may
// be late by a tick it is one later: nothing is ever ended early.
func (c *Clock) After(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return c.now.Load() + (d + Tick).Milliseconds()
}

// Date is the time as the value of the field Date.
func (c *Clock) Date() string { return c.date.Load()[0] }

// DateValues is Date as a header map has it. It is shared, and not to be changed.
func (c *Clock) DateValues() []string { return c.date.Load()[:] }
