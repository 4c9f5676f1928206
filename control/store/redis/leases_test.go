package redis_test

import (
	"errors"
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
