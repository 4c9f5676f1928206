// Package limits makes limits that the nodes of a fleet count together, in
// their store: it implements ratelimit.Fleet. No request waits for the store for
// longer than Settings.Deadline, whatever becomes of it; while it is away nobody
// waits at all, and it is tried in the background.
package limits

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// Deadline is how long a request waits for the store, unless Settings say
// something else.
const Deadline = 2 * time.Millisecond

// Settings say what is shared with whom. Only Store is required.
type Settings struct {
	Store store.Limits
	// Alone says that the store is this node's own: what need not outlive the
	// process is then counted without it.
	Alone bool
	// Live is how many nodes share the limits, 0: nobody knows. Nil: one.
	Live func() int
	// Deadline is how long a request waits; 0: the constant.
	Deadline time.Duration
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// Limits are a node's part in the limits of its fleet.
type Limits struct {
	s      Settings
	base   time.Time
	health *health
	takes  *batcher[store.Take, store.Taken]
	counts *batcher[store.Count, store.Counted]
	holds  *batcher[store.Hold, store.Held]

	mu      sync.Mutex // guards all below
	ledgers map[string]*ledger
	slots   map[*slots]struct{}

	stop   func()
	done   sync.WaitGroup
	closed atomic.Bool
}

var _ ratelimit.Fleet = (*Limits)(nil)

// New returns limits that ask nothing until they are used.
func New(s Settings) *Limits {
	if s.Deadline <= 0 {
		s.Deadline = Deadline
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	n := &Limits{s: s, base: time.Now(), ledgers: map[string]*ledger{}, slots: map[*slots]struct{}{}, stop: func() {}}
	n.health = newHealth(s)
	n.takes = &batcher[store.Take, store.Taken]{health: n.health, ask: s.Store.Take, deadline: s.Deadline}
	n.counts = &batcher[store.Count, store.Counted]{health: n.health, ask: s.Store.Count, deadline: s.Deadline}
	n.holds = &batcher[store.Hold, store.Held]{health: n.health, ask: s.Store.Hold, deadline: s.Deadline}
	return n
}

// Start begins what happens in the background: trying a store that is away,
// renewing places, giving back what is leased and not used.
func (n *Limits) Start(ctx context.Context) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = cancel
	n.done.Go(func() { n.health.watch(running) })
	n.done.Go(func() { n.tend(running) })
}

// Close gives back what is leased, as far as the store takes it, and waits for
// all that is under way. It is safe twice and without Start.
func (n *Limits) Close() {
	n.stop()
	n.done.Wait()
	n.takes.close()
	n.counts.close()
	n.holds.close()
	if !n.closed.Swap(true) && !n.health.away() {
		n.giveBack()
	}
}

// tending is how often places are renewed and idle leases given back: three
// times in the life of a place.
const tending = placeTTL / 3

func (n *Limits) tend(ctx context.Context) {
	tick := time.NewTicker(tending)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n.health.away() {
			continue
		}
		ledgers, list := n.all()
		now := time.Now()
		for _, l := range ledgers {
			for _, q := range l.idle(now, idleLease) {
				q.post()
			}
			l.forget(now)
		}
		for _, s := range list {
			if s.renew() == 0 && s.closed.Load() {
				n.mu.Lock()
				delete(n.slots, s)
				n.mu.Unlock()
			}
		}
	}
}

// all are the ledgers and slots there are.
func (n *Limits) all() (ledgers []*ledger, list []*slots) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.ledgers {
		ledgers = append(ledgers, l)
	}
	for s := range n.slots {
		list = append(list, s)
	}
	return ledgers, list
}

// giveBack tells the store what this node no longer needs. Nobody else asks any
// more.
func (n *Limits) giveBack() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ledgers, list := n.all()
	var counts []store.Count
	for _, l := range ledgers {
		for _, q := range l.idle(time.Now(), 0) {
			counts = append(counts, store.Count{Key: q.key, N: q.owed - q.back, End: q.end.Add(grace)})
		}
	}
	var holds []store.Hold
	for _, s := range list {
		for _, q := range s.questions() {
			holds = append(holds, q.hold)
		}
	}
	var err error
	if len(counts) > 0 {
		_, err = n.s.Store.Count(ctx, counts)
	}
	if len(holds) > 0 && err == nil {
		_, err = n.s.Store.Hold(ctx, holds)
	}
	if err != nil {
		n.s.Log.Warn("what this node has leased of the fleet's limits could not be given back", "error", err)
	}
}

// now is a monotonic clock in nanoseconds.
func (n *Limits) now() int64 { return int64(time.Since(n.base)) }

// live is how many nodes there are, at least one.
func (n *Limits) live() int {
	if n.s.Live == nil {
		return 1
	}
	return max(1, n.s.Live())
}

// Limiter implements ratelimit.Fleet. On a node that is alone it is an ordinary
// local one.
func (n *Limits) Limiter(s ratelimit.SharedSettings) (ratelimit.Limiter, error) {
	local, err := ratelimit.NewLocal(ratelimit.Settings{Windows: s.Windows, MaxKeys: s.MaxKeys})
	if err != nil || n.s.Alone {
		return local, err
	}
	rates, err := ratelimit.NewRates(s.Windows)
	if err != nil {
		return nil, err
	}
	x := &exact{node: n, rates: rates, most: rates.Most(), space: newSpace("limit", s.Name, s.Windows), instead: instead{node: n, how: s.OnFailure, local: local}}
	x.instead.space = x.space
	for i := range rates.Len() {
		interval, burst := rates.Bucket(i)
		x.buckets = append(x.buckets, store.Bucket{Interval: interval, Burst: burst})
	}
	if s.Leased {
		return newLeased(x, s.MaxKeys), nil
	}
	return x, nil
}

// space is where the keys of one limit lie. What it makes of a key tells nobody
// at a glance whose it is, is always of one length, and the same on every node.
type space struct{ prefix string }

func newSpace(kind, name string, windows []ratelimit.Window) space {
	h := sha256.New()
	put := func(s string) {
		h.Write(binary.AppendUvarint(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	put(kind)
	put(name)
	for _, w := range windows {
		for _, v := range []int64{w.Limit, int64(w.Per), w.Burst} {
			h.Write(binary.AppendVarint(nil, v))
		}
	}
	return space{base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])}
}

// sum is the digest of a key.
func (s space) sum(key []byte) [sha256.Size]byte {
	var room [256]byte
	b := append(room[:0], s.prefix...)
	return sha256.Sum256(append(b, key...))
}

// key is the name of a key in the store.
func (s space) key(key []byte) string {
	sum := s.sum(key)
	var room keyRoom
	return string(s.write(room[:0], &sum))
}

// keyRoom has room for the name of a key.
type keyRoom [len("0123456789abcdef.0123456789abcdef01234567")]byte

func (s space) write(b []byte, sum *[sha256.Size]byte) []byte {
	b = append(append(b, s.prefix...), '.')
	return base64.RawURLEncoding.AppendEncode(b, sum[:18])
}
