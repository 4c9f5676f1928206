package secrets_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// silent is a store that does not tell of changes, as one does not that is emptied.
type silent struct{ store.Store }

// Watch implements store.Store.
func (silent) Watch(ctx context.Context, _ func(topic string)) error {
	<-ctx.Done()
	return ctx.Err()
}

// empty removes all that the store has.
func empty(t *testing.T, s store.Store) {
	t.Helper()
	for _, folder := range []string{"secrets", "order-locks"} {
		list, err := s.List(t.Context(), folder)
		for _, v := range list {
			err = errors.Join(err, s.Delete(t.Context(), folder, v.Name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever holds a lock keeps it when the store is emptied, whichever node finds
// that first and puts the ID of the key back.
func TestALockOutlivesTheStore(t *testing.T) {
	for late := time.Duration(0); late < 4*time.Second; late += 370 * time.Millisecond {
		bubble(t, func(t *testing.T, s store.Store) {
			var nodes []*holder
			for _, name := range []string{"a", "b", "c"} {
				nodes = append(nodes, hold(t, silent{s}, name, secret))
				defer nodes[len(nodes)-1].end()
				time.Sleep(330 * time.Millisecond) // they do not ask in step
			}
			if err := nodes[2].shared.Replace(t.Context(), "entry", nil, []byte("x"), 0); err != nil {
				t.Fatal(err)
			}
			held, unlock, err := nodes[0].shared.Lock(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			got := make(chan func(), 1)
			go func() {
				_, unlock, err := nodes[1].shared.Lock(t.Context(), "x")
				if err != nil {
					t.Error(err)
				}
				got <- unlock
			}()
			time.Sleep(3*time.Second + late)
			synctest.Wait()
			empty(t, s)
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(got) > 0 || held.Err() != nil {
				t.Errorf("emptied %v later, it is another node's: %v", late, context.Cause(held))
			}
			unlock()
			select {
			case unlock := <-got:
				unlock()
			case <-time.After(time.Minute):
				t.Error("a lock that was given back is nobody's")
			}
		})
	}
}
