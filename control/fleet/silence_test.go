package fleet_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/revision"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

func TestANodeThatFellSilentIsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		a := join(t, "a", s, options{})
		ring := revision.Keyring{a.key.Public()}
		gateway := func(name string) (*member, *mute) {
			time.Sleep(1300 * time.Millisecond) // not in step with the first
			store := &mute{Store: s}
			return join(t, name, store, options{gateway: true, trusted: ring}), store
		}
		b, lost := gateway("b")
		c, _ := gateway("c")
		says := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			if got := a.alarms(); got != want {
				t.Errorf("it says %q, want %q", got, want)
			}
		}
		a.publish("one")
		says(time.Minute, "")
		c.leave()
		says(5*time.Minute, "") // who says goodbye is not missed
		lost.on.Store(true)     // as if it had been killed
		says(5*time.Second, "")
		says(20*time.Second, "b silent")
		lost.on.Store(false)
		says(10*time.Second, "")

		// Killed for good: within the hour somebody should have looked.
		lost.on.Store(true)
		says(50*time.Minute, "b silent")
		says(15*time.Minute, "")
		b.leave()
		a.leave()
	})
}

func TestAStoreThatWasAwaySilencesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		own := &mute{Store: s}
		a := join(t, "a", own, options{})
		time.Sleep(1300 * time.Millisecond)
		away := &mute{Store: s}
		b := join(t, "b", away, options{gateway: true, trusted: revision.Keyring{a.key.Public()}})
		a.publish("one")
		time.Sleep(time.Minute)
		own.blind.Store(true)
		away.on.Store(true)
		time.Sleep(time.Minute)
		own.blind.Store(false)
		for i := range 30 {
			time.Sleep(time.Second)
			if got := a.alarms(); got != "" {
				t.Errorf("%d s after it: %q", i, got)
			}
			if i == 7 { // b finds out later
				away.on.Store(false)
			}
		}
		b.leave()
		a.leave()
	})
}

// mute is a store that does not hear what is written, or cannot be listed.
type mute struct {
	store.Store
	on, blind atomic.Bool
}

func (m *mute) Put(ctx context.Context, folder, name string, data []byte, ttl time.Duration) error {
	if m.on.Load() {
		return nil
	}
	return m.Store.Put(ctx, folder, name, data, ttl)
}

func (m *mute) List(ctx context.Context, folder string) ([]store.Value, error) {
	if m.blind.Load() {
		return nil, errAway
	}
	return m.Store.List(ctx, folder)
}
