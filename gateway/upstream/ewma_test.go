package upstream

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

func ticks(d time.Duration) uint32 { return uint32(d >> tickShift) }

func TestAverage(t *testing.T) {
	var e ewma
	near := func(got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 0.01*want {
			t.Errorf("average %v, want %v", time.Duration(got), time.Duration(want))
		}
	}
	ms := func(n float64) float64 { return n * float64(time.Millisecond) }
	if e.at(5) != 0 {
		t.Error("something is known of nothing")
	}
	e.observe(ms(10), ticks(time.Second))
	near(e.at(ticks(time.Second)), ms(10))
	e.observe(ms(80), ticks(time.Second)) // a peak counts at once
	near(e.at(ticks(time.Second)), ms(80))
	e.observe(ms(10), ticks(11*time.Second)) // and is forgotten slowly
	near(e.at(ticks(11*time.Second)), ms(80/math.E+10*(1-1/math.E)))
	before := e.at(ticks(11 * time.Second))
	near(e.at(ticks(31*time.Second)), before*math.Exp(-2)) // also without requests

	e.bits.Store(pack(float32(ms(50)), math.MaxUint32-10)) // ticks wrap around after 78 hours
	near(e.at(math.MaxUint32-10), ms(50))
	near(e.at(ticks(10*time.Second)-11), ms(50)/math.E)
	e.observe(ms(50), 5)
	if _, then := unpack(e.bits.Load()); then != 5 {
		t.Errorf("time is %d after wrapping, want 5", then)
	}
	e.observe(ms(60), math.MaxUint32-3) // an observer that was late does not turn time back
	if _, then := unpack(e.bits.Load()); then != 5 {
		t.Errorf("time is %d after a late observation, want 5", then)
	}
}

// reply is a request under way in a simulation.
type reply struct {
	at time.Time
	ep *Endpoint
	Result
}

type replies []reply

func (r replies) Len() int           { return len(r) }
func (r replies) Less(i, j int) bool { return r[i].at.Before(r[j].at) }
func (r replies) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *replies) Push(x any)        { *r = append(*r, x.(reply)) }
func (r *replies) Pop() any {
	last := (*r)[len(*r)-1]
	*r = (*r)[:len(*r)-1]
	return last
}

// simulate sends rate requests a second for some time, in virtual time;
// serve says what each endpoint does with one. It returns who got how many.
func simulate(t *testing.T, u *Upstream, rate int, length time.Duration, serve func(*Endpoint) Result) map[string]int {
	t.Helper()
	got := map[string]int{}
	var under replies
	total := rate * int(length/time.Second)
	began := time.Now()
	for i := range total {
		arrives := began.Add(time.Duration(i) * time.Second / time.Duration(rate))
		for len(under) > 0 && under[0].at.Before(arrives) {
			r := heap.Pop(&under).(reply)
			time.Sleep(time.Until(r.at))
			r.ep.Done(r.Result)
		}
		time.Sleep(time.Until(arrives))
		e := pick(t, u, PickRequest{})
		got[e.Address]++
		r := serve(e)
		heap.Push(&under, reply{at: arrives.Add(r.Latency), ep: e, Result: r})
	}
	for len(under) > 0 {
		heap.Pop(&under).(reply).ep.Done(Result{Failure: NotTried})
	}
	return got
}

// An instance ten times slower than nine others gets less than a tenth of its
// fair share; least_request, for comparison, does not see it at this load.
func TestSlowInstanceIsAvoided(t *testing.T) {
	for _, endpoints := range []int{2, 3, 10} {
		synctest.Test(t, func(t *testing.T) {
			u := start(t, made(t, Settings{Algorithm: PeakEWMA, Endpoints: equal(endpoints)}, nil))
			defer u.Close(t.Context())
			random := rand.New(rand.NewPCG(3, 4))
			got := simulate(t, u, 500, 60*time.Second, func(e *Endpoint) Result {
				latency := 10 * time.Millisecond
				if e.Address == "10.0.0.0:80" {
					latency *= 10
				}
				return Result{Status: 200, Latency: time.Duration(float64(latency) * (0.5 + random.Float64()))}
			})
			fair := 500 * 60 / endpoints
			if n := got["10.0.0.0:80"]; n > fair/10 || n == 0 {
				t.Errorf("of %d: the slow instance got %d requests, fair were %d", endpoints, n, fair)
			} else {
				t.Logf("of %d: the slow instance got %.1f %% of its fair share", endpoints, 100*float64(n)/float64(fair))
			}
		})
	}
}

// An instance that becomes fast again is found again.
func TestRecoveredInstanceIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := start(t, made(t, Settings{Algorithm: PeakEWMA, Endpoints: equal(4)}, nil))
		defer u.Close(t.Context())
		slow := 200 * time.Millisecond
		serve := func(e *Endpoint) Result {
			if e.Address == "10.0.0.0:80" {
				return Result{Status: 200, Latency: slow}
			}
			return Result{Status: 200, Latency: 10 * time.Millisecond}
		}
		simulate(t, u, 200, 30*time.Second, serve)
		slow = 10 * time.Millisecond
		simulate(t, u, 200, 60*time.Second, serve)
		got := simulate(t, u, 200, 10*time.Second, serve)["10.0.0.0:80"]
		if got < 250 { // fair: 500
			t.Errorf("a minute after recovery it gets %d of 500", got)
		}
	})
}

// Failing quickly does not attract requests, even without ejection.
func TestQuickFailuresDoNotAttract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := start(t, made(t, Settings{Algorithm: PeakEWMA, Endpoints: equal(4)}, nil))
		defer u.Close(t.Context())
		got := simulate(t, u, 200, 60*time.Second, func(e *Endpoint) Result {
			if e.Address == "10.0.0.0:80" {
				return Result{Failure: FailedConnect, Latency: 100 * time.Microsecond}
			}
			return Result{Status: 200, Latency: 10 * time.Millisecond}
		})
		if n := got["10.0.0.0:80"]; n > 300 { // fair: 3000
			t.Errorf("it got %d requests, fair were 3000", n)
		}
	})
}

// A new endpoint gets one request at a time until it has answered.
func TestUnknownEndpointIsTriedGently(t *testing.T) {
	u := made(t, Settings{Algorithm: PeakEWMA, Endpoints: equal(2)}, nil)
	a, b := at(t, u, "10.0.0.0:80"), at(t, u, "10.0.0.1:80")
	a.host.ewma.observe(float64(10*time.Millisecond), 0)
	for range 100 {
		pick(t, u, PickRequest{})
	}
	if a.Active() != 99 || b.Active() != 1 {
		t.Errorf("known: %d, unknown: %d", a.Active(), b.Active())
	}
}
