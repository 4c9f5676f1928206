package limits

import (
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// exact asks the store for every request.
type exact struct {
	node    *Limits
	rates   ratelimit.Rates
	most    int64
	buckets []store.Bucket
	space   space
	instead
}

// Take implements ratelimit.Limiter.
func (x *exact) Take(key []byte, cost uint32, d *ratelimit.Decision) error {
	if int64(cost) > x.most {
		x.never(int64(cost), d)
		return nil
	}
	if x.node.health.away() {
		return x.instead.take(key, cost, d)
	}
	in, at, ok := x.node.takes.post(store.Take{Key: x.space.key(key), Buckets: x.buckets, Cost: int64(cost)}, x)
	if !ok {
		return x.instead.take(key, cost, d)
	}
	a := in.wait(at)
	if a == nil {
		return x.instead.take(key, cost, d)
	}
	x.rates.Judge(a.Used, int64(cost), a.Got == int64(cost), d)
	d.Source = ratelimit.Store
	return nil
}

// answered implements receiver: what the store knows of a key, in time or late,
// this node is to know as well when it decides by itself.
func (x *exact) answered(q *store.Take, a *store.Taken, took time.Duration) {
	if a != nil && x.how == ratelimit.ShareOut {
		x.local.Raise([]byte(q.Key), a.Used, took)
	}
}

// never refuses what no waiting makes affordable; nobody need be asked.
func (x *exact) never(cost int64, d *ratelimit.Decision) {
	var none [ratelimit.MaxWindows]time.Duration
	x.rates.Judge(none[:len(x.buckets)], cost, false, d)
	d.Source = ratelimit.Store
}

// instead decides where the store did not. Its part of the limit is as empty as
// the store's was when that last answered: what the store grants, this node does
// not grant once more.
type instead struct {
	node  *Limits
	how   ratelimit.OnFailure
	space space
	local *ratelimit.Local // by the keys' names in the store
	nodes atomic.Int64     // among which local is shared out
}

func (i *instead) take(key []byte, cost uint32, d *ratelimit.Decision) error {
	switch i.how {
	case ratelimit.LetPass:
		*d = ratelimit.Decision{Allowed: true, Source: ratelimit.Open}
		return nil
	case ratelimit.RefuseAll:
		*d = ratelimit.Decision{Source: ratelimit.Closed}
		return nil
	}
	if n := int64(i.node.live()); i.nodes.Swap(n) != n {
		i.local.Share(int(n))
	}
	var room keyRoom
	sum := i.space.sum(key)
	err := i.local.Take(i.space.write(room[:0], &sum), cost, d)
	d.Source = ratelimit.Share
	return err
}
