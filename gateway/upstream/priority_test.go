package upstream

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// groupsWith makes one level per pair of usable and all endpoints.
func groupsWith(levels ...[2]int) []*group {
	var groups []*group
	for i, l := range levels {
		groups = append(groups, &group{order: i, usable: make([]*Endpoint, l[0]), all: make([]*Endpoint, l[1])})
	}
	return groups
}

// The tables of Envoy's manual, "Priority levels" and "Panic threshold".
func TestLoadAndPanicAreEnvoys(t *testing.T) {
	f := func(levels [][2]int, wantLoad string, wantPanic string) {
		t.Helper()
		groups := groupsWith(levels...)
		shareOut(groups, 50)
		var load []int
		var panics []bool
		for _, g := range groups {
			load = append(load, g.load)
			panics = append(panics, g.panics)
		}
		if fmt.Sprint(load) != wantLoad || fmt.Sprint(panics) != wantPanic {
			t.Errorf("%v: load %v, panic %v; want %s, %s", levels, load, panics, wantLoad, wantPanic)
		}
	}
	two := func(a, b int) [][2]int { return [][2]int{{a, 100}, {b, 100}} }
	// two levels, the second healthy
	f(two(100, 100), "[100 0]", "[false false]")
	f(two(72, 100), "[100 0]", "[false false]")
	f(two(71, 100), "[99 1]", "[false false]")
	f(two(50, 100), "[70 30]", "[false false]")
	f(two(25, 100), "[35 65]", "[false false]")
	f(two(0, 100), "[0 100]", "[false false]")
	// not healthy enough together: in proportion, with panic
	f(two(72, 72), "[100 0]", "[false false]")
	f(two(71, 71), "[99 1]", "[false false]")
	f(two(50, 60), "[70 30]", "[false false]")
	f(two(25, 25), "[50 50]", "[true true]")
	f(two(5, 65), "[8 92]", "[true false]")
	f(two(0, 0), "[50 50]", "[true true]")
	// three levels; the last row is by size, as Envoy's code has it (its manual is older)
	three := func(a, b, c int) [][2]int { return [][2]int{{a, 100}, {b, 100}, {c, 100}} }
	f(three(100, 100, 100), "[100 0 0]", "[false false false]")
	f(three(72, 72, 100), "[100 0 0]", "[false false false]")
	f(three(71, 71, 100), "[99 1 0]", "[false false false]")
	f(three(50, 50, 100), "[70 30 0]", "[false false false]")
	f(three(25, 100, 100), "[35 65 0]", "[false false false]")
	f(three(25, 25, 100), "[35 35 30]", "[false false false]")
	f(three(25, 25, 20), "[34 33 33]", "[true true true]")
	// one level
	f([][2]int{{1, 2}}, "[100]", "[false]")
	f([][2]int{{1, 3}}, "[100]", "[true]")
	f([][2]int{{0, 1}}, "[100]", "[true]")
	// everybody panics: by size
	f([][2]int{{0, 30}, {0, 10}}, "[75 25]", "[true true]")
}

// setHealth marks endpoints by index and publishes a picker.
func setHealth(u *Upstream, h health, indices ...int) []Event {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, i := range indices {
		u.endpoints[i].health = h
	}
	return u.rebuild(u.epoch)
}

func TestFailoverSpillsOverAndComesBack(t *testing.T) {
	for _, a := range algorithms {
		list := equal(20)
		for i := range list {
			list[i].Priority = i / 10 * 5 // priorities need not be consecutive
		}
		u := made(t, Settings{Algorithm: a, Endpoints: list, PanicThreshold: 50}, nil)
		second := func() float64 {
			n := 0
			for address, c := range shares(t, u, 5000) {
				if at(t, u, address).priority > 0 {
					n += c
				}
			}
			return float64(n) / 5000
		}
		f := func(want float64) {
			t.Helper()
			if got := second(); math.Abs(got-want) > 0.04 {
				t.Errorf("%s: %.2f of traffic goes to the second priority, want %.2f", a, got, want)
			}
		}
		f(0)
		setHealth(u, down, 0, 1)
		f(0) // 80 % healthy is enough
		setHealth(u, down, 0, 1, 2, 3, 4)
		f(0.3)
		setHealth(u, down, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		f(1)
		setHealth(u, up, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		f(0)
	}
}

func TestPanic(t *testing.T) {
	r := &recorder{}
	u := made(t, Settings{Algorithm: RoundRobin, Endpoints: equal(4), PanicThreshold: 50, Observer: r}, nil)
	setHealth(u, down, 0, 1)
	if got := shares(t, u, 100); len(got) != 2 {
		t.Errorf("half are healthy, used %v", got)
	}
	u.emit(setHealth(u, down, 2))
	if got := shares(t, u, 100); len(got) != 4 {
		t.Errorf("a quarter is healthy, used %v", got)
	}
	if r.outcomes[PickedPanic] != 100 {
		t.Errorf("outcomes %v", r.outcomes)
	}
	r.want(t, PanicBegan)
	u.emit(setHealth(u, up, 0))
	r.want(t, PanicEnded)

	never := made(t, Settings{Endpoints: equal(4), PanicThreshold: 0, Observer: r}, nil)
	setHealth(never, down, 0, 1, 2)
	if got := shares(t, never, 10); len(got) != 1 {
		t.Errorf("panic is off, used %v", got)
	}
	setHealth(never, down, 3)
	if _, err := never.Pick(&PickRequest{}); !errors.Is(err, reason.NoEndpoint) {
		t.Errorf("panic is off and all are ill: %v", err)
	}
	if n := never.Breaker().Requests(); n != 0 || r.outcomes[NoneUsable] != 1 {
		t.Errorf("%d requests active, outcomes %v", n, r.outcomes)
	}
}

// A sticky client leaves an ill endpoint, and a priority that is no longer used.
func TestStickyFollowsHealth(t *testing.T) {
	list := equal(4)
	list[2].Priority, list[3].Priority = 1, 1
	u := made(t, Settings{Endpoints: list, PanicThreshold: 50}, nil)
	f := func(prefer, want string) {
		t.Helper()
		e := pick(t, u, PickRequest{Prefer: at(t, u, prefer).ID()})
		e.Done(Result{Status: 200})
		if e.Address != want {
			t.Errorf("prefers %s: got %s, want %s", prefer, e.Address, want)
		}
	}
	f("10.0.0.0:80", "10.0.0.0:80")
	setHealth(u, down, 0, 1, 2)
	f("10.0.0.0:80", "10.0.0.3:80")
	f("10.0.0.3:80", "10.0.0.3:80")
	setHealth(u, up, 0)
	setHealth(u, down, 3)
	f("10.0.0.3:80", "10.0.0.0:80")
}

func TestLocalZoneFirst(t *testing.T) {
	list := equal(12)
	zones := []string{"a", "b", "c"}
	for i := range list {
		list[i].Zone = zones[i%3]
	}
	u := made(t, Settings{Endpoints: list, LocalZone: "b", PanicThreshold: 50}, nil)
	byZone := func() []int {
		n := make([]int, 3)
		for address, c := range shares(t, u, 3000) {
			n[slices.Index(zones, at(t, u, address).zone)] += c
		}
		return n
	}
	if n := byZone(); n[1] != 3000 {
		t.Errorf("all healthy: %v", n)
	}
	setHealth(u, down, 1, 4) // half of zone b
	if n := byZone(); math.Abs(float64(n[1])-2100) > 150 || n[0] == 0 || n[2] == 0 {
		t.Errorf("half of b is ill: %v, want 70 %% in b", n)
	}
	setHealth(u, down, 7, 10)
	if n := byZone(); n[1] != 0 {
		t.Errorf("b is ill: %v", n)
	}
	elsewhere := made(t, Settings{Endpoints: list, LocalZone: "z"}, nil)
	if got := shares(t, elsewhere, 3000); len(got) != 12 {
		t.Errorf("nobody is in the local zone: %d used", len(got))
	}
}
