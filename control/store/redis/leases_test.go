package redis_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
)

// A failover can lose the last changes; others then get their numbers.
func TestChangesThatAFailoverHasLostAreAGap(t *testing.T) {
	server := redistest.Start(t)
	st, _ := open(t, redis.Settings{Addresses: []string{server.Address}})
	ctx, stream := t.Context(), t.Name()+":{leases}:changes"
	for _, id := range []string{"a", "b"} {
		if err := st.Register(ctx, id, []byte("x"), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	_, at, err := st.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if list, _, err := st.Changes(ctx, at); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
	server.Do(t, "XDEL", stream, "2-0")
	if _, _, err := st.Changes(ctx, at); !errors.Is(err, store.ErrGap) {
		t.Errorf("the last change is not there: %v", err)
	}
	if err := st.Register(ctx, "c", []byte("x"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, _, err := st.Changes(ctx, at); !errors.Is(err, store.ErrGap) {
		t.Errorf("the last change is another one: %v", err)
	}
}

// Whatever somebody else does to the stream, what changes is still taken down.
func TestAStreamThatCannotGoOnBeginsAnew(t *testing.T) {
	server := redistest.Start(t)
	for name, spoil := range map[string]func(stream string){
		"the last number there is": func(stream string) {
			server.Do(t, "XADD", stream, "18446744073709551615-18446744073709551615", "+", "a")
		},
		"a number that is too large to count on": func(stream string) {
			server.Do(t, "XADD", stream, "9007199254740993-0", "+", "a")
		},
		"an entry removed": func(stream string) { server.Do(t, "XDEL", stream, "2-0") },
		"all removed":      func(stream string) { server.Do(t, "XTRIM", stream, "MAXLEN", "0") },
	} {
		t.Run(name, func(t *testing.T) {
			st, _ := open(t, redis.Settings{Addresses: []string{server.Address}})
			prefix := strings.NewReplacer("/", "-", "#", "-").Replace(t.Name())
			ctx := t.Context()
			register := func(id string) {
				t.Helper()
				if err := st.Register(ctx, id, []byte("x"), time.Hour); err != nil {
					t.Fatal(err)
				}
			}
			register("a")
			register("b")
			_, at, err := st.Snapshot(ctx)
			if err != nil {
				t.Fatal(err)
			}
			spoil(prefix + ":{leases}:changes")
			register("c")
			if _, _, err := st.Changes(ctx, at); !errors.Is(err, store.ErrGap) {
				t.Errorf("got %v, want a gap", err)
			}
			list, at, err := st.Snapshot(ctx)
			if err != nil || len(list) != 3 {
				t.Fatalf("%d leases, %v", len(list), err)
			}
			if err := st.Cancel(ctx, "a"); err != nil {
				t.Fatal(err)
			}
			if changes, _, err := st.Changes(ctx, at); err != nil || len(changes) != 1 || !changes[0].Removed {
				t.Errorf("%v, %v", changes, err)
			}
		})
	}
}
