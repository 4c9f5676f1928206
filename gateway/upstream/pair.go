package upstream

import (
	"math"
	"sync/atomic"
	"time"
)

// pair draws two candidates, "the power of two choices". Equal weights: two
// different endpoints, evenly. Unequal weights: both by weight, perhaps the same
// one twice; loads are then compared per weight. An idle upstream so spreads
// exactly by weight (both have load 0, the first stays), and at any load nobody
// gets more than twice its share for being idle.
//
// Envoy compares weight/(active+1) in a schedule over all endpoints; between two
// evenly drawn candidates that formula would starve light endpoints of an idle
// upstream altogether.
type pair struct {
	hosts  []pairHost
	alias  alias // nil: equal weights
	random func() uint64
}

type pairHost struct {
	host *host
	ep   *Endpoint
	// per is 1 / (weight / mean weight): what one request weighs here.
	per float64
}

func newPair(cs []candidate, random func() uint64) pair {
	p := pair{hosts: make([]pairHost, len(cs)), random: random}
	sum := 0.0
	for _, c := range cs {
		sum += c.weight
	}
	for i, c := range cs {
		p.hosts[i] = pairHost{host: c.ep.host, ep: c.ep, per: sum / float64(len(cs)) / c.weight}
	}
	if !even(cs) {
		p.alias = newAlias(cs)
	}
	return p
}

func (p *pair) draw() (a, b *pairHost) {
	r := p.random()
	if p.alias == nil {
		n := len(p.hosts)
		i, j := index(r, n), index(r<<32, n-1)
		if j >= i {
			j++
		}
		return &p.hosts[i], &p.hosts[j]
	}
	return &p.hosts[p.alias.draw(r)], &p.hosts[p.alias.draw(p.random())]
}

// leastRequest takes the less busy of two.
type leastRequest struct{ pair }

func (p *leastRequest) pick(uint64, int) *Endpoint {
	a, b := p.draw()
	x, y := a.host.active.Load(), b.host.active.Load()
	if p.alias == nil {
		if y < x {
			return b.ep
		}
		return a.ep
	}
	if float64(y)*b.per < float64(x)*a.per {
		return b.ep
	}
	return a.ep
}

// peakEWMA takes the one of two with the smaller latency × (outstanding + 1),
// as Finagle and Linkerd do.
type peakEWMA struct {
	pair
	now *atomic.Uint32 // in ticks; the time of the last reply is near enough
}

func (p *peakEWMA) pick(uint64, int) *Endpoint {
	a, b := p.draw()
	now := p.now.Load()
	if b.cost(now) < a.cost(now) {
		return b.ep
	}
	return a.ep
}

// unprobed is the cost of a second request to an endpoint that has not answered
// its first one: it waits until there is something to know.
const unprobed = float64(10 * time.Second)

func (h *pairHost) cost(now uint32) float64 {
	latency := h.host.ewma.at(now)
	load := float64(h.host.active.Load()) * h.per
	if latency == 0 {
		return unprobed * load
	}
	return latency * (load + 1)
}

const (
	tickShift = 16 // a tick is 65.5 µs; 32 bits of them last 78 hours
	// decay is the time constant of the average.
	decay = float64(10*time.Second) / (1 << tickShift)
)

// ewma is a moving average of latency that jumps to peaks and forgets slowly:
// weights fall with time, not with the number of requests, and without requests
// the value falls too, so that a slow endpoint is tried again. Value (ns,
// float32) and time (ticks) are one word, so that readers see both of one moment.
type ewma struct{ bits atomic.Uint64 }

func pack(v float32, tick uint32) uint64 { return uint64(math.Float32bits(v))<<32 | uint64(tick) }

func unpack(b uint64) (float32, uint32) { return math.Float32frombits(uint32(b >> 32)), uint32(b) }

// at is the average in ns at a time; 0: nothing known.
func (e *ewma) at(now uint32) float64 {
	v, then := unpack(e.bits.Load())
	age := int32(now - then)
	if float64(age) < decay/256 { // also when another reply was a moment later than now
		return float64(v)
	}
	return float64(v) * math.Exp(-float64(age)/decay)
}

// observe adds a latency in ns.
func (e *ewma) observe(latency float64, now uint32) {
	for {
		old := e.bits.Load()
		v, then := unpack(old)
		age := max(0, int32(now-then))
		next := float32(latency)
		if v != 0 && latency < float64(v) {
			if age == 0 {
				return // less than a tick weighs nothing
			}
			keep := math.Exp(-float64(age) / decay)
			next = float32(float64(v)*keep + latency*(1-keep))
		}
		if e.bits.CompareAndSwap(old, pack(max(next, 1), later(now, then))) {
			return
		}
	}
}

// later is the later of two ticks, which wrap around.
func later(a, b uint32) uint32 {
	if int32(a-b) < 0 {
		return b
	}
	return a
}

// observeLatency takes a result into the average. A try without a reply and a
// gateway error (502, 503, 504) are often quick; so that an endpoint does not
// attract requests by failing, they count as at least twice the average, up to 10 s.
func (u *Upstream) observeLatency(e *Endpoint, r Result) {
	now := uint32(time.Since(u.epoch) >> tickShift)
	u.lastTick.Store(now)
	latency := float64(r.Latency)
	if r.Failure != NoFailure || r.Status >= 502 && r.Status <= 504 {
		latency = max(latency, min(2*e.host.ewma.at(now)+float64(time.Millisecond), float64(10*time.Second)))
	}
	if latency > 0 {
		e.host.ewma.observe(latency, now)
	}
}
