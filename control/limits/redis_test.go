package limits

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// ample is a deadline that no busy machine misses.
const ample = time.Minute

// fleetOf connects nodes to a server, each with a client of its own.
func fleetOf(t testing.TB, server *redistest.Server, nodes int, deadline time.Duration) []*Limits {
	t.Helper()
	var live atomic.Int64
	live.Store(int64(nodes))
	list := make([]*Limits, nodes)
	for i := range list {
		s := redis.New(redis.Settings{Addresses: []string{server.Address}, Timeout: time.Minute})
		n := node(s, &live, deadline)
		list[i] = n
		t.Cleanup(func() {
			n.Close()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return list
}

func limitersOf(t testing.TB, fleet []*Limits, s ratelimit.SharedSettings) []ratelimit.Limiter {
	t.Helper()
	list := make([]ratelimit.Limiter, len(fleet))
	for i, n := range fleet {
		list[i] = limiter(t, n, s)
	}
	return list
}

func TestAFleetOnRealRedis(t *testing.T) {
	server := redistest.Start(t)
	t.Run("exact grants the burst and no more", func(t *testing.T) {
		fleet := fleetOf(t, server, 4, ample)
		list := limitersOf(t, fleet, ratelimit.SharedSettings{Name: t.Name(), Windows: per(1, 1000, 10*time.Hour)})
		var granted [4]atomic.Int64
		together(4, 400, func(i int) {
			if d := take(t, list[i], "k", 1); d.Source != ratelimit.Store {
				t.Errorf("%+v", d)
			} else if d.Allowed {
				granted[i].Add(1)
			}
		})
		sum := int64(0)
		for i := range granted {
			sum += granted[i].Load()
		}
		if sum != 1000 {
			t.Errorf("%d of 1600 requests granted, want 1000", sum)
		}
	})
	t.Run("leased keeps its bound", func(t *testing.T) {
		const burst, rate, nodes = 2000, 1000, 4
		fleet := fleetOf(t, server, nodes, ample)
		list := limitersOf(t, fleet, ratelimit.SharedSettings{Name: t.Name(), Windows: per(rate, burst, time.Second), Leased: true})
		life := time.Duration(list[0].(*leased).life)
		if life != burst*time.Second/rate/leasePart {
			t.Fatalf("a lease is good for %v", life)
		}
		var granted, asked atomic.Int64
		began := time.Now()
		together(nodes, 8000, func(i int) {
			asked.Add(1)
			if take(t, list[i], "k", 1).Allowed {
				granted.Add(1)
			}
		})
		took := time.Since(began)
		most := burst + int64((took+life).Seconds()*rate) + 1
		if n := granted.Load(); n > most || n < burst/holdings {
			t.Errorf("%d of %d granted in %v, at most %d should be", n, asked.Load(), took, most)
		}
		// What was leased and not spent lapses: nothing is lost for good.
		eventually(t, "the whole burst is there again", func() bool {
			return take(t, list[0], "k", burst-1).Allowed
		})
	})
	t.Run("limits are apart", func(t *testing.T) {
		n := fleetOf(t, server, 1, ample)[0]
		one := limiter(t, n, ratelimit.SharedSettings{Name: "one", Windows: per(1, 1, time.Hour)})
		two := limiter(t, n, ratelimit.SharedSettings{Name: "two", Windows: per(1, 1, time.Hour)})
		changed := limiter(t, n, ratelimit.SharedSettings{Name: "one", Windows: per(1, 1, 2*time.Hour)})
		for _, l := range []ratelimit.Limiter{one, two, changed} {
			for i, key := range []string{"a", "b", "a"} {
				if d := take(t, l, key, 1); d.Allowed != (i < 2) {
					t.Errorf("key %s: %+v", key, d)
				}
			}
		}
	})
}

// TestFaultsOfRealRedis: whatever happens to Redis, every request gets an answer
// at once, and the fleet's limit holds again when it is over.
func TestFaultsOfRealRedis(t *testing.T) {
	faults := []struct {
		name        string
		begin, over func(t *testing.T, s *redistest.Server)
	}{
		{"paused", func(t *testing.T, s *redistest.Server) { s.Pause(t) }, func(t *testing.T, s *redistest.Server) { s.Resume(t) }},
		{"killed", func(t *testing.T, s *redistest.Server) { s.Kill(t) }, func(t *testing.T, s *redistest.Server) { s.Run(t) }},
		{
			"a replica", func(t *testing.T, s *redistest.Server) { s.Do(t, "REPLICAOF", "127.0.0.1", "1") },
			func(t *testing.T, s *redistest.Server) { s.Do(t, "REPLICAOF", "NO", "ONE") },
		},
		{
			"out of memory", func(t *testing.T, s *redistest.Server) { s.Do(t, "CONFIG", "SET", "maxmemory", "1") },
			func(t *testing.T, s *redistest.Server) { s.Do(t, "CONFIG", "SET", "maxmemory", "0") },
		},
		{
			"without its scripts", func(t *testing.T, s *redistest.Server) { s.Do(t, "SCRIPT", "FLUSH", "SYNC") },
			func(*testing.T, *redistest.Server) {},
		},
	}
	server := redistest.Start(t)
	fleet := fleetOf(t, server, 3, 250*time.Millisecond)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			exact := limitersOf(t, fleet, ratelimit.SharedSettings{Name: t.Name(), Windows: per(1, 30, 10*time.Hour)})
			leased := limitersOf(t, fleet, ratelimit.SharedSettings{Name: t.Name() + " leased", Windows: per(1, 30, 10*time.Hour), Leased: true})
			eventually(t, "the store is asked", func() bool {
				for _, l := range exact {
					if take(t, l, "before", 1).Source != ratelimit.Store {
						return false
					}
				}
				return true
			})
			f.begin(t, server)
			var slowest atomic.Int64
			var granted [2]atomic.Int64
			together(3, 200, func(i int) {
				for j, l := range []ratelimit.Limiter{exact[i], leased[i]} {
					began := time.Now()
					if take(t, l, "during", 1).Allowed {
						granted[j].Add(1)
					}
					slowest.Store(max(slowest.Load(), int64(time.Since(began))))
				}
			})
			// Of a burst of 30 the store has granted at most that, and then each node
			// its part of 10.
			for j := range granted {
				if n := granted[j].Load(); n < 20 || n > 60 {
					t.Errorf("%d granted of a burst of 30", n)
				}
			}
			if time.Duration(slowest.Load()) > time.Minute {
				t.Errorf("a request waited %v", time.Duration(slowest.Load()))
			}
			f.over(t, server)
			for i, n := range fleet {
				eventually(t, fmt.Sprintf("node %d asks the store again", i), func() bool { return !n.health.away() })
			}
			try := 0
			eventually(t, "the store alone decides", func() bool { // on a busy machine a node's part applies
				try++
				sum, alone := 0, true
				for i := range 60 {
					d := take(t, exact[i%3], fmt.Sprint("after", try), 1)
					if alone = alone && d.Source == ratelimit.Store; d.Allowed {
						sum++
					}
				}
				if alone && sum != 30 {
					t.Errorf("%d granted of a burst of 30, when it was over", sum)
				}
				return alone
			})
		})
	}
}

func TestWrongDataUnderOurKeysIsPutRight(t *testing.T) {
	server := redistest.Start(t)
	n := fleetOf(t, server, 1, ample)[0]
	l := limiter(t, n, ratelimit.SharedSettings{Windows: per(1, 3, 10*time.Hour)})
	take(t, l, "k", 1)
	var keys []string
	for _, k := range server.Do(t, "KEYS", "*limit*").([]any) {
		keys = append(keys, k.(string))
	}
	if len(keys) != 1 {
		t.Fatalf("keys: %v", keys)
	}
	for _, wrong := range [][]any{{"SET", keys[0], "many"}, {"SADD", keys[0], "x"}, {"SET", keys[0], "nan"}} {
		server.Do(t, "DEL", keys[0])
		server.Do(t, wrong...)
		if d := take(t, l, "k", 1); !d.Allowed || d.Source != ratelimit.Store || d.Remaining != 2 || n.health.away() {
			t.Errorf("%v: %+v", wrong, d)
		}
	}
}

// BenchmarkExact measures many requests at once against a real server; what
// counts is the process' CPU, which bench/ measures too.
func BenchmarkExact(b *testing.B) {
	server := redistest.Start(b)
	n := fleetOf(b, server, 1, ample)[0]
	l := limiter(b, n, ratelimit.SharedSettings{Windows: per(1_000_000_000, 1_000_000, time.Second)})
	b.ReportAllocs()
	b.SetParallelism(32)
	began := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		var d ratelimit.Decision
		for pb.Next() {
			_ = l.Take([]byte("192.0.2.1"), 1, &d)
		}
	})
	b.ReportMetric(float64(cpu(b)-began)/float64(b.N), "cpu-ns/op")
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
