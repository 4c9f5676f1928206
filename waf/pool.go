package waf

import (
	"crypto/sha256"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Pool shares engines: policies that come to the same rules use one engine,
// over routes and over revisions of the config. An engine costs megabytes and
// a good part of a second, so that one per route would not do. A Pool is safe
// for concurrent use.
type Pool struct {
	mu      sync.Mutex // guards engines and the references in it
	engines map[digest]*shared
}

// shared is an engine with those who use it.
type shared struct {
	ready  chan struct{} // closed when engine or err is there
	engine *engine
	err    error
	refs   int
}

// NewPool returns an empty pool.
func NewPool() *Pool { return &Pool{engines: map[digest]*shared{}} }

// Len is how many engines there are.
func (p *Pool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.engines)
}

// Check says what is wrong with a policy, by the path a user can edit. It
// compiles the policy's rules, whatever its mode.
func (p *Pool) Check(policy plugins.WAFPolicy) error {
	if policy.Mode == "off" {
		policy.Mode = "block"
	}
	g, err := p.Guard(policy, plugins.Route{})
	if err != nil {
		return err
	}
	return g.Close()
}

// Guard binds a policy to a route. Its Close gives the engine back; the last
// one to do so closes the engine.
func (p *Pool) Guard(policy plugins.WAFPolicy, route plugins.Route) (*Guard, error) {
	prog, err := assemble(&policy)
	if err != nil {
		return nil, err
	}
	facts, err := inventory(prog)
	if err != nil {
		return nil, err
	}
	key := digest(sha256.Sum256([]byte(prog.text())))
	s, err := p.acquire(key, prog)
	if err != nil {
		return nil, err
	}
	g := newGuard(&policy, route, facts)
	g.engine = s.engine
	g.release = func() error { return p.release(key, s) }
	return g, nil
}

func (p *Pool) acquire(key digest, prog *program) (*shared, error) {
	p.mu.Lock()
	s, found := p.engines[key]
	if !found {
		s = &shared{ready: make(chan struct{})}
		p.engines[key] = s
	}
	s.refs++
	p.mu.Unlock()
	if found {
		<-s.ready
	} else {
		s.engine, s.err = build(prog)
		close(s.ready)
	}
	if s.err != nil {
		return nil, p.release(key, s)
	}
	return s, nil
}

// release gives one reference back; for an engine that could not be built it
// returns why.
func (p *Pool) release(key digest, s *shared) error {
	p.mu.Lock()
	s.refs--
	last := s.refs == 0
	if last {
		delete(p.engines, key)
	}
	p.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if !last {
		return nil
	}
	return s.engine.close()
}
