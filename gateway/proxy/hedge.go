package proxy

import (
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// race is two tries of one request at once. It is what the front tells that
// the client has gone, and what each try tells what to interrupt then.
type race struct {
	mu    sync.Mutex // guards gone and every runner's aborter, lost
	gone  bool
	lanes [2]runner
}

// runner is one try in the race.
type runner struct {
	race    *race
	leg     leg
	aborter exchange.Aborter
	lost    bool
	err     error
}

// OnGone implements transport.Watcher.
func (r *runner) OnGone(a exchange.Aborter) {
	r.race.mu.Lock()
	defer r.race.mu.Unlock()
	r.aborter = a
	if a != nil && (r.lost || r.race.gone) {
		a.Abort()
	}
}

// Abort implements exchange.Aborter: the client has gone.
func (r *race) Abort() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
	for i := range r.lanes {
		if a := r.lanes[i].aborter; a != nil {
			a.Abort()
		}
	}
}

// lose interrupts one try.
func (r *race) lose(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lanes[i].lost = true
	if a := r.lanes[i].aborter; a != nil {
		a.Abort()
	}
}

// hedged makes a try, a second one on another endpoint when the first is slow,
// and returns the first that brought a reply. It is for requests without a
// body. A try that fails while the other runs is out of the race; when none is
// left, the last failure is the result.
func (f *forward) hedged() (*leg, error) {
	r := &race{}
	for i := range r.lanes {
		r.lanes[i].race = r
	}
	f.e.Front.OnGone(r)
	arrived := make(chan int, len(r.lanes))
	run := func(i int) error {
		lane := &r.lanes[i]
		if err := f.start(&lane.leg); err != nil {
			return err
		}
		lane.leg.note.Hedge = i > 0
		lane.leg.call.Front, lane.leg.call.Watch = nil, lane
		go func() {
			lane.err = f.send(&lane.leg)
			arrived <- i
		}()
		return nil
	}
	if err := run(0); err != nil {
		f.e.Front.OnGone(nil)
		return nil, err
	}
	slow := time.NewTimer(f.proxy.settings.Hedge)
	defer slow.Stop()
	var err error
	running, winner := 1, -1
	for running > 0 && winner < 0 {
		select {
		case <-slow.C:
			if run(1) == nil {
				running++
			}
		case i := <-arrived:
			running--
			lane := &r.lanes[i]
			if err = f.finish(&lane.leg, lane.err); err == nil {
				winner = i
			}
		}
	}
	if running > 0 {
		loser := 1 - winner
		r.lose(loser)
		<-arrived
		f.retire(&r.lanes[loser])
	}
	f.e.Front.OnGone(nil)
	if winner < 0 {
		return nil, err
	}
	f.win(&r.lanes[winner].leg)
	return &r.lanes[winner].leg, nil
}

// retire ends the slower try; the endpoint is not to blame.
func (f *forward) retire(lane *runner) {
	if lane.err == nil {
		_ = lane.leg.conn.Release() // it arrived all the same; nobody reads it
	}
	lane.leg.note.Failure = upstream.NotTried
	lane.leg.note.Latency = time.Since(lane.leg.began)
	lane.leg.end(upstream.Result{Failure: upstream.NotTried}, lane.err)
	if o := f.proxy.settings.Observer; o != nil {
		o.Tried(&lane.leg.note)
	}
}

// win makes the faster try one like any other.
func (f *forward) win(l *leg) {
	u := &f.e.Upstream
	u.Endpoint, u.Reused, u.Protocol, u.Took = l.ep.Address, l.note.Reused, l.note.Protocol, l.note.Latency
	l.call.Front = f.e.Front
	l.conn.Adopt(f.e.Front)
}
