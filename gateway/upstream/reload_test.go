package upstream

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// pools makes pools and remembers which were closed.
type pools struct {
	made   []string
	closed map[string]int
}

type testPool struct {
	of      *pools
	address string
	breaker *Breaker
}

func (p *testPool) Close() { p.of.closed[p.address]++ }

func (p *pools) new(address string, b *Breaker) Pool {
	p.made = append(p.made, address)
	return &testPool{of: p, address: address, breaker: b}
}

func (p *pools) want(t *testing.T, made int, closed ...string) {
	t.Helper()
	if len(p.made) != made || len(p.closed) != len(closed) {
		t.Errorf("%d pools made, closed %v; want %d, %v", len(p.made), p.closed, made, closed)
	}
	for _, a := range closed {
		if p.closed[a] != 1 {
			t.Errorf("pool of %s closed %d times", a, p.closed[a])
		}
	}
}

func TestReloadKeepsWhatDidNotChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pools{closed: map[string]int{}}
		a, r := newAnswers(), &recorder{}
		s := Settings{
			Algorithm: PeakEWMA, Endpoints: equal(3), NewPool: p.new, PoolKey: "1", PanicThreshold: 50,
			Outlier: OutlierSettings{Enabled: true, MaxEjectedPercent: 50}, HealthCheck: &HealthSettings{}, Observer: r,
		}
		old := made(t, s, nil)
		old.probe = a
		a.set("10.0.0.1:80", errIll)
		start(t, old)
		synctest.Wait()
		fail(at(t, old, first), 5)
		r.want(t, EndpointDown, EndpointEjected, PanicBegan)
		busy := at(t, old, "10.0.0.2:80")
		busy.host.ewma.observe(1e6, 0)
		open := pick(t, old, PickRequest{Prefer: busy.ID()})
		p.want(t, 3)

		s.Endpoints = []EndpointSettings{{Address: "10.0.0.9:80"}, {Address: "10.0.0.2:80", Weight: 7, Zone: "z"}, {Address: first}}
		s.Breaker = BreakerSettings{MaxConnections: 1, MaxRequests: 2, MaxPending: 3, MaxRetries: 0}
		u := made(t, s, old)
		u.probe = a
		start(t, u)
		old.Retire()
		p.want(t, 4, "10.0.0.1:80") // nobody else has it, and a tunnel may keep the old revision for days
		r.want(t, EndpointAdded, EndpointRemoved, PanicEnded)
		st := u.Status().Endpoints
		if st[2].Ejections != 1 || st[2].EjectedUntil.IsZero() || st[2].LastError != "connect" {
			t.Errorf("the ejection is forgotten: %+v", st[2])
		}
		if st[1].Active != 1 || st[1].Weight != 7 || st[1].Zone != "z" || st[1].Latency < 900*time.Microsecond || st[1].Health != "healthy" {
			t.Errorf("load, latency or health is forgotten: %+v", st[1])
		}
		if e := at(t, u, busy.Address); e.Pool != busy.Pool || e.ID() != busy.ID() || e.Pool.(*testPool).breaker != u.Breaker() {
			t.Error("the pool is another")
		}
		pick(t, u, PickRequest{}) // with the one of old: two, the new limit
		if _, err := u.Pick(&PickRequest{}); !errors.Is(err, reason.UpstreamOverflow) {
			t.Errorf("the old revision's requests are not counted: %v", err)
		}

		old.Close(t.Context())
		p.want(t, 4, "10.0.0.1:80")
		open.Done(Result{Status: 200})
		if n := at(t, u, busy.Address).Active(); n != 0 && u.Breaker().Requests() != 1 {
			t.Errorf("%d active, %d requests", n, u.Breaker().Requests())
		}
		u.Close(t.Context())
		p.want(t, 4, "10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80", first)
	})
}

// What a retired upstream has closed is not taken over, and its requests go on.
func TestBuiltOnARetiredUpstream(t *testing.T) {
	p := &pools{closed: map[string]int{}}
	s := Settings{Endpoints: equal(1), NewPool: p.new}
	old := start(t, made(t, s, nil))
	old.Retire()
	old.Retire()
	p.want(t, 1, first)
	pick(t, old, PickRequest{}).Done(Result{Status: 200})
	u := made(t, s, old)
	p.want(t, 2, first)
	old.Close(t.Context())
	p.want(t, 2, first)
	u.Close(t.Context())
	if p.closed[first] != 2 {
		t.Errorf("closed %v", p.closed)
	}
}

// A revision that was built and thrown away leaves no trace.
func TestThrownAwayRevision(t *testing.T) {
	for _, started := range []bool{false, true} {
		p := &pools{closed: map[string]int{}}
		s := Settings{Endpoints: equal(2), NewPool: p.new, Breaker: BreakerSettings{MaxRequests: 1, MaxConnections: 1, MaxRetries: 1}}
		old := start(t, made(t, s, nil))
		s.Endpoints = equal(3)
		s.Breaker.MaxRequests = 100
		s.Breaker.MaxRetries = 0
		next := made(t, s, old)
		if started {
			start(t, next)
			if next.Breaker().TryRetry() {
				t.Error("the new limits do not apply")
			}
		}
		next.Close(t.Context())
		p.want(t, 3, "10.0.0.2:80")
		if !old.Breaker().TryRetry() {
			t.Error("the old limits do not apply again")
		}
		pick(t, old, PickRequest{})
		if _, err := old.Pick(&PickRequest{}); !errors.Is(err, reason.UpstreamOverflow) {
			t.Errorf("got %v", err)
		}
		old.Close(t.Context())
		p.want(t, 3, "10.0.0.0:80", "10.0.0.1:80", "10.0.0.2:80")
	}
}

// Other connection settings need other connections, and the old ones end with
// the old revision.
func TestOtherPoolKey(t *testing.T) {
	p := &pools{closed: map[string]int{}}
	s := Settings{Endpoints: equal(1), NewPool: p.new, PoolKey: "timeout 5s"}
	old := made(t, s, nil)
	old.endpoints[0].host.ewma.observe(1e6, 0)
	s.PoolKey = "timeout 6s"
	u := made(t, s, old)
	p.want(t, 2)
	if u.endpoints[0].Pool == old.endpoints[0].Pool || u.endpoints[0].host.ewma.at(0) == 0 {
		t.Error("the pool is the same or the latency is forgotten")
	}
	old.Close(t.Context())
	p.want(t, 2, first)
}

// Health checks and outlier detection that are switched off leave nobody out.
func TestSwitchedOffChecksBringBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers()
		a.set(first, errIll)
		old := made(t, Settings{Endpoints: equal(3), HealthCheck: &HealthSettings{}, Outlier: envoyOutlier}, nil)
		old.probe = a
		start(t, old)
		defer old.Close(t.Context())
		synctest.Wait()
		fail(at(t, old, "10.0.0.1:80"), 5)
		if usable(t, old) != 1 {
			t.Fatal("nobody is out")
		}
		r := &recorder{}
		u := start(t, made(t, Settings{Endpoints: equal(3), Observer: r}, old))
		defer u.Close(t.Context())
		r.want(t, EndpointUp, EndpointUp)
		if n := usable(t, u); n != 3 {
			t.Errorf("%d usable", n)
		}
	})
}
