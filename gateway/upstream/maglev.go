package upstream

import "slices"

// maglevSize is the table's size: a prime much larger than the number of
// endpoints, as in Envoy.
const maglevSize = 65537

// maglev is Google's consistent hashing (Eisenbud et al., NSDI 2016, section
// 3.4): each endpoint fills the table along its own permutation, taking turns;
// weights as in Envoy, by how often it is an endpoint's turn. When an endpoint
// goes, hardly more than its keys move.
type maglev struct {
	eps   []*Endpoint
	table []uint16
}

func newMaglev(cs []candidate) *maglev {
	cs = slices.Clone(cs)
	slices.SortFunc(cs, func(a, b candidate) int { return compareAddress(a.ep, b.ep) }) // the same on every node
	type filler struct {
		at, skip uint64
		weight   float64 // share of the heaviest
		due      float64
	}
	heaviest := 0.0
	for _, c := range cs {
		heaviest = max(heaviest, c.weight)
	}
	fillers := make([]filler, len(cs))
	for i, c := range cs {
		h := Hash(c.ep.Address)
		fillers[i] = filler{at: h % maglevSize, skip: mix(h)%(maglevSize-1) + 1, weight: c.weight / heaviest}
	}
	const free = 1<<16 - 1
	p := &maglev{eps: endpointsOf(cs), table: make([]uint16, maglevSize)}
	for i := range p.table {
		p.table[i] = free
	}
	for left := maglevSize; left > 0; {
		for i := range fillers {
			f := &fillers[i]
			if f.due += f.weight; f.due < 1 {
				continue
			}
			f.due--
			for p.table[f.at] != free {
				f.at = (f.at + f.skip) % maglevSize
			}
			p.table[f.at] = uint16(i)
			if left--; left == 0 {
				break
			}
		}
	}
	return p
}

func (p *maglev) pick(key uint64, attempt int) *Endpoint {
	if attempt > 0 {
		key = mix(key + uint64(attempt))
	}
	return p.eps[p.table[key%maglevSize]]
}
