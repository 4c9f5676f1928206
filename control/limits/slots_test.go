package limits

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

func slotsOf(t testing.TB, n *Limits, s ratelimit.SlotsSettings) ratelimit.Slots {
	t.Helper()
	x, err := n.Slots(s)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

var kay = []byte("k")

// fill enters until nothing more is let in.
func fill(s ratelimit.Slots) (ids []uint64) {
	for range 1000 {
		id, ok, _ := s.Enter(kay)
		if !ok {
			break
		}
		ids = append(ids, id)
	}
	return ids
}

func TestPlacesOfADeadNodeComeBack(t *testing.T) {
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		var live atomic.Int64
		live.Store(2)
		dead, alive := node(f, &live, 0), node(f, &live, 0)
		settings := ratelimit.SlotsSettings{Name: "x", Limit: 5}
		one, two := slotsOf(t, dead, settings), slotsOf(t, alive, settings)
		for range 2 {
			if _, ok, from := one.Enter(kay); !ok || from != ratelimit.Store {
				t.Errorf("%v, %v", ok, from)
			}
		}
		ids := fill(two)
		if len(ids) != 3 {
			t.Errorf("%d places of 3", len(ids))
		}
		// Who lives keeps what it holds for as long as it likes.
		time.Sleep(10 * placeTTL)
		if more := fill(two); len(more) != 0 {
			t.Errorf("%d more", len(more))
		}
		for _, id := range ids {
			two.Leave(id)
		}
		synctest.Wait()
		if ids = fill(one); len(ids) != 3 {
			t.Errorf("%d places that were left", len(ids))
		}
		dead.stop() // and says nothing any more
		dead.done.Wait()
		time.Sleep(placeTTL + time.Second)
		if ids = fill(two); len(ids) != 5 {
			t.Errorf("%d places of a dead node's", len(ids))
		}
		for _, id := range ids {
			two.Leave(id)
		}
		two.Close()
		synctest.Wait()
		time.Sleep(3 * placeTTL)
		if _, list := alive.all(); len(list) != 0 {
			t.Error("closed slots are renewed for ever")
		}
		alive.Close()
		dead.Close()
	})
}

func TestPlacesWithoutTheStore(t *testing.T) {
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		var live atomic.Int64
		live.Store(3)
		n := node(f, &live, 0)
		defer n.Close()
		for how, want := range map[ratelimit.OnFailure]struct {
			n    int
			from ratelimit.Source
		}{ratelimit.ShareOut: {3, ratelimit.Share}, ratelimit.LetPass: {1000, ratelimit.Open}, ratelimit.RefuseAll: {0, ratelimit.Closed}} {
			f.broken.Store(false)
			time.Sleep(time.Second)
			s := slotsOf(t, n, ratelimit.SlotsSettings{Name: "x" + want.from.String(), Limit: 10, OnFailure: how})
			f.broken.Store(true)
			_, _, from := s.Enter(kay)
			ids := fill(s)
			if from != want.from || len(ids) > want.n || len(ids) < want.n-1 {
				t.Errorf("%v: %d places", from, len(ids))
			}
			for _, id := range ids {
				s.Leave(id)
			}
		}
		// Slow is no better than broken, and costs a request the deadline at most.
		f.broken.Store(false)
		time.Sleep(time.Second)
		f.delay.Store(int64(time.Hour))
		s := slotsOf(t, n, ratelimit.SlotsSettings{Name: "slow", Limit: 30})
		for range 5 {
			began := time.Now()
			if _, ok, from := s.Enter(kay); !ok || from != ratelimit.Share || time.Since(began) > Deadline {
				t.Errorf("%v, %v after %v", ok, from, time.Since(began))
			}
		}
		f.delay.Store(0)
		time.Sleep(2 * placeTTL)
		if ids := fill(s); len(ids) != 25 {
			t.Errorf("%d places when it was back", len(ids))
		}
	})
}

func TestPlacesOfAFleet(t *testing.T) {
	server := redistest.Start(t)
	fleet := fleetOf(t, server, 3, ample)
	list := make([]ratelimit.Slots, len(fleet))
	for i, n := range fleet {
		list[i] = slotsOf(t, n, ratelimit.SlotsSettings{Name: "x", Limit: 7})
	}
	var in, most, done atomic.Int64
	together(3, 400, func(i int) {
		id, ok, _ := list[i].Enter(kay)
		if !ok {
			return
		}
		now := in.Add(1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		time.Sleep(100 * time.Microsecond)
		in.Add(-1)
		list[i].Leave(id)
		done.Add(1)
	})
	if most.Load() > 7 || done.Load() < 100 {
		t.Errorf("%d at once, %d of 1200 served", most.Load(), done.Load())
	}
	eventually(t, "all places are free again", func() bool {
		ids := fill(list[0])
		for _, id := range ids {
			list[0].Leave(id)
		}
		return len(ids) == 7
	})
}
