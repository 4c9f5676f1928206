package config_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatehouse-proxy/gatehouse/config"
)

// The cost must grow with the number of routes, not with its square: one config
// of 4000 may take about as long as 16 of 250, and the square would take 16
// times that. What other programs do must not decide: the clock counts this
// thread's CPU, and whoever stays above the bound is measured again and again
// before it counts.
func TestTimeGrowsWithRoutes(t *testing.T) {
	f := func(name string, make func(n int) []byte, valid bool) {
		t.Run(name, func(t *testing.T) {
			least := func(n, times int, at time.Duration) time.Duration {
				data := make(n)
				for range 3 {
					before := threadCPU(t)
					for range times {
						if _, _, err := config.Parse(data, "in.yaml", kinds(), config.Options{}); (err == nil) != valid {
							t.Fatal(err)
						}
					}
					at = min(at, max(threadCPU(t)-before, time.Millisecond))
				}
				return at
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			small, large := time.Hour, time.Hour
			for range 10 {
				small, large = least(250, 16, small), least(4000, 1, large)
				if large <= 8*small {
					return
				}
			}
			t.Fatalf("16 of 250 take %v, one of 4000 takes %v of CPU", small, large)
		})
	}
	f("routes", manyRoutes, true)
	f("routes with one host", func(n int) []byte {
		return []byte(strings.ReplaceAll(string(manyRoutes(n)), "hosts: [a", "hosts: [same.test] #"))
	}, true)
	f("routes that are all the same", func(n int) []byte {
		var b strings.Builder
		b.WriteString("routes:\n")
		for i := range n {
			fmt.Fprintf(&b, "  r%d: {respond: {}}\n", i)
		}
		return []byte(b.String())
	}, false)
	f("unknown upstreams", func(n int) []byte {
		return []byte(strings.ReplaceAll(string(manyRoutes(n)), "{upstream: u", "{upstream: nope"))
	}, false)
	f("hosts in one route", func(n int) []byte {
		return []byte("routes: {r: {respond: {}, match: {hosts: [a" + strings.Repeat(", a", n) + "]}}}\n")
	}, false)
}

func threadCPU(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
