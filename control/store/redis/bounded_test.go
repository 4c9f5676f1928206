package redis_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
)

// Whoever can write to Redis must not be able to fill the memory of every node
// that reads what is shared.
func TestAnAnswerIsBounded(t *testing.T) {
	server := redistest.Start(t)
	st, _ := open(t, redis.Settings{Addresses: []string{server.Address}, MaxAnswer: 1 << 20, MaxLeases: 10})
	ctx, p := t.Context(), t.Name()+":"
	malformed := func(doing string, err error, why string) {
		t.Helper()
		if !errors.Is(err, store.ErrMalformed) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: got %v, want %q", doing, err, why)
		}
	}
	if err := st.Register(ctx, "good", []byte("x"), time.Minute); err != nil {
		t.Fatal(err)
	}
	_, at, err := st.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	huge := strings.Repeat("x", 2<<20)
	server.Do(t, "HSET", p+"{leases}:data", "good", huge)
	_, _, err = st.Snapshot(ctx)
	malformed("a huge lease", err, "more than 1048576 bytes")
	_, err = st.Lease(ctx, "good")
	malformed("a huge lease by its ID", err, "more than 1048576 bytes")
	server.Do(t, "XADD", p+"{leases}:changes", "2-0", "+", "good", "mark", huge)
	_, _, err = st.Changes(ctx, at)
	malformed("a huge change", err, "more than 1048576 bytes")
	server.Do(t, "DEL", p+"{leases}:data", p+"{leases}:changes")
	for i := range 11 {
		server.Do(t, "HSET", p+"{leases}:data", i, "x")
	}
	_, _, err = st.Snapshot(ctx)
	malformed("many leases", err, "{leases}:data has 11 entries")
	server.Do(t, "DEL", p+"{leases}:data")
	for i := range 11 {
		server.Do(t, "ZADD", p+"{leases}:ends", 1, i)
	}
	_, _, err = st.Snapshot(ctx)
	malformed("the ends of many leases", err, "{leases}:ends has")

	for i := range 300 { // more than are read at once
		if err := st.Put(ctx, "f", fmt.Sprint("v", i), []byte(huge[:3900]), 0); err != nil {
			t.Fatal(err)
		}
	}
	_, err = st.List(ctx, "f")
	malformed("many values", err, "the values of f have more than")
	// What is under the bound is read by the same client as ever.
	if err := st.Put(ctx, "g", "a", []byte(huge[:1000<<10]), 0); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if list, err := st.List(ctx, "g"); err != nil || len(list) != 1 || len(list[0].Data) != 1000<<10 {
			t.Errorf("%d values, %v", len(list), err)
		}
	}
}
