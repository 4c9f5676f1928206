package registry_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

// fleet registers n instances with leases of 30 s.
func fleet(t *testing.T, r *registry.Registry, n int) {
	t.Helper()
	for i := range n {
		register(t, r, instance("users", fmt.Sprintf("u%03d", i)))
	}
}

// beat renews instances from first to end, every ten seconds for so long. It
// registers again whoever is asked to.
func beat(t *testing.T, r *registry.Registry, first, end int, long time.Duration) {
	t.Helper()
	for began := time.Now(); time.Since(began) < long; time.Sleep(10 * time.Second) {
		for i := first; i < end; i++ {
			id := fmt.Sprintf("u%03d", i)
			err := r.Heartbeat(t.Context(), "users", id)
			if errors.Is(err, registry.ErrNotFound) {
				register(t, r, instance("users", id))
			} else if err != nil {
				t.Error(err)
			}
		}
	}
}

func TestWhoIsNotHeardOfIsEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := single(t)
		r := open(t, registry.Settings{Store: s, Evicts: true, Preserve: 15})
		other := open(t, registry.Settings{Store: s, Evicts: true, Preserve: 15})
		other.Use()
		fleet(t, r, 100)
		beat(t, r, 6, 100, time.Minute)
		if n := len(other.Instances("users")); n != 94 || r.Summary().Evicted+other.Summary().Evicted < 6 {
			t.Errorf("%d are left, %+v", n, r.Summary())
		}
		if r.Summary().Instances != 94 || !r.Summary().Preserving.IsZero() {
			t.Errorf("%+v", r.Summary())
		}
	})
}

func TestOfTwoOneMayGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, registry.Settings{Store: single(t), Evicts: true, Preserve: 15})
		fleet(t, r, 2)
		beat(t, r, 1, 2, time.Minute)
		if got := seen(r, "users"); got != "u001=up" {
			t.Errorf("got %q", got)
		}
		time.Sleep(10 * time.Minute) // the last one is silent as well
		if got := seen(r, "users"); got != "u001=up" && got != "" {
			t.Errorf("got %q", got)
		}
	})
}

func TestTooManyAtOnceAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, registry.Settings{Store: single(t), Evicts: true, Preserve: 15})
		fleet(t, r, 100)
		beat(t, r, 30, 100, 5*time.Minute)
		sum := r.Summary()
		if sum.Instances != 100 || sum.Preserving.IsZero() || sum.Overdue != 30 || sum.Leases != 100 {
			t.Errorf("%+v", sum)
		}
		// Their heartbeats get through again, but for those of three.
		beat(t, r, 3, 100, time.Minute)
		if sum = r.Summary(); sum.Instances != 97 || !sum.Preserving.IsZero() || sum.Overdue != 0 {
			t.Errorf("%+v", sum)
		}
	})
}

// Leases that end one after the other must not slip through one by one.
func TestSilenceOfAllEvictsFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, registry.Settings{Store: single(t), Evicts: true, Preserve: 15})
		fleet(t, r, 100)
		for i := range 100 {
			if err := r.Heartbeat(t.Context(), "users", fmt.Sprintf("u%03d", i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(time.Hour)
		if n := len(r.Instances("users")); n < 80 {
			t.Errorf("%d of 100 are left, %+v", n, r.Summary())
		}
	})
}

func TestWithoutPreservationAllMayGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, registry.Settings{Store: single(t), Evicts: true})
		fleet(t, r, 20)
		time.Sleep(time.Minute)
		if n := len(r.Instances("users")); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

func TestAnEmptiedStoreEmptiesNoCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMoody(t)
		r := open(t, registry.Settings{Store: s, Evicts: true, Preserve: 15})
		reader := open(t, registry.Settings{Store: s, Preserve: 15})
		static := instance("legacy", "l1")
		static.TTL = 0
		register(t, r, static)
		fleet(t, r, 40)
		if _, err := r.Override(t.Context(), "users", "u039", registry.Drain, registry.Expect{}); err != nil {
			t.Fatal(err)
		}
		sees(t, reader, "legacy", "l1=up")
		s.empty(t)
		time.Sleep(20 * time.Second)
		for _, x := range []*registry.Registry{r, reader} {
			if sum := x.Summary(); sum.Instances != 41 || sum.Missing < 40 {
				t.Errorf("%+v", sum)
			}
		}
		// All but one come back by themselves; what was drained stays so.
		beat(t, r, 1, 40, 2*time.Minute)
		for _, x := range []*registry.Registry{r, reader} {
			if sum := x.Summary(); sum.Instances != 40 || sum.Missing != 0 || sum.Static != 1 {
				t.Errorf("%+v", sum)
			}
			if e := x.Get("users", "u039"); e == nil || e.Effective() != registry.Drain {
				t.Errorf("got %+v", e)
			}
		}
		// If nobody comes back, it looks like the store's fault, but not for ever.
		s.empty(t)
		time.Sleep(30 * time.Minute)
		if sum := reader.Summary(); sum.Instances != 40 || sum.Missing != 39 {
			t.Errorf("%+v", sum)
		}
		time.Sleep(time.Hour)
		if sum := reader.Summary(); sum.Instances != 1 {
			t.Errorf("%+v", sum)
		}
	})
}
