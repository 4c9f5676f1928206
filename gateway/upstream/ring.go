package upstream

import (
	"math"
	"math/bits"
	"slices"
)

// ring is consistent hashing as in libketama: endpoints own points on a circle
// in proportion to their weight, a key belongs to the next point. When an
// endpoint goes, only its keys move. An index by the upper bits of the key makes
// the lookup constant in time.
type ring struct {
	eps    []*Endpoint
	points []ringPoint
	first  []uint32 // by the upper bits of a key: the first point not below them
	shift  int
}

type ringPoint struct {
	at uint64
	ep uint16
}

const (
	// perUnit points belong to an endpoint of the smallest weight: with two
	// endpoints the ring has the 1024 that are Envoy's minimum_ring_size.
	perUnit = 512
	// maxPoints bounds the ring; beyond, all have fewer.
	maxPoints = 1 << 16
)

// pointsPerWeight is how many points a weight of 1 is worth. It depends on all
// the endpoints of an upstream, usable or not, so that a change of health never
// moves a point; and it is a power of two times a divisor of the weights, so
// that adding or removing endpoints moves the others' points only where the
// ring gets too large.
func pointsPerWeight(all []*Endpoint) float64 {
	divisor, sum := 0, 0
	for _, e := range all {
		divisor = gcd(divisor, e.weight)
		sum += e.weight
	}
	per := float64(perUnit)
	for float64(sum/divisor)*per > maxPoints {
		per /= 2
	}
	return per / float64(divisor)
}

func newRing(cs []candidate, perWeight float64) *ring {
	p := &ring{eps: endpointsOf(cs)}
	for i, c := range cs {
		n := max(1, int(math.Round(c.weight*perWeight)))
		at := Hash(c.ep.Address)
		for range n { // the endpoint's own SplitMix64 sequence
			p.points = append(p.points, ringPoint{at: mix(at), ep: uint16(i)})
			at += golden
		}
	}
	slices.SortFunc(p.points, func(a, b ringPoint) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		default: // the same on every node
			return compareAddress(p.eps[a.ep], p.eps[b.ep])
		}
	})
	p.shift = 64 - bits.Len(uint(len(p.points)))
	p.first = make([]uint32, 1<<(64-p.shift))
	at := 0
	for i := range p.first {
		for at < len(p.points) && p.points[at].at>>p.shift < uint64(i) {
			at++
		}
		p.first[i] = uint32(at)
	}
	return p
}

func compareAddress(a, b *Endpoint) int {
	switch {
	case a.Address < b.Address:
		return -1
	case a.Address > b.Address:
		return 1
	default:
		return 0
	}
}

func (p *ring) pick(key uint64, attempt int) *Endpoint {
	i := int(p.first[key>>p.shift])
	for i < len(p.points) && p.points[i].at < key {
		i++
	}
	i = p.wrap(i)
	for ; attempt > 0; attempt-- { // the next endpoint on the circle
		for last, steps := p.points[i].ep, 0; p.points[i].ep == last && steps < len(p.points); steps++ {
			i = p.wrap(i + 1)
		}
	}
	return p.eps[p.points[i].ep]
}

func (p *ring) wrap(i int) int {
	if i >= len(p.points) {
		return 0
	}
	return i
}
