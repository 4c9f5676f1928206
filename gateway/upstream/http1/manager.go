package http1

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

const (
	// tick is how often the manager looks at all connections, and so how much
	// later than asked a long timeout may come.
	tick = 50 // ms
	// exact is below how many ms a timeout gets a timer of its own.
	exact = 1000
	// examineEvery is how often an idle connection is checked.
	examineEvery = 1000 // ms
)

// Manager keeps time for the connections of many pools: a coarse clock and
// one goroutine that looks for timeouts, so that a request costs no timer. The
// goroutine runs only while there are connections.
type Manager struct {
	start time.Time
	now   atomic.Int64 // ms since start, as of the last tick

	mu      sync.Mutex // guards first, running, gates
	first   *Conn
	running bool
	gates   map[transport.Limiter]*gate
	wg      sync.WaitGroup
}

// NewManager returns a manager without connections.
func NewManager() *Manager { return &Manager{start: time.Now()} }

// Close ends every connection, busy ones included, and waits for the
// goroutine. Nothing may be asked of its pools afterwards.
func (m *Manager) Close() {
	m.mu.Lock()
	var all []*Conn
	for c := m.first; c != nil; c = c.next {
		all = append(all, c)
	}
	m.mu.Unlock()
	for _, c := range all {
		if c.idleSince.Load() != 0 {
			c.pool.Close()
		} else {
			c.kill(stateCut)
		}
	}
	m.wg.Wait()
}

// precise is the time in ms since start. It is never 0, which means no time.
func (m *Manager) precise() int64 { return time.Since(m.start).Milliseconds() + 1 }

// at is t in ms since start, rounded up so that nothing ends early; 0 for no
// time.
func (m *Manager) at(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(1, (t.Sub(m.start)+time.Millisecond-1).Milliseconds()+1)
}

// join finds or makes the gate of a limiter for p.
func (m *Manager) join(l transport.Limiter, p *Pool) *gate {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.gates[l]
	if g == nil {
		if m.gates == nil {
			m.gates = map[transport.Limiter]*gate{}
		}
		g = &gate{limiter: l}
		m.gates[l] = g
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pools = append(g.pools, p)
	return g
}

// part is the reverse of join. The gate of the last pool is forgotten.
func (m *Manager) part(g *gate, p *Pool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, o := range g.pools {
		if o == p {
			g.pools = append(g.pools[:i], g.pools[i+1:]...)
			break
		}
	}
	if len(g.pools) == 0 && m.gates[g.limiter] == g {
		delete(m.gates, g.limiter)
	}
}

func (m *Manager) add(c *Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.next = m.first
	if m.first != nil {
		m.first.prev = c
	}
	m.first = c
	if !m.running {
		m.running = true
		m.now.Store(m.precise())
		m.wg.Go(m.run)
	}
}

func (m *Manager) remove(c *Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.prev != nil {
		c.prev.next = c.next
	} else if m.first == c {
		m.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
}

func (m *Manager) run() {
	t := time.NewTicker(tick * time.Millisecond)
	defer t.Stop()
	var idle []*Conn
	for range t.C {
		var more bool
		idle, more = m.sweep(idle[:0])
		if !more {
			return
		}
		now := m.now.Load()
		for i, c := range idle {
			c.pool.examine(c, now)
			idle[i] = nil
		}
	}
}

// sweep ends what has run out of time and collects the idle connections to be
// examined; more is false when there are no connections left.
func (m *Manager) sweep(idle []*Conn) (due []*Conn, more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first == nil {
		m.running = false
		return idle, false
	}
	now := m.precise()
	m.now.Store(now)
	for c := m.first; c != nil; c = c.next {
		if since := c.idleSince.Load(); since != 0 {
			if now >= c.examineAt {
				c.examineAt = now + examineEvery
				idle = append(idle, c)
			}
			continue
		}
		c.expire(now)
	}
	return idle, true
}
