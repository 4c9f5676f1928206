package live_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/live"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

type member struct {
	live.Place
	seen    atomic.Int32
	removed atomic.Bool
}

func TestEachSeesWhatIsThere(t *testing.T) {
	s := live.NewSet[*member]()
	all := make([]*member, 100)
	for i := range all {
		all[i] = new(member)
		s.Add(all[i])
	}
	for i, m := range all {
		if i%3 != 0 {
			s.Remove(m)
		}
	}
	s.Each(func(m *member) { m.seen.Add(1) })
	for i, m := range all {
		want := int32(0)
		if i%3 == 0 {
			want = 1
		}
		if n := m.seen.Load(); n != want {
			t.Errorf("member %d was seen %d times, want %d", i, n, want)
		}
	}
}

func TestNobodyLooksAtWhatWasRemoved(t *testing.T) {
	s := live.NewSet[*member]()
	stop := make(chan struct{})
	var looking, coming sync.WaitGroup
	looking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			s.Each(func(m *member) {
				if m.removed.Load() {
					t.Error("seen after Remove")
				}
			})
		}
	})
	for range 8 {
		coming.Go(func() {
			for range 500 {
				m := new(member)
				s.Enter()
				s.Add(m)
				s.Remove(m)
				m.removed.Store(true)
				s.Leave()
			}
		})
	}
	coming.Wait()
	close(stop)
	looking.Wait()
	if !s.Wait(nil) {
		t.Error("not empty")
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := live.NewSet[*member]()
		s.Enter()
		s.Enter()
		s.Leave()
		if n := s.Len(); n != 1 {
			t.Fatalf("Len is %d", n)
		}
		done := make(chan struct{})
		close(done)
		if s.Wait(done) {
			t.Fatal("one is there")
		}
		var all atomic.Int32
		for range 3 {
			go func() {
				if s.Wait(nil) {
					all.Add(1)
				}
			}()
		}
		synctest.Wait()
		if all.Load() != 0 {
			t.Fatal("nobody has left")
		}
		s.Leave()
		synctest.Wait()
		if n := all.Load(); n != 3 {
			t.Fatalf("%d of 3 have heard of it", n)
		}
		// What they heard of does not count for the next one that comes.
		s.Enter()
		if s.Wait(done) {
			t.Fatal("one is there")
		}
		s.Leave()
		if !s.Wait(nil) {
			t.Fatal("nobody is there")
		}
	})
}

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ticks []int64
		c := live.NewClock(func(now int64) { ticks = append(ticks, now) })
		first := c.Now()
		time.Sleep(time.Hour) // it stands still
		c.Start()
		c.Start()
		began := time.Now()
		if c.Now() != first || c.Date() != began.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") {
			t.Fatalf("it starts at %d, %s", c.Now(), c.Date())
		}
		if c.After(0) != 0 || c.After(-1) != 0 {
			t.Error("there is a limit where there is none")
		}
		by := c.After(time.Second)
		if c.By(began.Add(time.Second)) != by || c.By(began) > c.Now() || c.By(time.Unix(1, 0)) <= 0 {
			t.Error("a time by another clock is not the same by this one")
		}
		time.Sleep(time.Second + time.Millisecond)
		if c.Now() >= by {
			t.Error("the time is over early, by the clock that is late")
		}
		if want := began.Add(time.Second).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"); c.Date() != want || c.DateValues()[0] != want {
			t.Errorf("Date: %s, want %s", c.Date(), want)
		}
		time.Sleep(live.Tick)
		if c.Now() < by {
			t.Error("the time is not over a tick later")
		}
		c.Stop()
		n := len(ticks)
		if n != 11 || ticks[0] != first+live.Tick.Milliseconds() {
			t.Errorf("%d ticks: %v", n, ticks)
		}
		time.Sleep(time.Hour)
		c.Stop()
		if len(ticks) != n {
			t.Error("it ticks after Stop")
		}
	})
}

// TestClockStandsStillWithUs: what nobody could do while the process was held up
// is not late.
func TestClockStandsStillWithUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := false
		c := live.NewClock(func(int64) {
			if !held {
				held = true
				time.Sleep(time.Minute)
			}
		})
		c.Start()
		by := c.After(time.Second)
		time.Sleep(time.Minute + time.Second/2)
		if c.Now() >= by {
			t.Error("the pause counts")
		}
		if want := time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"); c.Date() != want {
			t.Errorf("Date: %s, want %s", c.Date(), want)
		}
		time.Sleep(time.Second)
		if c.Now() < by {
			t.Error("the time is not over")
		}
		c.Stop()
	})
}

func TestClockThatWasNeverStarted(*testing.T) {
	live.NewClock(func(int64) {}).Stop()
}

func BenchmarkSet(b *testing.B) {
	s := live.NewSet[*member]()
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		m := new(member)
		for p.Next() {
			s.Enter()
			s.Add(m)
			s.Remove(m)
			s.Leave()
		}
	})
}
