package upstream

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// Upstream is a named set of endpoints with one balancing policy.
// Its methods are safe for concurrent use.
type Upstream struct {
	settings Settings
	breaker  *Breaker
	picker   atomic.Pointer[picker]
	epoch    time.Time // of the ticks in ewma; the same across reloads
	lastTick atomic.Uint32
	turn     *atomic.Uint64 // round robin's place; kept when the picker changes
	random   func() uint64
	probe    prober

	mu        sync.Mutex // guards what follows and Endpoint.state; taken before the locks of Breaker and Pool
	endpoints []*Endpoint
	source    sourceState
	latest    []EndpointSettings // the last report's, if it was good; the source's goroutine's own
	running   context.Context    // nil before Start and once retired
	retired   bool
	letGo     bool // of the connections

	stop  context.CancelFunc
	wg    sync.WaitGroup
	warm  chan struct{} // wakes the keeper when slow start begins
	first bool          // no endpoint list yet: the first one starts at full share
	news  []Event       // what New found changed; told by Start
}

// New builds an upstream without opening anything. What prev has of the same
// name (may be nil) is taken over by address: connections, load, latency,
// health, ejections, breaker counters. prev stays fully usable, so that a
// revision can be thrown away; after a successful swap Retire it.
// Errors name the path in the config, all at once.
func New(s Settings, prev *Upstream) (*Upstream, error) {
	return build(s, prev, rand.Uint64)
}

func build(s Settings, prev *Upstream, random func() uint64) (*Upstream, error) {
	s, err := s.withDefaults()
	if err != nil {
		return nil, err
	}
	u := &Upstream{
		settings: s,
		random:   random,
		stop:     func() {},
		warm:     make(chan struct{}, 1),
		first:    true,
		epoch:    time.Now(),
		turn:     new(atomic.Uint64),
	}
	u.turn.Store(random() >> 1) // nodes that start together do not step together
	if s.HealthCheck != nil {
		u.probe = newProber(*s.HealthCheck, s.Dial)
	}
	now := time.Now()
	u.picker.Store(&picker{})
	if prev == nil {
		u.breaker = NewBreaker(s.Breaker)
	} else {
		u.breaker, u.epoch, u.turn = prev.breaker, prev.epoch, prev.turn
		u.lastTick.Store(prev.lastTick.Load())
		prev.mu.Lock()
		defer prev.mu.Unlock()
		u.first = prev.first
		u.picker.Store(&picker{panics: prev.picker.Load().panics})
	}
	switch {
	case s.Source == nil:
		u.news = u.setEndpoints(s.Endpoints, prev, now)
	case prev != nil && prev.settings.Source != nil && sameName(prev.settings.Source, s.Source):
		u.source = prev.source
		u.setEndpoints(u.source.list, prev, now)
	}
	u.news = append(u.news, u.rebuild(now)...)
	return u, nil
}

// Name is the upstream's name.
func (u *Upstream) Name() string { return u.settings.Name }

// Source finds the upstream's endpoints; nil: they are given.
func (u *Upstream) Source() Source { return u.settings.Source }

// Breaker has the upstream's limits and what counts against them.
func (u *Upstream) Breaker() *Breaker { return u.breaker }

// Start begins health checks, the sweep of ejections and the source, and makes
// the breaker's limits apply. It waits for a source's first word, at most 5 s or
// until ctx ends; no list is not an error: Pick refuses until there is one.
func (u *Upstream) Start(ctx context.Context) error {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	u.mu.Lock()
	if u.retired || u.running != nil {
		u.mu.Unlock()
		stop()
		return nil
	}
	u.running, u.stop = run, stop
	for _, e := range u.endpoints {
		u.startProbe(e)
	}
	u.wg.Go(func() { u.keep(run) })
	wait := u.startSource(run)
	u.breaker.own(u, u.settings.Breaker)
	news := u.news
	u.news = nil
	u.mu.Unlock()
	u.emit(news)
	if wait != nil {
		timer := time.NewTimer(startWait)
		defer timer.Stop()
		select {
		case <-wait:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// Retire ends health checks, sweeps and the source of an upstream that has been
// replaced, and gives its limits up; it waits for them to end. Connections that
// no other revision holds are closed when idle. Requests of the old revision,
// which a tunnel may keep for days, still work and can still be picked for; what
// they connect is closed behind them.
func (u *Upstream) Retire() {
	u.mu.Lock()
	stop := u.stop
	u.running, u.retired = nil, true
	u.mu.Unlock()
	stop()
	u.breaker.leave(u)
	u.wg.Wait()
	u.mu.Lock()
	var held []*Endpoint
	if !u.letGo {
		u.letGo, held = true, u.endpoints
	}
	u.mu.Unlock()
	for _, e := range held {
		e.host.release()
	}
}

// Close retires u, which picks nothing from now on. It is safe to call twice,
// and without Start. Requests in flight may still finish and call Done.
func (u *Upstream) Close(context.Context) error {
	u.Retire()
	u.mu.Lock()
	u.endpoints = nil
	u.picker.Store(&picker{})
	u.mu.Unlock()
	return nil
}

// PickRequest is what a choice depends on. The zero value is an ordinary request.
type PickRequest struct {
	// Hash is what ring_hash and maglev go by, if HasHash; see Hash. Without one
	// they choose at random.
	Hash    uint64
	HasHash bool
	// Prefer is the ID of the endpoint the client shall stay with; it is used if
	// it is usable and of a priority in use. Empty: none. Borrowed.
	Prefer string
	// Exclude are endpoints tried already. One is chosen again only if there is no other.
	Exclude []*Endpoint
}

// Pick chooses an endpoint and counts the request as active until Done. It does
// not block or allocate. Its errors are reason.NoEndpoint and
// reason.UpstreamOverflow.
func (u *Upstream) Pick(p *PickRequest) (*Endpoint, error) {
	if !u.breaker.requests.try() {
		u.count(Overflow)
		return nil, reason.UpstreamOverflow
	}
	e, how := u.picker.Load().choose(p, u.random)
	if e == nil {
		u.breaker.requests.release()
		u.count(NoneUsable)
		return nil, reason.NoEndpoint
	}
	e.begin()
	u.count(how)
	return e, nil
}

func (u *Upstream) count(o Outcome) {
	if u.settings.Observer != nil {
		u.settings.Observer.Pick(o)
	}
}

func (u *Upstream) event(kind EventKind, address, detail string, now time.Time) Event {
	return Event{Upstream: u.settings.Name, Kind: kind, Address: address, Detail: detail, Time: now}
}
