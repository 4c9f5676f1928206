package upstream

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// answers is a prober that says what it is told to. Those that
// hang never answer.
type answers struct {
	mu     sync.Mutex
	errs   map[string]error
	hang   map[string]bool
	probes map[string]int
}

func newAnswers() *answers {
	return &answers{errs: map[string]error{}, hang: map[string]bool{}, probes: map[string]int{}}
}

func (a *answers) set(address string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errs[address] = err
}

func (a *answers) probe(ctx context.Context, address string) error {
	a.mu.Lock()
	a.probes[address]++
	err, hang := a.errs[address], a.hang[address]
	a.mu.Unlock()
	if hang {
		<-ctx.Done()
		return shortError(ctx, ctx.Err())
	}
	return err
}

const first = "10.0.0.0:80"

var errIll = errors.New("status 500")

// probedBy starts an upstream of two endpoints whose probes are answered by a.
func probedBy(t *testing.T, a *answers, r *recorder, change func(*Settings)) *Upstream {
	t.Helper()
	s := Settings{Endpoints: equal(2), HealthCheck: &HealthSettings{}, Observer: r, PanicThreshold: 50}
	if change != nil {
		change(&s)
	}
	u := made(t, s, nil)
	u.probe = a
	return start(t, u)
}

func TestHealthThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, r := newAnswers(), &recorder{}
		u := probedBy(t, a, r, nil)
		defer u.Close(t.Context())
		if s := u.Status().Endpoints[0]; !s.Usable {
			t.Errorf("before the first probe, or just after it: %+v", s)
		}
		synctest.Wait() // the first probes do not wait for the interval
		if s := u.Status().Endpoints[0]; !s.Usable || s.Health != "healthy" {
			t.Errorf("after the first probe: %+v", s)
		}
		step := func(err error, kinds ...EventKind) {
			t.Helper()
			a.set(first, err)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			r.want(t, kinds...)
		}
		step(errIll)
		step(errIll)
		step(nil)
		step(errIll)
		step(errIll)
		step(errIll, EndpointDown)
		if s := u.Status().Endpoints[0]; s.Usable || s.Health != "unhealthy" || s.ProbeError != "status 500" || s.Probed.IsZero() {
			t.Errorf("after three failures: %+v", s)
		}
		if got := shares(t, u, 100); got[first] != 0 {
			t.Errorf("unhealthy, but got %d requests", got[first])
		}
		step(nil)
		step(errIll)
		step(nil)
		step(nil, EndpointUp)
		if s := u.Status().Endpoints[0]; !s.Usable || s.ProbeError != "" {
			t.Errorf("after two successes: %+v", s)
		}
	})
}

// An endpoint that died and came back is used as soon as probes say so, however
// long the requests that failed meanwhile had it ejected for.
func TestComingBackEndsAnEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, r := newAnswers(), &recorder{}
		u := probedBy(t, a, r, func(s *Settings) {
			s.Algorithm, s.Outlier = RoundRobin, OutlierSettings{Enabled: true, BaseEjection: time.Hour}
		})
		defer u.Close(t.Context())
		synctest.Wait()
		for range 10 {
			e, err := u.Pick(&PickRequest{})
			if err != nil {
				t.Fatal(err)
			}
			failure := NoFailure
			if e.Address == first {
				failure = FailedConnect
			}
			e.Done(Result{Failure: failure})
		}
		r.want(t, EndpointEjected)
		time.Sleep(10 * time.Second) // probes that pass do not end it
		r.want(t)
		a.set(first, errIll)
		time.Sleep(20 * time.Second)
		r.want(t, EndpointDown)
		a.set(first, nil)
		time.Sleep(15 * time.Second)
		r.want(t, EndpointUp)
		if s := u.Status().Endpoints[0]; !s.Usable || !s.EjectedUntil.IsZero() {
			t.Errorf("after it came back: %+v", s)
		}
	})
}

// A node that has run out of descriptors does not take its endpoints for dead.
func TestOwnFaultsAreNotTheEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, r := newAnswers(), &recorder{}
		u := probedBy(t, a, r, nil)
		defer u.Close(t.Context())
		synctest.Wait()
		a.set(first, shortError(t.Context(), &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}))
		time.Sleep(time.Minute)
		if s := u.Status().Endpoints[0]; !s.Usable || s.Health != "healthy" {
			t.Errorf("%+v", s)
		}
		r.want(t)
	})
}

// The first result decides alone.
func TestFirstProbeDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, r := newAnswers(), &recorder{}
		a.set(first, errIll)
		u := probedBy(t, a, r, nil)
		defer u.Close(t.Context())
		synctest.Wait()
		r.want(t, EndpointDown)
	})
}

// A probe that hangs counts as failed after the timeout, and Close does not wait for it.
func TestHangingProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, r := newAnswers(), &recorder{}
		a.hang[first] = true
		u := probedBy(t, a, r, func(s *Settings) { s.HealthCheck.Timeout = time.Minute })
		time.Sleep(59 * time.Second)
		synctest.Wait()
		r.want(t)
		time.Sleep(time.Second)
		synctest.Wait()
		r.want(t, EndpointDown)
		if s := u.Status().Endpoints[0]; s.ProbeError != "timeout" {
			t.Errorf("probe error %q", s.ProbeError)
		}
		time.Sleep(10 * time.Second) // the next probe hangs now
		began := time.Now()
		u.Close(t.Context())
		if took := time.Since(began); took != 0 {
			t.Errorf("Close took %v", took)
		}
		r.want(t)
	})
}

func TestProbesComeInTime(t *testing.T) {
	f := func(jitter, from, to int) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			a := newAnswers()
			u := probedBy(t, a, &recorder{}, func(s *Settings) {
				s.HealthCheck.Interval, s.HealthCheck.Jitter = time.Second, jitter
			})
			defer u.Close(t.Context())
			time.Sleep(1000*time.Second - time.Millisecond)
			synctest.Wait()
			if n := a.probes[first]; n < from || n > to {
				t.Errorf("jitter %d %%: %d probes in 1000 s, want %d to %d", jitter, n, from, to)
			}
		})
	}
	f(0, 1000, 1000)
	f(50, 780, 820) // 1.25 s on average
}

// A retired upstream probes no more but still answers.
func TestRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAnswers()
		u := probedBy(t, a, &recorder{}, nil)
		synctest.Wait()
		u.Retire()
		time.Sleep(time.Minute)
		if n := a.probes[first]; n != 1 {
			t.Errorf("%d probes", n)
		}
		pick(t, u, PickRequest{}).Done(Result{Status: 200})
		u.Retire()
		u.Close(t.Context())
		u.Close(t.Context())
		if _, err := u.Pick(&PickRequest{}); err == nil {
			t.Error("a closed upstream has endpoints")
		}
	})
}
