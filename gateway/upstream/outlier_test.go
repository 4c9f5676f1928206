package upstream

import (
	"testing"
	"testing/synctest"
	"time"
)

var envoyOutlier = OutlierSettings{Enabled: true, MaxEjectedPercent: 10}

func usable(t testing.TB, u *Upstream) int {
	t.Helper()
	n := 0
	for _, e := range u.Status().Endpoints {
		if e.Usable {
			n++
		}
	}
	return n
}

func TestEjectionGrowsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		u := start(t, made(t, Settings{Endpoints: equal(4), Outlier: envoyOutlier, Observer: r}, nil))
		defer u.Close(t.Context())
		e := at(t, u, "10.0.0.1:80")

		fail(e, 4)
		e.up.breaker.requests.n.Add(1)
		e.begin()
		e.Done(Result{Status: 204}) // a success forgets
		fail(e, 4)
		r.want(t)
		fail(e, 1)
		r.want(t, EndpointEjected)
		if got := shares(t, u, 1000); got[e.Address] != 0 {
			t.Fatalf("ejected, but got %d requests", got[e.Address])
		}
		s := u.Status().Endpoints[1]
		if s.Usable || s.Ejections != 1 || s.LastError != "connect" || s.LastErrorAt.IsZero() {
			t.Fatalf("status %+v", s)
		}
		fail(e, 20) // requests that were under way
		r.want(t)

		away := func() time.Duration { // until it is back
			t.Helper()
			began := time.Now()
			for range 10000 {
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				if usable(t, u) == 4 {
					r.want(t, EndpointBack)
					return time.Since(began)
				}
			}
			t.Fatal("never came back")
			return 0
		}
		f := func(min time.Duration) {
			t.Helper()
			// jitter of a tenth, then the next sweep
			if got := away(); got < min-time.Second || got > min+min/10+11*time.Second {
				t.Errorf("away for %v, want %v and a little", got, min)
			}
		}
		f(30 * time.Second)
		for _, want := range []time.Duration{60, 90, 120} {
			fail(e, 5)
			r.want(t, EndpointEjected)
			f(want * time.Second)
		}
		time.Sleep(45 * time.Second) // forgives four ejections
		fail(e, 5)
		r.want(t, EndpointEjected)
		f(30 * time.Second)
		for range 15 {
			fail(e, 5)
			r.want(t, EndpointEjected)
			away()
		}
		fail(e, 5)
		r.want(t, EndpointEjected)
		f(300 * time.Second)
	})
}

func TestWhatCountsAgainstAnEndpoint(t *testing.T) {
	f := func(r Result, ejects bool) {
		t.Helper()
		u := start(t, made(t, Settings{Endpoints: equal(3), Outlier: envoyOutlier}, nil))
		e := at(t, u, "10.0.0.0:80")
		for range 5 {
			u.breaker.requests.n.Add(1)
			e.begin()
			e.Done(r)
		}
		if got := usable(t, u) == 2; got != ejects {
			t.Errorf("%+v: ejected %v, want %v", r, got, ejects)
		}
		if u.Breaker().Requests() != 0 || e.Active() != 0 {
			t.Errorf("%+v: %d requests and %d active left", r, u.Breaker().Requests(), e.Active())
		}
	}
	f(Result{Status: 200}, false)
	f(Result{Status: 404}, false)
	f(Result{Status: 500}, true)
	f(Result{Status: 503}, true)
	f(Result{Failure: FailedConnect}, true)
	f(Result{Failure: FailedReset}, true)
	f(Result{Failure: FailedTimeout}, true)
	f(Result{Failure: FailedProtocol}, true)
	f(Result{Failure: NotTried}, false)
}

// At most MaxEjectedPercent, but always one.
func TestHowManyMayBeOut(t *testing.T) {
	f := func(endpoints, percent, want int) {
		t.Helper()
		o := envoyOutlier
		o.MaxEjectedPercent = percent
		u := start(t, made(t, Settings{Endpoints: equal(endpoints), Outlier: o}, nil))
		for _, e := range u.endpoints {
			fail(e, 5)
		}
		if got := endpoints - usable(t, u); got != want {
			t.Errorf("%d endpoints, %d %%: %d are out, want %d", endpoints, percent, got, want)
		}
	}
	f(1, 10, 1)
	f(4, 10, 1)
	f(4, 0, 1)
	f(19, 10, 1)
	f(20, 10, 2)
	f(10, 50, 5)
	f(3, 100, 3)
}

// The only endpoint, ejected, is still used: panic.
func TestTheOnlyEndpointIsStillUsed(t *testing.T) {
	r := &recorder{}
	u := start(t, made(t, Settings{Endpoints: equal(1), Outlier: envoyOutlier, PanicThreshold: 50, Observer: r}, nil))
	fail(u.endpoints[0], 5)
	r.want(t, EndpointEjected, PanicBegan)
	pick(t, u, PickRequest{}).Done(Result{Status: 200})
}

func TestOutliersOff(t *testing.T) {
	u := start(t, made(t, Settings{Endpoints: equal(2)}, nil))
	fail(u.endpoints[0], 100)
	if usable(t, u) != 2 {
		t.Error("ejected although switched off")
	}
}

func TestSlowStart(t *testing.T) {
	for _, a := range []Algorithm{RoundRobin, Random, LeastRequest, PeakEWMA} {
		synctest.Test(t, func(t *testing.T) {
			s := Settings{Algorithm: a, Endpoints: weighted(3, 3), SlowStart: 10 * time.Second, Outlier: envoyOutlier}
			old := start(t, made(t, s, nil))
			defer old.Close(t.Context())
			f := func(u *Upstream, address string, want float64) {
				t.Helper()
				synctest.Wait()
				const n = 20000
				share := float64(shares(t, u, n)[address]) / n
				if share < want-0.03 || share > want+0.03 {
					t.Errorf("%s: %s has %.3f of the traffic, want %.3f", a, address, share, want)
				}
			}
			f(old, "10.0.0.0:80", 0.5) // not at process start

			s.Endpoints = weighted(3, 3, 3)
			u := start(t, made(t, s, old))
			defer u.Close(t.Context())
			f(u, "10.0.0.2:80", 0.1/2.1)
			time.Sleep(5100 * time.Millisecond)
			f(u, "10.0.0.2:80", 0.5/2.5)
			time.Sleep(5100 * time.Millisecond)
			f(u, "10.0.0.2:80", 1.0/3)

			fail(at(t, u, "10.0.0.1:80"), 5)
			f(u, "10.0.0.1:80", 0)
			for usable(t, u) < 3 {
				time.Sleep(50 * time.Millisecond)
				synctest.Wait()
			}
			f(u, "10.0.0.1:80", 0.1/2.1)
			time.Sleep(11 * time.Second)
			f(u, "10.0.0.1:80", 1.0/3)
		})
	}
}
