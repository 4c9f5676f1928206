package upstream

// alias draws indices by weight in constant time (Walker's method, tables built
// as Vose does).
type alias []aliasSlot

type aliasSlot struct {
	keep  uint32 // below this the slot itself is drawn, scaled to 2^32
	other uint32
}

func newAlias(cs []candidate) alias {
	n := len(cs)
	sum := 0.0
	for _, c := range cs {
		sum += c.weight
	}
	a := make(alias, n)
	rest := make([]float64, n)
	var small, large []int
	for i, c := range cs {
		a[i].other = uint32(i)
		rest[i] = c.weight / sum * float64(n)
		if rest[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		a[s] = aliasSlot{keep: uint32(rest[s] * (1 << 32)), other: uint32(l)}
		rest[l] -= 1 - rest[s]
		if rest[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	return a // what is left over is full, but for rounding: it draws itself
}

// draw needs 64 random bits.
func (a alias) draw(r uint64) int {
	i := index(r, len(a))
	if s := a[i]; uint32(r) >= s.keep {
		return int(s.other)
	}
	return i
}

// index scales the upper 32 bits of r to 0 … n-1.
func index(r uint64, n int) int { return int(r >> 32 * uint64(n) >> 32) }

// random is weighted random choice.
type random struct {
	eps    []*Endpoint
	alias  alias
	source func() uint64
}

func newRandom(cs []candidate, source func() uint64) *random {
	return &random{eps: endpointsOf(cs), alias: newAlias(cs), source: source}
}

func (p *random) pick(uint64, int) *Endpoint { return p.eps[p.alias.draw(p.source())] }

func endpointsOf(cs []candidate) []*Endpoint {
	eps := make([]*Endpoint, len(cs))
	for i, c := range cs {
		eps[i] = c.ep
	}
	return eps
}

func even(cs []candidate) bool {
	for _, c := range cs {
		if c.weight != cs[0].weight {
			return false
		}
	}
	return true
}
