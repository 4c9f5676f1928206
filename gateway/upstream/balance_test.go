package upstream

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// Every algorithm gives an idle upstream's endpoints their share by weight.
func TestSharesFollowWeights(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				weights := rapid.SliceOfN(rapid.IntRange(1, 20), 2, 12).Draw(rt, "weights")
				u := made(t, Settings{Algorithm: a, Endpoints: weighted(weights...)}, nil)
				const n = 5000
				points := pointsPerWeight(u.endpoints)
				got := shares(t, u, n)
				sum := 0
				for _, w := range weights {
					sum += w
				}
				for i, e := range weighted(weights...) {
					p := float64(weights[i]) / float64(sum)
					diff := math.Abs(float64(got[e.Address]) - n*p)
					if diff > slack(a, p, n, len(weights), points*float64(weights[i])) {
						rt.Fatalf("%s (weight %d): %d of %d, want about %.0f", e.Address, weights[i], got[e.Address], n, n*p)
					}
				}
			})
		})
	}
}

// slack is how far off a share may be: six standard deviations of what is
// random in the algorithm.
func slack(a Algorithm, p float64, n, endpoints int, points float64) float64 {
	sigma := math.Sqrt(float64(n) * p * (1 - p))
	switch a {
	case RoundRobin:
		return float64(endpoints) // a part of a round
	case RingHash: // the arcs of k points are random: relative deviation 1/√k
		return 6*sigma + 6*float64(n)*p/math.Sqrt(points)
	case Maglev:
		return 6*sigma + 0.02*float64(n)*p
	default:
		return 6 * sigma
	}
}

// The order within a round is smooth: nobody is ever more than a few turns ahead
// of or behind its share, and a full round is exact.
func TestRoundRobinIsSmooth(t *testing.T) {
	f := func(rt *rapid.T, round func([]int) []uint16) {
		weights := rapid.SliceOfN(rapid.IntRange(1, 30), 2, 20).Draw(rt, "weights")
		turns := round(weights)
		sum := len(turns)
		count := make([]int, len(weights))
		for i, ep := range turns {
			count[ep]++
			for j, w := range weights {
				if ahead := float64(count[j]) - float64(i+1)*float64(w)/float64(sum); math.Abs(ahead) > 2.5 {
					rt.Fatalf("turn %d: endpoint %d is %.2f turns off", i, j, ahead)
				}
			}
		}
		for j, w := range weights {
			if count[j] != w {
				rt.Fatalf("endpoint %d had %d turns, want %d", j, count[j], w)
			}
		}
	}
	t.Run("nginx", func(t *testing.T) { rapid.Check(t, func(rt *rapid.T) { f(rt, smoothRound) }) })
	t.Run("many", func(t *testing.T) { rapid.Check(t, func(rt *rapid.T) { f(rt, spreadRound) }) })
}

// The example of nginx's commit "upstream: smooth weighted round-robin balancing".
func TestRoundRobinIsNginxs(t *testing.T) {
	if got := fmt.Sprint(smoothRound([]int{5, 1, 1})); got != "[0 0 1 0 2 0 0]" {
		t.Fatalf("got %s", got)
	}
}

func TestRoundsStayShort(t *testing.T) {
	f := func(name string, weights []int, wantTurns int) {
		t.Helper()
		u := made(t, Settings{Algorithm: RoundRobin, Endpoints: weighted(weights...)}, nil)
		p := u.picker.Load().levels[0].policy.(*roundRobin)
		if len(p.turns) != wantTurns {
			t.Errorf("%s: a round of %d turns, want %d", name, len(p.turns), wantTurns)
		}
	}
	f("equal", []int{7, 7, 7}, 0)
	f("common divisor", []int{100, 200, 300}, 6)
	f("fine", []int{999, 1000}, 1999)
	long := make([]int, 200)
	for i := range long {
		long[i] = 801 + i
	}
	f("rounded", long, 16391)
}

// When an endpoint goes, its keys move and (nearly) no others; when it comes
// back, they all return.
func TestHashesStayWhenAnEndpointGoes(t *testing.T) {
	for _, a := range []Algorithm{RingHash, Maglev} {
		t.Run(string(a), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				n := rapid.IntRange(3, 20).Draw(rt, "n")
				gone := rapid.IntRange(0, n-1).Draw(rt, "gone")
				all := equal(n)
				const keys = 2000
				place := func(list []EndpointSettings) []string {
					u := made(t, Settings{Algorithm: a, Endpoints: list}, nil)
					where := make([]string, keys)
					for i := range where {
						e := pick(t, u, PickRequest{Hash: Hash(fmt.Sprint("user", i)), HasHash: true})
						e.Done(Result{Status: 200})
						where[i] = e.Address
					}
					return where
				}
				before := place(all)
				ill := made(t, Settings{Algorithm: a, Endpoints: all}, nil)
				ill.mu.Lock()
				ill.endpoints[gone].health = down
				ill.rebuild(ill.epoch)
				ill.mu.Unlock()
				rest := append(append([]EndpointSettings(nil), all[gone+1:]...), all[:gone]...) // in another order
				after := place(rest)
				for i, want := range after {
					e := pick(t, ill, PickRequest{Hash: Hash(fmt.Sprint("user", i)), HasHash: true})
					e.Done(Result{Status: 200})
					if e.Address != want {
						rt.Fatalf("an ill endpoint's keys go elsewhere than a removed one's: %s, not %s", e.Address, want)
					}
				}
				moved := 0
				for i := range before {
					if before[i] != after[i] && before[i] != all[gone].Address {
						moved++
					}
				}
				allowed := 0
				if a == Maglev {
					allowed = keys / 20 // the paper's own tables move a few more
				}
				if moved > allowed {
					rt.Fatalf("%d of %d keys moved that need not", moved, keys)
				}
			})
		})
	}
}

// What Hash gives and where it leads must not change between versions: nodes of
// different versions share clients.
func TestHashIsForEver(t *testing.T) {
	if got := Hash("alice"); got != 0x1a046f573e1e5475 {
		t.Errorf("Hash(alice) = %#x", got)
	}
	for a, want := range map[Algorithm]string{RingHash: "0233323233133313", Maglev: "3333333223322323"} {
		u := made(t, Settings{Algorithm: a, Endpoints: weighted(1, 2, 3, 4)}, nil)
		got := ""
		for i := range 16 {
			e := pick(t, u, PickRequest{Hash: Hash(fmt.Sprint(i)), HasHash: true})
			e.Done(Result{Status: 200})
			got += e.Address[len("10.0.0.") : len("10.0.0.")+1]
		}
		if got != want {
			t.Errorf("%s: places %q, want %q", a, got, want)
		}
	}
}

// An endpoint that was tried already is picked again only if there is no other.
func TestExcludedOnlyAsLastChoice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := rapid.SampledFrom(algorithms).Draw(rt, "algorithm")
		n := rapid.IntRange(1, 9).Draw(rt, "n")
		list := weighted(rapid.SliceOfN(rapid.IntRange(1, 5), n, n).Draw(rt, "weights")...)
		for i := range list {
			list[i].Priority = rapid.IntRange(0, 2).Draw(rt, "priority")
		}
		u := made(t, Settings{Algorithm: a, Endpoints: list}, nil)
		levels := u.picker.Load().levels
		if len(levels) != 1 {
			rt.Fatalf("all healthy, but %d levels in use", len(levels))
		}
		var tried []*Endpoint
		seen := map[*Endpoint]bool{}
		for i := range len(levels[0].eps) {
			e := pick(t, u, PickRequest{Hash: 7, HasHash: true, Exclude: tried})
			if seen[e] {
				rt.Fatalf("try %d: %s again, with %d endpoints", i, e.Address, len(levels[0].eps))
			}
			seen[e] = true
			tried = append(tried, e)
			e.Done(Result{Failure: FailedConnect})
		}
		last := pick(t, u, PickRequest{Exclude: tried})
		last.Done(Result{Status: 200})
		if !seen[last] {
			rt.Fatal("picked an endpoint of a priority that is not in use")
		}
	})
}

func TestLeastRequestAvoidsTheBusy(t *testing.T) {
	u := made(t, Settings{Algorithm: LeastRequest, Endpoints: equal(4)}, nil)
	busy := at(t, u, "10.0.0.0:80")
	busy.host.active.Add(100)
	defer busy.host.active.Add(-100)
	if got := shares(t, u, 2000); got[busy.Address] != 0 {
		t.Fatalf("the busy endpoint got %d requests", got[busy.Address])
	}
}

// Under load, what is outstanding follows the weights.
func TestLeastRequestLoadFollowsWeights(t *testing.T) {
	u := made(t, Settings{Algorithm: LeastRequest, Endpoints: weighted(1, 2, 5)}, nil)
	for range 800 {
		pick(t, u, PickRequest{})
	}
	for i, want := range []int64{100, 200, 500} {
		e := at(t, u, fmt.Sprintf("10.0.0.%d:80", i))
		if got := e.Active(); math.Abs(float64(got-want)) > 0.05*float64(want) {
			t.Errorf("weight %d: %d outstanding, want about %d", e.weight, got, want)
		}
	}
}

func TestSticky(t *testing.T) {
	r := &recorder{}
	u := made(t, Settings{Algorithm: RoundRobin, Endpoints: equal(5), Observer: r}, nil)
	want := at(t, u, "10.0.0.3:80")
	for range 50 {
		e := pick(t, u, PickRequest{Prefer: want.ID()})
		e.Done(Result{Status: 200})
		if e != want {
			t.Fatalf("got %s", e.Address)
		}
	}
	if r.outcomes[PickedSticky] != 50 {
		t.Errorf("outcomes %v", r.outcomes)
	}
	if e := pick(t, u, PickRequest{Prefer: want.ID(), Exclude: []*Endpoint{want}}); e == want {
		t.Error("a failed endpoint is kept to")
	}
	pick(t, u, PickRequest{Prefer: "no such endpoint"})
	again := made(t, Settings{Algorithm: Random, Endpoints: equal(5)}, nil)
	if at(t, again, want.Address).ID() != want.ID() {
		t.Error("the ID is not stable")
	}
	if id := want.ID(); len(id) != 12 {
		t.Errorf("ID %q", id)
	}
}
