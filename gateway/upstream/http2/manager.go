package http2

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// Manager is what the pools of a node share: the queues before their limiters,
// and the end of everything.
type Manager struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // dials
	reads  sync.WaitGroup // readers of links

	mu    sync.Mutex // guards rooms, links
	rooms map[transport.Limiter]*room
	links map[*link]struct{}
}

// NewManager returns a manager without connections.
func NewManager() *Manager {
	m := &Manager{rooms: map[transport.Limiter]*room{}, links: map[*link]struct{}{}}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// Close ends every connection, busy ones included, and waits for those in the
// making. Nothing may be asked of its pools afterwards.
func (m *Manager) Close() {
	m.cancel()
	m.wg.Wait()
	m.mu.Lock()
	all := make([]*link, 0, len(m.links))
	for l := range m.links {
		all = append(all, l)
	}
	m.mu.Unlock()
	for _, l := range all {
		l.close()
	}
	m.reads.Wait()
}

func (m *Manager) add(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !l.over() {
		m.links[l] = struct{}{}
	}
}

func (m *Manager) remove(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.links, l)
}

// join finds or makes the room of a limiter for p.
func (m *Manager) join(l transport.Limiter, p *Pool) *room {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.rooms[l]
	if r == nil {
		r = &room{limiter: l}
		m.rooms[l] = r
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pools = append(r.pools, p)
	return r
}

// part is the reverse of join. The room of the last pool is forgotten.
func (m *Manager) part(r *room, p *Pool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, o := range r.pools {
		if o == p {
			r.pools = append(r.pools[:i], r.pools[i+1:]...)
			break
		}
	}
	if len(r.pools) == 0 && m.rooms[r.limiter] == r {
		delete(m.rooms, r.limiter)
	}
}

// room is where requests wait that a limiter allows no connection.
type room struct {
	limiter transport.Limiter
	waiters atomic.Int32 // len(waiting), to be read without the lock

	mu      sync.Mutex // guards waiting, pools; no other lock is taken while it is held
	waiting []*waiter  // in order of arrival
	pools   []*Pool
}

// waiter is a request in the room. Its bell says that it should try again.
type waiter struct {
	pool *Pool
	bell chan struct{}
}

// wait waits until something has become free. Its error is a *transport.Failure.
func (r *room) wait(w *waiter, t *transport.Waiting) error {
	r.evict(w.pool)
	select {
	case <-w.bell:
		return nil
	case <-t.Done():
		return t.Failure(t.Err())
	}
}

// enter begins to wait. Whoever has entered must try once more: what became
// free before was not told.
func (r *room) enter(p *Pool) (*waiter, error) {
	if !r.limiter.TryPending() {
		return nil, transport.Fail(reason.UpstreamOverflow, transport.ErrOverflow)
	}
	w := &waiter{pool: p, bell: make(chan struct{}, 1)}
	r.mu.Lock()
	r.waiting = append(r.waiting, w)
	r.waiters.Store(int32(len(r.waiting)))
	r.mu.Unlock()
	return w, nil
}

// evict closes a connection that is in the way of one for p.
func (r *room) evict(p *Pool) {
	r.mu.Lock()
	pools := append([]*Pool(nil), r.pools...)
	r.mu.Unlock()
	for _, o := range pools {
		if l := o.spare(p); l != nil {
			l.close()
			return
		}
	}
}

// leave ends waiting, and passes the word on: there may be more than w took.
func (r *room) leave(w *waiter) {
	r.mu.Lock()
	for i, o := range r.waiting {
		if o == w {
			r.waiting = append(r.waiting[:i], r.waiting[i+1:]...)
			break
		}
	}
	r.waiters.Store(int32(len(r.waiting)))
	r.mu.Unlock()
	r.limiter.ReleasePending()
	r.wake(w.pool)
	r.wake(nil)
}

// release gives a connection's place back.
func (r *room) release() {
	r.limiter.ReleaseConnection()
	r.wake(nil)
}

// wake rings for the first who waits for p, or for any pool, and has not been
// told yet.
func (r *room) wake(p *Pool) {
	if r.waiters.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.waiting {
		if p != nil && w.pool != p {
			continue
		}
		select {
		case w.bell <- struct{}{}:
			return
		default:
		}
	}
}

// spare takes a connection out that is in the way of one for another pool: one
// without requests, and of p's own only one that takes no more.
func (p *Pool) spare(other *Pool) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		if l.active == 0 && (p != other || !l.available()) {
			p.forget(l)
			return l
		}
	}
	return nil
}
