package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// names is a resolver that says what it is told to.
type names struct {
	mu    sync.Mutex
	found services
	hosts map[string]addresses
	err   error
	asked int
	hang  bool
}

func (n *names) addresses(ctx context.Context, name string) (addresses, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if n.hang {
		n.mu.Unlock()
		<-ctx.Done()
		n.mu.Lock()
		return addresses{}, ctx.Err()
	}
	a, ok := n.hosts[name]
	if !ok && n.err == nil {
		return addresses{}, absent{errors.New("no " + name)}
	}
	return a, n.err
}

func (n *names) services(context.Context, string) (services, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	return n.found, nil
}

func at(ttl time.Duration, list ...string) addresses {
	a := addresses{ttl: ttl}
	for _, s := range list {
		a.list = append(a.list, netip.MustParseAddr(s))
	}
	return a
}

// run collects reports until the test ends, as texts.
func run(t *testing.T, s *Source) func() []string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var (
		mu   sync.Mutex
		got  []string
		done = make(chan struct{})
	)
	go func() {
		defer close(done)
		s.Run(ctx, func(r upstream.Report) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, text(r))
		})
	}()
	t.Cleanup(func() { stop(); <-done })
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		out := got
		got = nil
		return out
	}
}

// text is a report as ADDRESS*WEIGHT/PRIORITY ….
func text(r upstream.Report) string {
	var parts []string
	for _, e := range r.Endpoints {
		parts = append(parts, fmt.Sprintf("%s*%d/%d", e.Address, e.Weight, e.Priority))
	}
	if r.Note != "" {
		parts = append(parts, "note: "+r.Note)
	}
	if r.Err != nil {
		parts = append(parts, "error: "+r.Err.Error())
	}
	return strings.Join(parts, " ")
}

func TestAddressesAreAskedForAgain(t *testing.T) {
	f := func(s Settings, ttl, want time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			n := &names{hosts: map[string]addresses{"users.internal": at(ttl, "10.1.0.1", "10.1.0.2")}}
			s.Name = "users.internal:8080"
			source := New(s)
			source.resolve = n
			reports := run(t, source)
			time.Sleep(want - time.Millisecond)
			synctest.Wait()
			if got := strings.Join(reports(), "|"); got != "10.1.0.1:8080*0/0 10.1.0.2:8080*0/0" {
				t.Errorf("%+v, TTL %v: before %v: %q", s, ttl, want, got)
			}
			time.Sleep(2 * time.Millisecond)
			synctest.Wait()
			if got := len(reports()); got != 1 {
				t.Errorf("%+v, TTL %v: %d reports after %v", s, ttl, got, want)
			}
		})
	}
	f(Settings{}, 0, 30*time.Second)
	f(Settings{Refresh: 7 * time.Second}, 0, 7*time.Second)
	f(Settings{}, time.Second, 5*time.Second)
	f(Settings{}, 20*time.Second, 20*time.Second)
	f(Settings{Refresh: time.Minute}, 20*time.Second, 20*time.Second)
	f(Settings{}, 24*time.Hour, time.Hour)
	f(Settings{MinTTL: time.Second, MaxTTL: time.Minute}, time.Second, time.Second)
	f(Settings{MinTTL: time.Second, MaxTTL: time.Minute}, time.Hour, time.Minute)
}

func TestFailuresAreReportedAndTriedAgainSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{hang: true}
		source := New(Settings{Name: "users.internal:8080"})
		source.resolve = n
		reports := run(t, source)
		time.Sleep(5*time.Second + time.Millisecond)
		synctest.Wait()
		if got := strings.Join(reports(), "|"); got != "error: context deadline exceeded" {
			t.Fatalf("got %q", got)
		}
		n.mu.Lock()
		n.hang, n.err = false, errors.New("broken")
		n.mu.Unlock()
		time.Sleep(15 * time.Second) // 1, 2, 4 s and up to half more each
		synctest.Wait()
		if got := len(reports()); got < 3 || got > 4 {
			t.Errorf("%d tries in 15 s", got)
		}
	})
}

func TestServices(t *testing.T) {
	hosts := map[string]addresses{"a.test": at(9*time.Second, "10.0.0.1"), "six.test": at(0, "2001:db8::1")}
	f := func(want string, wantTTL time.Duration, known map[string]addresses, list ...service) {
		t.Helper()
		source := New(Settings{Name: "_http._tcp.users.test", SRV: true})
		source.resolve = &names{hosts: hosts, found: services{list: list, known: known, ttl: time.Minute}}
		a, err := source.ask(t.Context())
		if got := text(upstream.Report{Endpoints: a.endpoints, Note: a.note, Err: err}); got != want || err == nil && a.ttl != wantTTL {
			t.Errorf("got %q, TTL %v\nwant %q, TTL %v", got, a.ttl, want, wantTTL)
		}
	}
	f("10.0.0.1:80*5/0", 9*time.Second, nil, service{"a.test.", 80, 10, 5})
	f("10.0.0.1:80*5/2 [2001:db8::1]:81*0/1 10.0.0.9:82*7/0", 9*time.Second, map[string]addresses{"glue.test": at(time.Hour, "10.0.0.9")},
		service{"A.test.", 80, 300, 5}, service{"six.test.", 81, 20, 0}, service{"Glue.Test.", 82, 10, 7})
	f("10.0.0.1:80*1/0 note: 1 of 2 targets have no address: \"gone.test.\"", 9*time.Second, nil,
		service{"a.test.", 80, 1, 1}, service{"gone.test.", 80, 1, 1})
	f(`error: _http._tcp.users.test says that there is no such service (its SRV record is ".")`, 0, nil, service{".", 0, 0, 0})
}

// One target that cannot be asked for fails all: a part of a list is no list.
func TestServicesAreWholeOrNothing(t *testing.T) {
	source := New(Settings{Name: "_http._tcp.users.test", SRV: true})
	var list []service
	for i := range 50 {
		list = append(list, service{fmt.Sprintf("h%d.test.", i), 80, 1, 1})
	}
	source.resolve = &names{err: errors.New("no answer"), found: services{list: list}}
	if a, err := source.ask(t.Context()); err == nil || err.Error() != "no answer" {
		t.Errorf("got %v, %v", a, err)
	}
}
