package limits

import (
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

const (
	// placeTTL is how long after a node was last heard of its places are free
	// again. They are renewed three times in it.
	placeTTL = 15 * time.Second
	// sparePart is what part of all places the nodes together may hold without
	// using them.
	sparePart   = 8
	slotsShards = 16
)

// Slots implements ratelimit.Fleet.
func (n *Limits) Slots(s ratelimit.SlotsSettings) (ratelimit.Slots, error) {
	x := &slots{node: n, limit: int64(s.Limit), how: s.OnFailure, space: newSpace("slots", s.Name, nil), owner: rand.Text()[:12]}
	for i := range x.shards {
		x.shards[i].rooms = map[uint64]*room{}
	}
	if !n.s.Alone {
		n.mu.Lock()
		n.slots[x] = struct{}{}
		n.mu.Unlock()
	}
	return x, nil
}

type slots struct {
	node   *Limits
	limit  int64
	how    ratelimit.OnFailure
	space  space
	owner  string        // tells these from all others of the name, also in this process
	seq    atomic.Uint64 // numbers the questions
	closed atomic.Bool
	shards [slotsShards]slotsShard
}

type slotsShard struct {
	mu    sync.Mutex // guards all below
	rooms map[uint64]*room
	_     [64]byte
}

// room is one key. Its shard's lock guards it.
type room struct {
	s    *slots
	in   *slotsShard
	id   uint64
	key  string
	used int64 // requests that hold a place
	held int64 // places of the fleet that are certainly this node's
	// waiting requests are counted in what is asked for.
	waiting int64
	// got is what the answer to question seen said; those to older ones say
	// nothing any more.
	got  int64
	seen uint64
	// flying are the questions that are not answered.
	flying []*holdQuestion
}

// Enter implements ratelimit.Slots.
func (s *slots) Enter(key []byte) (uint64, bool, ratelimit.Source) {
	sum := s.space.sum(key)
	id := binary.LittleEndian.Uint64(sum[:])
	in := &s.shards[id%slotsShards]
	in.mu.Lock()
	r := in.rooms[id]
	if r == nil {
		r = &room{s: s, in: in, id: id, key: s.space.key(key)}
		in.rooms[id] = r
	}
	if s.node.s.Alone {
		defer in.mu.Unlock()
		return id, r.enter(s.limit), ratelimit.Own
	}
	if r.used < r.held && !s.node.health.away() {
		r.used++
		in.mu.Unlock()
		return id, true, ratelimit.Lease
	}
	if s.node.health.away() {
		defer in.mu.Unlock()
		ok, from := r.instead()
		return id, ok, from
	}
	r.waiting++
	q := r.ask()
	in.mu.Unlock()
	b, at, posted := q.post()
	answered := posted && b.wait(at) != nil
	in.mu.Lock()
	defer in.mu.Unlock()
	r.waiting--
	if !answered {
		ok, from := r.instead()
		return id, ok, from
	}
	ok := r.enter(r.held)
	return id, ok, ratelimit.Store
}

// enter takes a place if less than limit are used. Holds the lock.
func (r *room) enter(limit int64) bool {
	if r.used < limit {
		r.used++
		return true
	}
	r.shut()
	return false
}

// instead decides without the store. Holds the lock.
func (r *room) instead() (bool, ratelimit.Source) {
	switch r.s.how {
	case ratelimit.LetPass:
		r.used++
		return true, ratelimit.Open
	case ratelimit.RefuseAll:
		r.shut()
		return false, ratelimit.Closed
	}
	return r.enter(max(1, r.s.limit/int64(r.s.node.live()))), ratelimit.Share
}

// Leave implements ratelimit.Slots.
func (s *slots) Leave(id uint64) {
	in := &s.shards[id%slotsShards]
	in.mu.Lock()
	r := in.rooms[id]
	r.used--
	var q *holdQuestion
	if !s.node.s.Alone && r.got > r.want() && !s.node.health.away() {
		q = r.ask()
	}
	r.shut()
	in.mu.Unlock()
	if q != nil {
		q.post()
	}
}

// want is how many places this node should hold. Holds the lock.
func (r *room) want() int64 {
	n := r.used + r.waiting
	if n == 0 {
		return 0
	}
	return n + r.s.limit/int64(sparePart*r.s.node.live())
}

// shut forgets a room that nobody needs. Holds the lock.
func (r *room) shut() {
	if r.used == 0 && r.waiting == 0 && r.got == 0 && len(r.flying) == 0 {
		delete(r.in.rooms, r.id)
	}
}

// ask makes a question. Holds the lock.
func (r *room) ask() *holdQuestion {
	seq := r.s.seq.Add(1)
	q := &holdQuestion{r, store.Hold{
		Key: r.key, Owner: r.s.owner, Seq: seq, Want: r.want(), Limit: r.s.limit, TTL: placeTTL,
	}}
	r.flying = append(r.flying, q)
	r.settle()
	return q
}

// settle works out what is certainly held: the store may have dealt with every
// question under way, and given to others what one of them did not want.
func (r *room) settle() {
	r.held = r.got
	for _, q := range r.flying {
		if q.hold.Seq > r.seen {
			r.held = min(r.held, q.hold.Want)
		}
	}
}

// holdQuestion asks for places, or gives some back.
type holdQuestion struct {
	r    *room
	hold store.Hold
}

func (q *holdQuestion) post() (*batch[store.Hold, store.Held], int, bool) {
	in, at, ok := q.r.s.node.holds.post(q.hold, q)
	if !ok {
		q.answered(nil, nil, 0)
	}
	return in, at, ok
}

// answered implements receiver.
func (q *holdQuestion) answered(_ *store.Hold, a *store.Held, _ time.Duration) {
	r := q.r
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	r.flying = slices.DeleteFunc(r.flying, func(x *holdQuestion) bool { return x == q })
	switch {
	case q.hold.Seq < r.seen:
	case a != nil:
		r.seen, r.got = q.hold.Seq, a.Got
	default: // it may have been done all the same
		r.got = min(r.got, q.hold.Want)
	}
	r.settle()
	r.shut()
}

// renew tells the store which places are held. It returns how many keys there are.
func (s *slots) renew() (keys int) {
	list := s.questions()
	for _, q := range list {
		q.post()
	}
	return len(list)
}

// questions are what says for every key how many places are wanted.
func (s *slots) questions() (list []*holdQuestion) {
	for i := range s.shards {
		in := &s.shards[i]
		in.mu.Lock()
		for _, r := range in.rooms {
			list = append(list, r.ask())
		}
		in.mu.Unlock()
	}
	return list
}

// Close implements ratelimit.Slots. What requests still hold is renewed until
// they leave.
func (s *slots) Close() {
	s.closed.Store(true)
	if !s.node.health.away() {
		s.renew()
	}
}
