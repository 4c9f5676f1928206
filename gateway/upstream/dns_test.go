package upstream

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// names is a resolver that says what it is told to.
type names struct {
	mu    sync.Mutex
	addrs []string
	ttl   time.Duration
	err   error
	asked int
	hang  bool
}

func (n *names) set(err error, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs, n.err = addrs, err
}

func (n *names) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

func (n *names) lookup(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if n.hang {
		n.mu.Unlock()
		<-ctx.Done()
		n.mu.Lock()
		return nil, 0, ctx.Err()
	}
	if n.err != nil || name != "users.internal" {
		return nil, 0, n.err
	}
	var addrs []netip.Addr
	for _, a := range n.addrs {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, n.ttl, nil
}

func byName(t *testing.T, n *names, r *recorder, change func(*Settings)) *Upstream {
	t.Helper()
	s := Settings{DNS: &DNSSettings{Name: "users.internal:8080"}, Observer: r, PanicThreshold: 50}
	if change != nil {
		change(&s)
	}
	u := made(t, s, nil)
	u.resolve = n
	return u
}

func addresses(u *Upstream) string {
	var list []string
	for _, e := range u.Status().Endpoints {
		list = append(list, e.Address)
	}
	return strings.Join(list, " ")
}

var errNoName = errors.New("no such host")

func TestDNSFollowsTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, r := &names{}, &recorder{}
		p := &pools{closed: map[string]int{}}
		n.set(nil, "10.1.0.1", "10.1.0.2")
		u := byName(t, n, r, func(s *Settings) { s.NewPool = p.new; s.Outlier = envoyOutlier })
		defer u.Close(t.Context())
		if _, err := u.Pick(&PickRequest{}); !errors.Is(err, reason.NoEndpoint) {
			t.Errorf("before Start: %v", err)
		}
		start(t, u) // waits for the first list
		if got := addresses(u); got != "10.1.0.1:8080 10.1.0.2:8080" {
			t.Fatalf("endpoints %s", got)
		}
		r.want(t)
		kept := at(t, u, "10.1.0.2:8080")
		fail(kept, 3)

		next := func(want string, kinds ...EventKind) {
			t.Helper()
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if got := addresses(u); got != want {
				t.Errorf("endpoints %s, want %s", got, want)
			}
			r.want(t, kinds...)
		}
		n.set(nil, "10.1.0.2", "10.1.0.3")
		next("10.1.0.2:8080 10.1.0.3:8080", EndpointAdded, EndpointRemoved)
		if at(t, u, "10.1.0.2:8080") != kept || kept.errorsInRow.Load() != 3 {
			t.Error("what did not change lost its state")
		}
		p.want(t, 3, "10.1.0.1:8080")
		n.set(nil, "10.1.0.2", "10.1.0.3")
		next("10.1.0.2:8080 10.1.0.3:8080")

		n.set(errNoName)
		next("10.1.0.2:8080 10.1.0.3:8080", ResolveFailed)
		failing := u.Status().DNS
		if failing.Error != "no such host" || failing.Age != 30*time.Second {
			t.Errorf("status %+v", failing)
		}
		time.Sleep(20 * time.Second) // 1, 2, 4, 8 … seconds: it tries sooner while it fails
		synctest.Wait()
		if got := n.count(); got != 8 {
			t.Errorf("asked %d times, want 8", got)
		}
		r.want(t)
		pick(t, u, PickRequest{}).Done(Result{Status: 200})
		n.set(nil, "10.1.0.4")
		next("10.1.0.4:8080", ResolveWorks, EndpointAdded, EndpointRemoved, EndpointRemoved)
		if s := u.Status().DNS; s.Error != "" || s.Age > 30*time.Second {
			t.Errorf("status %+v", s)
		}
		p.want(t, 4, "10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080")
	})
}

func TestDNSStartsWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, r := &names{hang: true}, &recorder{}
		u := byName(t, n, r, func(s *Settings) { s.SlowStart = time.Minute })
		defer u.Close(t.Context())
		began := time.Now()
		start(t, u)
		if took := time.Since(began); took != resolveTimeout {
			t.Errorf("Start took %v", took)
		}
		synctest.Wait()
		r.want(t, ResolveFailed)
		if _, err := u.Pick(&PickRequest{}); !errors.Is(err, reason.NoEndpoint) {
			t.Errorf("got %v", err)
		}
		n.mu.Lock()
		n.hang = false
		n.mu.Unlock()
		n.set(nil, "10.1.0.1")
		time.Sleep(time.Second)
		synctest.Wait()
		r.want(t, ResolveWorks)
		if s := u.Status().Endpoints[0]; s.SlowStart != 1 {
			t.Errorf("the first list is in slow start: %+v", s)
		}
	})
}

func TestDNSStartEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := byName(t, &names{hang: true}, &recorder{}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		u.Start(ctx)
		if took := time.Since(began); took != time.Second {
			t.Errorf("Start took %v", took)
		}
		u.Close(t.Context())
		if took := time.Since(began); took != time.Second {
			t.Errorf("Close took %v more", took-time.Second)
		}
	})
}

func TestDNSTimes(t *testing.T) {
	f := func(refresh, ttl, want time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			n := &names{ttl: ttl}
			n.set(nil, "10.1.0.1")
			u := byName(t, n, &recorder{}, func(s *Settings) { s.DNS.Refresh = refresh })
			defer u.Close(t.Context())
			start(t, u)
			time.Sleep(want - time.Millisecond)
			synctest.Wait()
			before := n.count()
			time.Sleep(2 * time.Millisecond)
			synctest.Wait()
			if before != 1 || n.count() != 2 {
				t.Errorf("refresh %v, TTL %v: asked %d times before %v and %d after", refresh, ttl, before, want, n.count())
			}
		})
	}
	f(0, 0, 30*time.Second)
	f(5*time.Second, time.Second, 5*time.Second)
	f(5*time.Second, time.Minute, time.Minute)
	f(5*time.Second, 24*time.Hour, time.Hour)
}

// A reload does not ask again before it serves: the list is taken over.
func TestDNSReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, r := &names{}, &recorder{}
		n.set(nil, "10.1.0.1", "10.1.0.2")
		old := byName(t, n, r, nil)
		start(t, old)
		defer old.Close(t.Context())
		s := old.settings
		s.Algorithm = RoundRobin
		u := made(t, s, old)
		n.mu.Lock()
		n.hang = true
		n.mu.Unlock()
		u.resolve = n
		began := time.Now()
		start(t, u)
		defer u.Close(t.Context())
		if took := time.Since(began); took != 0 {
			t.Errorf("Start took %v", took)
		}
		if got := shares(t, u, 10); len(got) != 2 {
			t.Errorf("used %v", got)
		}
		if old.endpoints[0].host != u.endpoints[0].host {
			t.Error("connections are not shared")
		}
	})
}

// Endpoints that come by DNS are probed, those that go are not.
func TestDNSAndHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a := &names{}, newAnswers()
		n.set(nil, "10.1.0.1")
		u := byName(t, n, &recorder{}, func(s *Settings) { s.HealthCheck = &HealthSettings{} })
		u.probe = a
		start(t, u)
		defer u.Close(t.Context())
		time.Sleep(29 * time.Second)
		n.set(nil, "10.1.0.2")
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if one, two := a.probes["10.1.0.1:8080"], a.probes["10.1.0.2:8080"]; one < 6 || one > 7 || two < 6 || two > 7 {
			t.Errorf("%d and %d probes", one, two)
		}
	})
}
