package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// lists is a source that reports what it is told to.
type lists struct {
	target  string
	reports chan Report
}

func newLists() *lists { return &lists{target: "users.internal:8080", reports: make(chan Report)} }

func (l *lists) Name() (kind, target string) { return "test", l.target }

func (l *lists) Run(ctx context.Context, report func(Report)) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-l.reports:
			report(r)
		}
	}
}

// say waits until the report has been taken. The test runs in a bubble.
func (l *lists) say(r Report) {
	l.reports <- r
	synctest.Wait()
}

func hosts(addresses ...string) Report {
	var r Report
	for _, a := range addresses {
		r.Endpoints = append(r.Endpoints, EndpointSettings{Address: a})
	}
	return r
}

func failed(text string) Report { return Report{Err: errors.New(text)} }

func bySource(t *testing.T, l *lists, r *recorder, change func(*Settings)) *Upstream {
	t.Helper()
	s := Settings{Source: l, Observer: r, PanicThreshold: 50}
	if change != nil {
		change(&s)
	}
	return made(t, s, nil)
}

func addresses(u *Upstream) string {
	var list []string
	for _, e := range u.Status().Endpoints {
		list = append(list, e.Address)
	}
	return strings.Join(list, " ")
}

func TestSourceIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := newLists(), &recorder{}
		p := &pools{closed: map[string]int{}}
		u := bySource(t, l, r, func(s *Settings) { s.NewPool = p.new; s.Outlier = envoyOutlier })
		defer u.Close(t.Context())
		if _, err := u.Pick(&PickRequest{}); !errors.Is(err, reason.NoEndpoint) {
			t.Errorf("before Start: %v", err)
		}
		go func() { l.reports <- hosts("10.1.0.2:80", "10.1.0.1:80") }()
		start(t, u) // waits for the first list
		if got := addresses(u); got != "10.1.0.1:80 10.1.0.2:80" {
			t.Fatalf("endpoints %s", got)
		}
		r.want(t)
		kept := at(t, u, "10.1.0.2:80")
		fail(kept, 3)

		next := func(report Report, want string, kinds ...EventKind) {
			t.Helper()
			time.Sleep(30 * time.Second)
			l.say(report)
			if got := addresses(u); got != want {
				t.Errorf("endpoints %s, want %s", got, want)
			}
			r.want(t, kinds...)
		}
		next(hosts("10.1.0.2:80", "10.1.0.3:80"), "10.1.0.2:80 10.1.0.3:80", EndpointAdded, EndpointRemoved)
		if at(t, u, "10.1.0.2:80") != kept || kept.errorsInRow.Load() != 3 {
			t.Error("what did not change lost its state")
		}
		p.want(t, 3, "10.1.0.1:80")
		before := u.picker.Load()
		next(hosts("10.1.0.3:80", "10.1.0.2:80"), "10.1.0.2:80 10.1.0.3:80")
		if u.picker.Load() != before {
			t.Error("the same list in another order made a new picker")
		}
		next(failed("no such host"), "10.1.0.2:80 10.1.0.3:80", SourceFailed)
		next(failed("no such host"), "10.1.0.2:80 10.1.0.3:80")
		next(hosts(), "10.1.0.2:80 10.1.0.3:80")
		s := u.Status().Source
		if s.Error != "the answer has no endpoints" || s.Age != 90*time.Second || s.Failures != 3 || s.Kind != "test" || s.Endpoints != 2 {
			t.Errorf("status %+v", s)
		}
		pick(t, u, PickRequest{}).Done(Result{Status: 200})
		next(hosts("10.1.0.4:80"), "10.1.0.4:80", SourceWorks, EndpointAdded, EndpointRemoved, EndpointRemoved)
		if s := u.Status().Source; s.Error != "" || s.Age != 0 || s.Failures != 3 {
			t.Errorf("status %+v", s)
		}
		p.want(t, 4, "10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80")
	})
}

func TestSourceMayTakeTheLastEndpointAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := newLists(), &recorder{}
		u := bySource(t, l, r, func(s *Settings) { s.AllowEmpty = true })
		go func() { l.reports <- hosts("10.1.0.1:80") }()
		start(t, u)
		defer u.Close(t.Context())
		l.say(hosts())
		r.want(t, EndpointRemoved)
		if s := u.Status(); len(s.Endpoints) != 0 || s.Source.Error != "" {
			t.Errorf("status %+v", s)
		}
	})
}

// What a source remembers from before is used until it has an answer.
func TestSourceBeginsWithAnOldList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := newLists(), &recorder{}
		u := bySource(t, l, r, nil)
		old := hosts("10.1.0.1:80")
		old.Err, old.AsOf = errors.New("away"), time.Now().Add(-time.Hour)
		go func() { l.reports <- old }()
		start(t, u)
		defer u.Close(t.Context())
		synctest.Wait()
		s := u.Status().Source
		if addresses(u) != "10.1.0.1:80" || !s.FromDisk || s.Age != time.Hour || s.Error != "away" {
			t.Errorf("%s, %+v", addresses(u), s)
		}
		r.want(t, SourceFailed)
		l.say(hosts("10.1.0.1:80"))
		if s := u.Status().Source; s.FromDisk || s.Age != 0 {
			t.Errorf("%+v", s)
		}
		r.want(t, SourceWorks)
		again := hosts("10.1.0.9:80")
		again.Err = errors.New("away")
		l.say(again)
		if addresses(u) != "10.1.0.1:80" {
			t.Error("an old list has replaced a newer one")
		}
	})
}

func TestSourceThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := newLists(), &recorder{}
		u := bySource(t, l, r, func(s *Settings) { s.SlowStart = time.Minute })
		defer u.Close(t.Context())
		began := time.Now()
		start(t, u)
		if took := time.Since(began); took != startWait {
			t.Errorf("Start took %v", took)
		}
		if _, err := u.Pick(&PickRequest{}); !errors.Is(err, reason.NoEndpoint) {
			t.Errorf("got %v", err)
		}
		l.say(failed("away"))
		l.say(hosts("10.1.0.1:80"))
		r.want(t, SourceFailed, SourceWorks)
		if s := u.Status().Endpoints[0]; s.SlowStart != 1 {
			t.Errorf("the first list is in slow start: %+v", s)
		}
	})
}

func TestSourceStartEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := bySource(t, newLists(), &recorder{}, nil)
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

// A reload does not ask again before it serves if the source is of the same name.
func TestSourceReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLists()
		old := bySource(t, l, &recorder{}, nil)
		go func() { l.reports <- hosts("10.1.0.1:80", "10.1.0.2:80") }()
		start(t, old)
		defer old.Close(t.Context())
		s := old.settings
		s.Algorithm, s.Source = RoundRobin, newLists()
		u := made(t, s, old)
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
		other := newLists()
		other.target = "orders.internal:80"
		s.Source = other
		if u := made(t, s, old); addresses(u) != "" {
			t.Errorf("another target begins with %s", addresses(u))
		}
	})
}

// Endpoints that come are probed, those that go are not.
func TestSourceAndHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a := newLists(), newAnswers()
		u := bySource(t, l, &recorder{}, func(s *Settings) { s.HealthCheck = &HealthSettings{} })
		u.probe = a
		go func() { l.reports <- hosts("10.1.0.1:80") }()
		start(t, u)
		defer u.Close(t.Context())
		time.Sleep(30 * time.Second)
		l.say(hosts("10.1.0.2:80"))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if one, two := a.probes["10.1.0.1:80"], a.probes["10.1.0.2:80"]; one < 6 || one > 7 || two < 6 || two > 7 {
			t.Errorf("%d and %d probes", one, two)
		}
	})
}

func TestForeignListsAreTidied(t *testing.T) {
	f := func(in []EndpointSettings, wantNote, want string) {
		t.Helper()
		list, note, err := tidy(in)
		if got := strings.Trim(fmt.Sprint(list), "[]"); err != nil || got != want || note != wantNote {
			t.Errorf("%v:\ngot  %s, %q, %v\nwant %s, %q", in, got, note, err, want, wantNote)
		}
	}
	f(nil, "", "")
	f([]EndpointSettings{{Address: "b:1", Weight: -4, Priority: 99}, {Address: "[::1]:2", Weight: 1000, Zone: "a b"}}, "",
		"{[::1]:2 1000  0} {b:1 1  15}")
	f([]EndpointSettings{{Address: "b:1", Weight: 30000, Zone: "z"}, {Address: "a:1", Weight: 60000}, {Address: "c:1"}}, "",
		"{a:1 1000  0} {b:1 500 z 0} {c:1 1  0}")
	f([]EndpointSettings{{Address: "a:1", Weight: 3, Priority: 2}, {Address: "a:1", Weight: 5}, {Address: "a:1", Weight: 9, Priority: -1}}, "",
		"{a:1 9  0}")
	f([]EndpointSettings{{Address: "a:0"}, {Address: "b:1"}}, `"a:0": port "0" must be 1 to 65535`, "{b:1 1  0}")
	f([]EndpointSettings{{Address: "0.0.0.0:80"}, {Address: "224.0.0.1:1"}, {Address: "a\r\n:1"}, {Address: "a/b:1"}, {Address: ":80"}, {Address: strings.Repeat("a", 300) + ":1"}},
		`"0.0.0.0:80": is no address of a host, and 5 more`, "")
	f([]EndpointSettings{{Address: "169.254.169.254:80"}, {Address: "[::ffff:169.254.169.254]:80"}, {Address: "[fe80::1]:80"}, {Address: "[fe80::1%eth0]:80"}, {Address: "[::ffff:0.0.0.0]:80"}, {Address: "[::ffff:224.0.0.1]:80"}, {Address: "127.0.0.1:1"}},
		`"169.254.169.254:80": is a link-local address, which endpoints that are found cannot have, and 5 more`, "{127.0.0.1:1 1  0}")
	if _, _, err := tidy(make([]EndpointSettings, MaxEndpoints+1)); err == nil || !strings.Contains(err.Error(), "32769 endpoints") {
		t.Errorf("got %v", err)
	}
}

// BenchmarkSameList is what it costs to hear that nothing has changed.
func BenchmarkSameList(b *testing.B) {
	l := newLists()
	u, err := New(Settings{Name: "users", Source: l}, nil)
	if err != nil {
		b.Fatal(err)
	}
	var r Report
	for i := range 10_000 {
		r.Endpoints = append(r.Endpoints, EndpointSettings{Address: fmt.Sprintf("10.0.%d.%d:8080", i/256, i%256)})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	u.Start(ctx)
	defer u.Close(context.Background())
	b.Run("same", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			u.report(&r)
		}
	})
	b.Run("copy", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c := Report{Endpoints: slices.Clone(r.Endpoints)}
			u.report(&c)
		}
	})
}

func TestConfirmingAListIsCheap(t *testing.T) {
	u := start(t, made(t, Settings{Source: toldOnce{hosts("10.1.0.1:80", "10.1.0.2:80")}}, nil))
	r := hosts("10.1.0.1:80")
	u.report(&r)
	before := u.picker.Load()
	if n := testing.AllocsPerRun(100, func() { u.report(&r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if u.picker.Load() != before || addresses(u) != "10.1.0.1:80" {
		t.Error("something has changed")
	}
}

// toldOnce is a source that says one thing.
type toldOnce struct{ r Report }

func (toldOnce) Name() (kind, target string) { return "test", "told" }

func (s toldOnce) Run(_ context.Context, report func(Report)) { report(s.r) }
