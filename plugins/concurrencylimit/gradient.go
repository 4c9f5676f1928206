package concurrencylimit

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// gradient moves a limit by the ratio of the best response time to the present
// one. Requests that queue somewhere behind us take longer, so the limit falls
// where queues begin, and rises by its square root while there are none (the
// idea of Netflix's Gradient and Envoy's adaptive concurrency). The best time
// would creep up with a queue that never empties; so every probeEvery
// intervals the limit is lowered for two intervals and the best time is
// measured anew.
//
// It is our own because libraries measure until the place is given back, which
// for a streamed reply says nothing about load, and allocate for every place.
type gradient struct {
	limit *atomic.Int64
	s     Adaptive

	mu       sync.Mutex // guards all below
	estimate float64    // the limit before rounding
	best     float64    // mean response time without queues, nanoseconds; 0: not known yet
	age      int        // intervals since best was measured
	probe    int        // intervals left of a measurement
	sum      float64    // of this interval's response times
	count    int
	busiest  int // most in flight in this interval
	until    int64
}

const (
	probeEvery = 150
	// smoothing is how much of a new estimate counts.
	smoothing = 0.2
	// fewest is how many responses an interval needs to count.
	fewest = 5
)

func newGradient(limit *atomic.Int64, s Adaptive) *gradient {
	return &gradient{limit: limit, s: s, estimate: float64(limit.Load())}
}

// observe takes down a response at time now (nanoseconds, monotonic).
func (g *gradient) observe(now int64, took time.Duration, inFlight int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sum += float64(took)
	g.count++
	g.busiest = max(g.busiest, inFlight)
	if now < g.until || g.count < fewest {
		return
	}
	g.until = now + int64(g.s.Interval)
	g.update(max(1, g.sum/float64(g.count)), g.busiest)
	g.sum, g.count, g.busiest = 0, 0, 0
}

// update reconsiders the limit at the end of an interval. Holds mu.
func (g *gradient) update(present float64, busiest int) {
	if g.probe > 0 {
		if g.probe--; g.probe == 0 { // the interval before still had the old queue
			g.best, g.age = present, 0
			g.set(g.estimate)
		}
		return
	}
	if g.best == 0 || present < g.best {
		g.best = present
	}
	if float64(busiest) < g.estimate/2 {
		return // too little traffic to learn from
	}
	ratio := max(0.5, min(1, g.s.Tolerance*g.best/present))
	next := g.estimate*ratio + math.Sqrt(g.estimate)
	g.estimate += smoothing * (next - g.estimate)
	g.estimate = max(float64(g.s.Min), min(float64(g.s.Max), g.estimate))
	if g.age++; g.age < probeEvery {
		g.set(g.estimate)
		return
	}
	g.probe = 2
	g.set(g.estimate / (2 * g.s.Tolerance))
}

func (g *gradient) set(limit float64) {
	g.limit.Store(max(int64(g.s.Min), int64(math.Round(limit))))
}
