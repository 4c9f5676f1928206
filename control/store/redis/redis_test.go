package redis_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/control/store/storetest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// open gives every call a prefix of its own, which makes it an empty store.
func open(t *testing.T, s redis.Settings) (store.Store, func() store.Store) {
	t.Helper()
	if s.Timeout == 0 {
		s.Timeout = 30 * time.Second // longer than any delay of a busy machine
	}
	s.Prefix = strings.NewReplacer("/", "-", "#", "-").Replace(t.Name())
	again := func() store.Store {
		x := redis.New(s)
		t.Cleanup(func() {
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		})
		return x
	}
	return again(), again
}

func TestContractWithOneServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	storetest.Run(t, func(t *testing.T) (store.Store, func() store.Store) {
		return open(t, redis.Settings{Addresses: []string{server.Address}})
	})
}

func TestContractWithSentinels(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinels(t)
	storetest.Run(t, func(t *testing.T) (store.Store, func() store.Store) {
		return open(t, redis.Settings{Addresses: s.Addresses, Sentinel: redistest.Name})
	})
}

func TestContractWithCluster(t *testing.T) {
	t.Parallel()
	list := redistest.StartCluster(t)
	storetest.Run(t, func(t *testing.T) (store.Store, func() store.Store) {
		return open(t, redis.Settings{Addresses: []string{list[0].Address, list[1].Address}, Cluster: true})
	})
}

// A revision of which Publish said that it is published survives its primary.
func TestPublishedRevisionsSurviveAFailover(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinels(t)
	st, _ := open(t, redis.Settings{Addresses: s.Addresses, Sentinel: redistest.Name})
	for n := uint64(1); n <= 20; n++ {
		if err := st.Publish(t.Context(), &store.Revision{Number: n, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	s.Servers[0].Kill(t)
	st, _ = open(t, redis.Settings{Addresses: s.Addresses, Sentinel: redistest.Name, Timeout: 2 * time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		err := st.Publish(ctx, &store.Revision{Number: 21})
		if err == nil {
			break
		}
		if errors.Is(err, store.ErrConflict) {
			if n, _ := st.Latest(ctx); n == 21 { // ours, whose answer was lost
				break
			}
			t.Fatal(err)
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if r, err := st.Revision(ctx, 20); err != nil || string(r.Data) != "x" {
		t.Errorf("%v, %v", r, err)
	}
}

func TestWatchTellsThatItMayHaveMissedSomething(t *testing.T) {
	server := redistest.Start(t)
	st, _ := open(t, redis.Settings{Addresses: []string{server.Address}})
	topics := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- st.Watch(ctx, func(topic string) { topics <- topic }) }()
	for told := false; !told; {
		if err := st.Put(ctx, "f", "a", nil, 0); err != nil {
			t.Fatal(err)
		}
		select {
		case topic := <-topics:
			told = topic == "f"
		case <-time.After(50 * time.Millisecond):
		}
	}
	for len(topics) > 0 {
		<-topics
	}
	server.Kill(t)
	server.Run(t)
	late := time.After(time.Minute)
	for told := false; !told; { // of a write before that it may hear only now
		select {
		case topic := <-topics:
			told = topic == ""
		case <-late:
			t.Fatal("not told")
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFaultsAreNamed(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "right")
	settings := func(password string) redis.Settings {
		return redis.Settings{Addresses: []string{server.Address}, Password: password}
	}
	for _, c := range []struct {
		name, want string
		s          redis.Settings
	}{
		{"wrong password", "refuses the user or the password", settings("wrong")},
		{"no password", "refuses the user or the password", settings("")},
		{"nobody there", "refused", redis.Settings{Addresses: []string{"127.0.0.1:1"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			st, _ := open(t, c.s)
			for doing, err := range map[string]error{
				"ping":    st.Ping(t.Context()),
				"publish": st.Publish(t.Context(), &store.Revision{Number: 1}),
			} {
				if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
					t.Errorf("%s: %v", doing, err)
				}
			}
			if _, err := st.Latest(t.Context()); err == nil {
				t.Error("no latest revision is not an answer of a store that did not answer")
			}
		})
	}
	t.Run("paused", func(t *testing.T) {
		s := settings("right")
		s.Timeout = 300 * time.Millisecond
		st, _ := open(t, s)
		for st.Ping(t.Context()) != nil { // a busy machine takes longer
		}
		server.Pause(t)
		defer server.Resume(t)
		if err := st.Ping(t.Context()); err == nil {
			t.Error("a paused server answered")
		}
	})
}

func TestWrongDataUnderOurKeys(t *testing.T) {
	server := redistest.Start(t)
	st, _ := open(t, redis.Settings{Addresses: []string{server.Address}})
	ctx, p := t.Context(), t.Name()+":"
	server.Do(t, "SET", p+"{revisions}:latest", "three")
	server.Do(t, "SET", p+"{revisions}:1", "a string")
	server.Do(t, "HSET", p+"{revisions}:2", "head", "{}", "data", "x")
	server.Do(t, "LPUSH", p+"{values:f}:value:a", "x")
	_, latest := st.Latest(ctx)
	server.Do(t, "SET", p+"{revisions}:latest", "18446744073709551615")
	_, huge := st.Latest(ctx)
	server.Do(t, "SET", p+"{revisions}:latest", "three")
	_, one := st.Revision(ctx, 1)
	_, two := st.Revision(ctx, 2)
	_, get := st.Get(ctx, "f", "a")
	for doing, err := range map[string]error{
		"latest": latest, "a latest that nothing can follow": huge, "a revision that is a string": one, "a revision without a number": two, "a value": get,
		"publish": st.Publish(ctx, &store.Revision{Number: 4}),
	} {
		if !errors.Is(err, store.ErrMalformed) {
			t.Errorf("%s: got %v", doing, err)
		}
	}
}

// What somebody else has put under our keys must not fill the memory of nodes.
func TestHugeValuesAreNotRead(t *testing.T) {
	server := redistest.Start(t)
	st, _ := open(t, redis.Settings{Addresses: []string{server.Address}})
	ctx, p := t.Context(), t.Name()+":"
	if err := st.Put(ctx, "f", "small", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if err := st.Put(ctx, "f", "huge", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	server.Do(t, "SETRANGE", p+"{values:f}:value:huge", store.MaxValue, "x")
	if _, err := st.Get(ctx, "f", "huge"); !errors.Is(err, store.ErrMalformed) || !strings.Contains(err.Error(), "value:huge has more than") {
		t.Errorf("got %v", err)
	}
	list, err := st.List(ctx, "f")
	if err != nil || len(list) != 2 || list[0].Name != "huge" || len(list[0].Data) != 0 || string(list[1].Data) != "x" {
		t.Errorf("%d, %v", len(list), err)
	}
	if err := st.Publish(ctx, &store.Revision{Number: 1, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	huge := strings.Repeat("x", 1<<20)
	server.Do(t, "HSET", p+"{revisions}:1", "head", huge)
	if _, err := st.Revision(ctx, 1); !errors.Is(err, store.ErrMalformed) || !strings.Contains(err.Error(), "has 1048576 bytes") {
		t.Errorf("got %v", err)
	}
}

// old speaks as a Redis before 7 does.
func old(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				r := bufio.NewScanner(c)
				for r.Scan() {
					switch word := strings.ToUpper(r.Text()); word {
					case "HELLO":
						_, err = io.WriteString(c, "-ERR unknown command `HELLO`\r\n")
					case "CLIENT", "AUTH":
						_, err = io.WriteString(c, "+OK\r\n")
					case "INFO":
						const info = "# Server\r\nredis_version:5.0.14\r\nredis_mode:standalone\r\n"
						_, err = fmt.Fprintf(c, "$%d\r\n%s\r\n", len(info), info)
					}
					if err != nil {
						return
					}
				}
			})
		}
	})
	return l.Addr().String()
}

func TestAnOldServerIsRefused(t *testing.T) {
	st, _ := open(t, redis.Settings{Addresses: []string{old(t)}})
	_, err := st.Latest(t.Context())
	if err == nil || !strings.Contains(err.Error(), "this is Redis 5.0.14; version 7 or later is needed") {
		t.Errorf("got %v", err)
	}
}

// TestWrongDataUnderLimits: what is not a bucket, counter or set of places is
// none, and is put right by the next who asks.
func TestWrongDataUnderLimits(t *testing.T) {
	server := redistest.Start(t)
	st, _ := open(t, redis.Settings{Addresses: []string{server.Address}})
	ctx, p := t.Context(), t.Name()+":"
	write := map[string]func(key string){
		"a text":       func(key string) { server.Do(t, "SET", key, "many") },
		"other times":  func(key string) { server.Do(t, "SET", key, "1 2 3") },
		"no number":    func(key string) { server.Do(t, "SET", key, "nan") },
		"far too much": func(key string) { server.Do(t, "SET", key, "inf") },
		"long ago":     func(key string) { server.Do(t, "SET", key, "-1e300") },
		"a huge one":   func(key string) { server.Do(t, "SET", key, "99999999999999999999999999") },
		"a list":       func(key string) { server.Do(t, "LPUSH", key, "x") },
		"a hash":       func(key string) { server.Do(t, "HSET", key, "x", "1", "y", "-1 5", "z", "99999999999 99999999999999") },
	}
	second := []store.Bucket{{Interval: 5 * time.Millisecond, Burst: 2}}
	for name, put := range write {
		for _, key := range []string{"{limit:k}:full", "{count:k}:sum", "{hold:k}:owners"} {
			server.Do(t, "DEL", p+key)
			put(p + key)
		}
		n, took := 0, time.Now()
		for n < 3 && time.Since(took) < time.Minute { // full at once, or after its burst
			out, err := st.Take(ctx, []store.Take{{Key: "k", Buckets: second, Cost: 1}})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			n += int(out[0].Got)
		}
		if n != 3 {
			t.Errorf("%s: a bucket never fills again", name)
		}
		for range 2 {
			if out, err := st.Take(ctx, []store.Take{{Key: "k", Buckets: []store.Bucket{{Interval: time.Hour, Burst: 2}, second[0]}, Cost: 3}}); err != nil || out[0].Got != 0 {
				t.Errorf("%s: %+v, %v", name, out, err)
			}
		}
		if out, err := st.Count(ctx, []store.Count{{Key: "k", N: 2, Limit: 2, End: time.Now().Add(time.Hour)}}); err != nil || out[0].Added != 2 {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		if out, err := st.Hold(ctx, []store.Hold{{Key: "k", Owner: "o", Want: 2, Limit: 2, TTL: time.Hour}}); err != nil || out[0].Got != 2 {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
	}
}

func TestAServerThatIsFullOrAReplicaIsNotTakenForGood(t *testing.T) {
	server := redistest.Start(t)
	st, _ := open(t, redis.Settings{Addresses: []string{server.Address}})
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	if err := st.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "out of memory") {
		t.Errorf("got %v", err)
	}
	server.Do(t, "CONFIG", "SET", "maxmemory", "0")
	server.Do(t, "REPLICAOF", "127.0.0.1", "1")
	if err := st.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "replica") {
		t.Errorf("got %v", err)
	}
	server.Do(t, "REPLICAOF", "NO", "ONE")
	if err := st.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
