package upstream

import (
	"math"
	"slices"
	"sync/atomic"
)

const (
	// maxTurns bounds a weighted round: shares finer than 1/16384 are rounded
	// (but nobody's to nothing, and four turns per endpoint are always had).
	maxTurns = 1 << 14
	// smoothUpTo is the number of endpoints up to which the round is nginx's
	// own; it costs turns × endpoints to write down.
	smoothUpTo = 128
)

// roundRobin takes turns by a written-down round: one atomic addition per pick,
// whatever the weights. The place in the round belongs to the upstream, so that
// a new picker does not start all over with the first endpoint.
type roundRobin struct {
	eps   []*Endpoint
	turns []uint16 // indices into eps; nil: each once, in order
	place *atomic.Uint64
}

func newRoundRobin(cs []candidate, place *atomic.Uint64) *roundRobin {
	p := &roundRobin{eps: endpointsOf(cs), place: place}
	if even(cs) {
		return p
	}
	weights := wholeWeights(cs)
	if len(cs) <= smoothUpTo {
		p.turns = smoothRound(weights)
	} else {
		p.turns = spreadRound(weights)
	}
	return p
}

func (p *roundRobin) pick(uint64, int) *Endpoint {
	n := p.place.Add(1)
	if p.turns == nil {
		return p.eps[n%uint64(len(p.eps))]
	}
	return p.eps[p.turns[n%uint64(len(p.turns))]]
}

// wholeWeights turns weights into turns per round: the smallest exact whole
// numbers if the round is short enough, else rounded ones.
func wholeWeights(cs []candidate) []int {
	const fine = 100 // slow start makes fractions; one percent is fine enough
	scale := 1.0
	for _, c := range cs {
		if c.weight != math.Trunc(c.weight) {
			scale = fine
		}
	}
	w := make([]int, len(cs))
	divisor, sum := 0, 0
	for i, c := range cs {
		w[i] = max(1, int(math.Round(c.weight*scale)))
		divisor = gcd(divisor, w[i])
		sum += w[i]
	}
	limit := max(maxTurns, 4*len(cs))
	for i := range w {
		if sum/divisor <= limit {
			w[i] /= divisor
		} else {
			w[i] = max(1, int(math.Round(float64(w[i])/float64(sum)*float64(limit))))
		}
	}
	return w
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// smoothRound is one round of nginx's smooth weighted round robin
// (ngx_http_upstream_get_peer): everybody gains its weight, the richest is
// served and pays the sum.
func smoothRound(weights []int) []uint16 {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	turns := make([]uint16, sum)
	credit := make([]int, len(weights))
	for t := range turns {
		best := 0
		for i, w := range weights {
			credit[i] += w
			if credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= sum
		turns[t] = uint16(best)
	}
	return turns
}

// spreadRound spaces everybody's turns evenly and sorts them, which is nearly as
// smooth and cheap for thousands of endpoints. Phases differ by the golden
// ratio, so that equal weights do not come in bunches.
func spreadRound(weights []int) []uint16 {
	type turn struct {
		at float64
		ep uint16
	}
	var all []turn
	for i, w := range weights {
		_, phase := math.Modf(float64(i) * math.Phi)
		for k := range w {
			all = append(all, turn{at: (float64(k) + phase) / float64(w), ep: uint16(i)})
		}
	}
	slices.SortFunc(all, func(a, b turn) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		default:
			return int(a.ep) - int(b.ep)
		}
	})
	turns := make([]uint16, len(all))
	for i, t := range all {
		turns[i] = t.ep
	}
	return turns
}
