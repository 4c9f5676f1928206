package limits

import (
	"fmt"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// TestUsage: what was used can be seen by another node and taken back, in either
// store.
func TestUsage(t *testing.T) {
	server := redistest.Start(t)
	for name, open := range map[string]func() store.Limits{
		"a file": func() store.Limits { return newFake(t).Limits },
		"Redis": func() store.Limits {
			s := redis.New(redis.Settings{Addresses: []string{server.Address}, Timeout: time.Minute})
			t.Cleanup(func() { _ = s.Close() })
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open()
			a, b := node(s, nil, ample), node(s, nil, ample)
			defer a.Close()
			defer b.Close()
			in := noon()
			q := quotaOf(t, a, ratelimit.QuotaSettings{Name: "q", Location: in, Leased: true})
			for range 7 {
				if u := use(q, 100, 0, 2); !u.Allowed {
					t.Fatalf("%+v", u)
				}
			}
			used := func(n *Limits, who ...string) []Usages {
				t.Helper()
				list, err := n.Used(t.Context(), "q", in, who)
				if err != nil {
					t.Fatal(err)
				}
				return list
			}
			settled := func() {
				t.Helper()
				eventually(t, "no lease is under way", func() bool {
					for _, x := range q.(*quota).all() {
						x.mu.Lock()
						asking := x.periods[0].asking
						x.mu.Unlock()
						if asking {
							return false
						}
					}
					return true
				})
			}
			settled()
			if u := used(a, "bob", "ann"); u[1][0].Used != 14 || u[1][1].Used != 0 || u[0][0].Used != 0 || !u[1][0].Reset.After(time.Now()) {
				t.Errorf("%+v", u)
			}
			if u := used(b, "ann"); u[0][0].Used < 14 {
				t.Errorf("another node tells less: %+v", u)
			}
			var many []string
			for i := range 3 * part / 2 {
				many = append(many, fmt.Sprint("c", i))
			}
			if u := used(b, append(many, "ann")...); len(u) != len(many)+1 || u[len(many)][0].Used < 14 || u[0][0].Used != 0 {
				t.Errorf("%d usages, the last is %+v", len(u), u[len(u)-1])
			}
			known := 0
			if a.Known("q", in, func(who string) { known++ }); known != 1 {
				t.Errorf("%d are known", known)
			}
			if err := a.Forgive(t.Context(), "q", in, "ann", [2]int64{4, 5}); err != nil {
				t.Fatal(err)
			}
			if u := used(a, "ann"); u[0][0].Used != 10 || u[0][1].Used != 0 {
				t.Errorf("%+v", u)
			}
			if err := a.Forgive(t.Context(), "q", in, "ann", [2]int64{-1, -1}); err != nil {
				t.Fatal(err)
			}
			if u := used(a, "ann"); u[0][0].Used != 0 {
				t.Errorf("%+v", u)
			}
			for used := 0; use(q, 100, 0, 1).Allowed; used++ {
				if used > 100 {
					t.Fatal("more is granted than there is")
				}
			}
			settled()
			if err := a.Forgive(t.Context(), "q", in, "ann", [2]int64{1, 0}); err != nil {
				t.Fatal(err)
			}
			if u := use(q, 100, 0, 1); !u.Allowed {
				t.Errorf("what was granted anew is refused: %+v", u)
			}
		})
	}
}
