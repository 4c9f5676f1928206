package limits

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store/local"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

func quotaOf(t testing.TB, n *Limits, s ratelimit.QuotaSettings) ratelimit.Quota {
	t.Helper()
	if s.Name == "" {
		s.Name = t.Name()
	}
	q, err := n.Quota(s)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func use(q ratelimit.Quota, day, month int64, cost uint32) (u ratelimit.Used) {
	q.Take("ann", ratelimit.Allowance{Day: day, Month: month}, cost, &u)
	return u
}

func TestDaysAndMonthsOfTheCalendar(t *testing.T) {
	in, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, leased := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := node(newFake(t), nil, 0)
			q := quotaOf(t, n, ratelimit.QuotaSettings{Name: map[bool]string{true: "leased", false: "exact"}[leased], Location: in, Leased: leased})
			// Midnight UTC is 01:00 in Berlin: 23 hours are left of the day.
			drain := func(day, month int64) (got int64, last ratelimit.Used) {
				for range 200 {
					if last = use(q, day, month, 1); !last.Allowed {
						time.Sleep(2 * askAgain) // what was leased may still be on its way
						if last = use(q, day, month, 1); !last.Allowed {
							return got, last
						}
					}
					got++
				}
				return got, last
			}
			got, last := drain(40, 100)
			if got != 40 || last.Month || last.Limit != 40 || last.Remaining != 0 || last.Reset > 23*time.Hour || last.Reset < 22*time.Hour {
				t.Errorf("leased %v: %d units on the first day, %+v", leased, got, last)
			}
			if u := use(q, 60, 100, 1); !u.Allowed {
				t.Errorf("a larger plan has no more: %+v", u)
			}
			time.Sleep(23 * time.Hour)
			if got, _ = drain(40, 100); got != 40 {
				t.Errorf("%d units on the second day", got)
			}
			time.Sleep(24 * time.Hour)
			if got, last = drain(40, 100); got != 19 || !last.Month || last.Limit != 100 || last.Reset < 28*24*time.Hour {
				t.Errorf("%d units are left of the month, %+v", got, last)
			}
			if u := use(q, 0, 0, 5); !u.Allowed {
				t.Errorf("no limit: %+v", u)
			}
			time.Sleep(31 * 24 * time.Hour)
			if got, _ = drain(40, 100); got != 40 {
				t.Errorf("%d units in the next month", got)
			}
			if u := use(q, 5, 0, 6); u.Allowed {
				t.Errorf("more than there ever is: %+v", u)
			}
			n.Close()
		})
	}
}

// Every moment is in one day, and days follow each other, also where clocks are
// put forward or back at midnight.
func TestDaysWithoutMidnight(t *testing.T) {
	for _, name := range []string{"UTC", "Europe/Berlin", "America/Santiago", "America/Havana", "Asia/Beirut", "Atlantic/Azores", "Australia/Lord_Howe"} {
		in, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, days := range []int{366 + 365, 24} { // two years have so many days, and months
			began := time.Date(2020, 1, 1, 0, 0, 0, 0, in)
			keys := map[string]bool{}
			for now, over := began, began; now.Year() < 2022; now = now.Add(30 * time.Minute) {
				start, end := periodOf(i, now, in)
				if now.Before(start) || !now.Before(end) || !start.Equal(over) && !end.Equal(over) {
					t.Fatalf("%v is from %v to %v, where the one before has ended at %v", now, start, end, over)
				}
				if start.Equal(over) {
					over = end
				}
				keys[start.Format(periodNames[i])] = true
			}
			if len(keys) != days {
				t.Errorf("%s: %d counters, want %d", name, len(keys), days)
			}
		}
	}
}

func TestAQuotaOutlivesTheProcess(t *testing.T) {
	dir, in := t.TempDir(), noon()
	for i := range 3 {
		s, err := local.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		n := node(s, nil, ample)
		q := quotaOf(t, n, ratelimit.QuotaSettings{Location: in, Leased: true})
		for range 10 {
			use(q, 0, 100, 1)
		}
		// What was leased and not spent has been given back.
		n.Close()
		out, err := s.Count(t.Context(), nil)
		if err != nil || len(out) != 0 {
			t.Fatal(out, err)
		}
		m := New(Settings{Store: s, Deadline: ample})
		u := use(quotaOf(t, m, ratelimit.QuotaSettings{Location: in}), 0, 100, 1)
		if u.Remaining != int64(100-11*(i+1)) {
			t.Errorf("after %d processes: %+v", i+1, u)
		}
		m.Close()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAQuotaWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		var live atomic.Int64
		live.Store(4)
		n := node(f, &live, 0)
		defer n.Close()
		share := quotaOf(t, n, ratelimit.QuotaSettings{Name: "share"})
		open := quotaOf(t, n, ratelimit.QuotaSettings{Name: "open", OnFailure: ratelimit.LetPass})
		closed := quotaOf(t, n, ratelimit.QuotaSettings{Name: "closed", OnFailure: ratelimit.RefuseAll})
		for range 20 {
			use(share, 100, 0, 1)
		}
		f.broken.Store(true)
		got := 0
		for range 100 {
			if u := use(share, 100, 0, 1); u.Source != ratelimit.Share {
				t.Fatalf("%+v", u)
			} else if u.Allowed {
				got++
			}
			if u := use(open, 1, 0, 1); !u.Allowed || u.Source != ratelimit.Open {
				t.Fatalf("%+v", u)
			}
			if u := use(closed, 1, 0, 1); u.Allowed || u.Source != ratelimit.Closed {
				t.Fatalf("%+v", u)
			}
		}
		if got != 20 { // a quarter of the 80 that were left
			t.Errorf("%d units granted", got)
		}
		f.broken.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if u := use(share, 100, 0, 0); u.Source != ratelimit.Store && u.Source != ratelimit.Lease || u.Remaining != 60 {
			t.Errorf("what was granted without the store is not counted: %+v", u)
		}
		// Nor is anything counted twice that came too late.
		f.delay.Store(int64(10 * time.Millisecond))
		for range 3 {
			if u := use(share, 100, 0, 1); !u.Allowed {
				t.Errorf("%+v", u)
			}
			time.Sleep(50 * time.Millisecond)
		}
		f.delay.Store(0)
		time.Sleep(time.Minute)
		synctest.Wait()
		if u := use(share, 100, 0, 0); u.Remaining != 57 {
			t.Errorf("%+v", u)
		}
	})
}

func TestAQuotaOfAFleet(t *testing.T) {
	server, in := redistest.Start(t), noon()
	for _, leased := range []bool{true, false} {
		fleet := fleetOf(t, server, 3, ample)
		list := make([]ratelimit.Quota, len(fleet))
		for i, n := range fleet {
			list[i] = quotaOf(t, n, ratelimit.QuotaSettings{Name: map[bool]string{true: "leased", false: "exact"}[leased], Location: in, Leased: leased})
		}
		var granted atomic.Int64
		together(3, 400, func(i int) {
			if use(list[i], 900, 100_000, 1).Allowed {
				granted.Add(1)
			}
		})
		if n := granted.Load(); n > 900 || n < 900*(quotaPart-1)/quotaPart || !leased && n != 900 {
			t.Errorf("leased %v: %d of 900 units granted", leased, n)
		}
		// The last ones are to be had by whoever comes.
		eventually(t, "all are used", func() bool {
			for i := range list {
				if use(list[i], 900, 100_000, 1).Allowed {
					granted.Add(1)
				}
			}
			return granted.Load() == 900
		})
	}
}

func TestUsingALeasedQuotaDoesNotAllocate(t *testing.T) {
	n := node(newFake(t), nil, ample)
	defer n.Close()
	q := quotaOf(t, n, ratelimit.QuotaSettings{Leased: true})
	for range 2000 {
		use(q, 1_000_000, 10_000_000, 1)
	}
	var u ratelimit.Used
	eventually(t, "it is used without an allocation", func() bool {
		return testing.AllocsPerRun(50, func() { q.Take("ann", ratelimit.Allowance{Day: 1_000_000}, 1, &u) }) == 0
	})
}

func BenchmarkQuota(b *testing.B) {
	n := node(newFake(b), nil, ample)
	defer n.Close()
	q := quotaOf(b, n, ratelimit.QuotaSettings{Leased: true})
	b.ReportAllocs()
	for b.Loop() {
		use(q, 1_000_000_000, 10_000_000_000, 1)
	}
}

// Consumers come and go; what is kept of them must not grow for ever, and what
// they have used must not be forgotten.
func TestAccountsOfConsumersThatAreGone(t *testing.T) {
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		n := node(f, nil, 0)
		for _, leased := range []bool{true, false} {
			q := quotaOf(t, n, ratelimit.QuotaSettings{Name: fmt.Sprint(leased), Leased: leased}).(*quota)
			var u ratelimit.Used
			for i := range 100 {
				q.Take(strconv.Itoa(i), ratelimit.Allowance{Day: 10}, 3, &u)
			}
			use(q, 0, 10, 8)
			synctest.Wait()
			time.Sleep(forgetAfter - 2*tending)
			use(q, 0, 10, 1)
			time.Sleep(3 * tending)
			if list := q.all(); len(list) != 1 || list[0].who != "ann" {
				t.Errorf("leased %v: %d accounts, want that of one who has asked lately", leased, len(list))
			}
			time.Sleep(forgetAfter + 2*tending)
			if n := len(q.all()); n != 0 {
				t.Errorf("leased %v: %d accounts", leased, n)
			}
			if u := use(q, 0, 10, 2); u.Allowed {
				t.Errorf("leased %v: what was used is forgotten: %+v", leased, u)
			}
			if u := use(q, 0, 10, 1); !u.Allowed {
				t.Errorf("leased %v: the last unit is lost: %+v", leased, u)
			}
		}
		// Without the store nobody else knows what was granted.
		q := quotaOf(t, n, ratelimit.QuotaSettings{Name: "alone"}).(*quota)
		f.broken.Store(true)
		use(q, 0, 10, 1)
		q.forget(time.Now().Add(2 * forgetAfter))
		if len(q.all()) != 1 {
			t.Error("what is owed to the store is forgotten")
		}
		f.broken.Store(false)
		n.Close()
		time.Sleep(time.Minute) // until the store has written it
	})
}

func TestForgettingWhileRequestsCome(t *testing.T) {
	n := node(newFake(t), nil, ample)
	defer n.Close()
	q := quotaOf(t, n, ratelimit.QuotaSettings{Location: noon()}).(*quota)
	var granted atomic.Int64
	done := make(chan struct{})
	var forgetting sync.WaitGroup
	forgetting.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				q.forget(time.Now().Add(2 * forgetAfter)) // as if they were long gone
			}
		}
	})
	together(1, 400, func(int) {
		if use(q, 0, 300, 1).Allowed {
			granted.Add(1)
		}
	})
	close(done)
	forgetting.Wait()
	if granted.Load() != 300 {
		t.Errorf("%d of 300 granted", granted.Load())
	}
}
