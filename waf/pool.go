package waf

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Pool shares engines: policies that come to the same rules use one engine,
// over routes and over revisions of the config. An engine costs megabytes and
// a good part of a second, so that one per route would not do. A Pool is safe
// for concurrent use.
type Pool struct {
	mu      sync.Mutex // guards engines, known and the references in them
	engines map[digest]*shared
	known   map[digest]known
	turns   *turns
}

// shared is an engine with those who use it.
type shared struct {
	ready  chan struct{} // closed when engine or err is there
	engine *engine
	err    error
	refs   int
}

// known is what a policy came to before: it saves assembling a megabyte of
// rules for every route with that policy.
type known struct {
	*shared
	text    digest
	replies bool
}

// NewPool returns an empty pool.
func NewPool() *Pool {
	return &Pool{engines: map[digest]*shared{}, known: map[digest]known{}, turns: newTurns()}
}

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
	// Every field of the policy, and of what is in it, is part of the key.
	key := digest(sha256.Sum256(fmt.Appendf(nil, "%#v", policy)))
	k, err := p.acquire(key, &policy)
	if err != nil {
		return nil, err
	}
	g := newGuard(&policy, route, k.replies)
	g.engine = k.engine
	g.release = func() error { return p.release(k) }
	return g, nil
}

func (p *Pool) acquire(key digest, policy *plugins.WAFPolicy) (known, error) {
	p.mu.Lock()
	if k, ok := p.known[key]; ok {
		k.refs++
		p.mu.Unlock()
		return k, nil // only engines that could be built are known
	}
	p.mu.Unlock()
	prog, rules, err := assemble(policy)
	if err != nil {
		return known{}, err
	}
	k := known{text: sha256.Sum256([]byte(prog.text())), replies: readsReplies(policy, rules)}

	p.mu.Lock()
	s, found := p.engines[k.text]
	if !found {
		s = &shared{ready: make(chan struct{})}
		p.engines[k.text] = s
	}
	s.refs++
	k.shared = s
	p.mu.Unlock()
	if found {
		<-s.ready
	} else {
		s.engine, s.err = build(prog)
		close(s.ready)
	}
	if s.err != nil {
		return known{}, p.release(k)
	}
	p.mu.Lock()
	p.known[key] = k
	p.mu.Unlock()
	return k, nil
}

// release gives one reference back; for an engine that could not be built it
// returns why.
func (p *Pool) release(k known) error {
	p.mu.Lock()
	k.refs--
	last := k.refs == 0
	if last {
		delete(p.engines, k.text)
		maps.DeleteFunc(p.known, func(_ digest, other known) bool { return other.shared == k.shared })
	}
	p.mu.Unlock()
	if k.err != nil {
		return k.err
	}
	if !last {
		return nil
	}
	return k.engine.close()
}
