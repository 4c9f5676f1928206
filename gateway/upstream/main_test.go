package upstream

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) {
	flag.Set("rapid.checks", "30") // tables of hashes take a while; the command line still wins
	flag.Set("rapid.seed", "1")    // bounds of so many sigma hold for these draws, not for every one there is
	leak.VerifyTestMain(m)
}

var algorithms = []Algorithm{RoundRobin, Random, LeastRequest, PeakEWMA, RingHash, Maglev}

// repeatable is a random source that gives the same in every run.
func repeatable() func() uint64 {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(1, 2))
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return r.Uint64()
	}
}

// made is an upstream whose random choices repeat from run to run.
func made(t testing.TB, s Settings, prev *Upstream) *Upstream {
	t.Helper()
	if s.Name == "" {
		s.Name = "users"
	}
	u, err := build(s, prev, repeatable())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close(context.Background()) })
	return u
}

func start(t testing.TB, u *Upstream) *Upstream {
	t.Helper()
	if err := u.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return u
}

// weighted lists endpoints a:1, b:1 … with the given weights.
func weighted(weights ...int) []EndpointSettings {
	list := make([]EndpointSettings, len(weights))
	for i, w := range weights {
		list[i] = EndpointSettings{Address: fmt.Sprintf("10.0.%d.%d:80", i/256, i%256), Weight: w}
	}
	return list
}

func equal(n int) []EndpointSettings { return weighted(slices.Repeat([]int{1}, n)...) }

func pick(t testing.TB, u *Upstream, p PickRequest) *Endpoint {
	t.Helper()
	e, err := u.Pick(&p)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// shares picks n times, one after the other with a different hash each, and
// returns how often each endpoint was chosen.
func shares(t testing.TB, u *Upstream, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for i := range n {
		e := pick(t, u, PickRequest{Hash: uint64(i), HasHash: true})
		got[e.Address]++
		e.Done(Result{Status: 200, Latency: 1000000})
	}
	return got
}

// at returns the endpoint with that address.
func at(t testing.TB, u *Upstream, address string) *Endpoint {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, e := range u.endpoints {
		if e.Address == address {
			return e
		}
	}
	t.Fatalf("no endpoint %s", address)
	return nil
}

// fail lets n requests of e fail.
func fail(e *Endpoint, n int) {
	for range n {
		e.up.breaker.requests.n.Add(1)
		e.begin()
		e.Done(Result{Failure: FailedConnect})
	}
}

// recorder keeps events. It is safe for concurrent use.
type recorder struct {
	mu       sync.Mutex
	events   []Event
	outcomes [NumOutcomes]int
}

func (r *recorder) Change(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) Pick(o Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes[o]++
}

// kinds returns the kinds seen since the last call.
func (r *recorder) kinds() []EventKind {
	r.mu.Lock()
	defer r.mu.Unlock()
	var kinds []EventKind
	for _, e := range r.events {
		kinds = append(kinds, e.Kind)
	}
	r.events = nil
	return kinds
}

func (r *recorder) want(t testing.TB, kinds ...EventKind) {
	t.Helper()
	if got := r.kinds(); !slices.Equal(got, kinds) {
		t.Fatalf("events %v, want %v", got, kinds)
	}
}
