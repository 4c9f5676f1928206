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
	in, at, ok := x.node.takes.post(store.Take{Key: x.space.key(key), Buckets: x.buckets, Cost: int64(cost)}, nil)
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

// never refuses what no waiting makes affordable; nobody need be asked.
func (x *exact) never(cost int64, d *ratelimit.Decision) {
	var none [ratelimit.MaxWindows]time.Duration
	x.rates.Judge(none[:len(x.buckets)], cost, false, d)
	d.Source = ratelimit.Store
}

// instead decides where the store did not.
type instead struct {
	node  *Limits
	how   ratelimit.OnFailure
	local *ratelimit.Local
	nodes atomic.Int64 // among which local is shared out
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
	err := i.local.Take(key, cost, d)
	d.Source = ratelimit.Share
	return err
}
