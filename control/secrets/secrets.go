// Package secrets is what the nodes of a fleet share and nobody else may read:
// accounts and certificates of ACME, the answers to pending challenges, and the
// secrets behind session tickets. All of it is sealed, with a key that every node
// has from its own config, before it gets to the store. Requests and handshakes
// never come here: what they need is pushed to where they look.
package secrets

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
	"github.com/gatehouse-proxy/gatehouse/gateway/seal"
)

const (
	// poll is how often the store is asked whether anything has changed: what a
	// lost notification costs.
	poll = time.Second
	// slow is how often everything is looked at, although nothing seems to have
	// changed: what somebody else's hand in the store costs.
	slow = time.Minute
)

// The folders of the store.
const (
	entryFolder     = "secrets"         // what is sealed, and the two names below
	lockFolder      = "order-locks"     // who orders what
	challengeFolder = "challenges"      // what is pending
	seenFolder      = "challenges-seen" // which node answers which
)

const (
	keyEntry     = "key"     // the ID of the key that everything is sealed with
	versionEntry = "version" // another text after every change
	lostEntry    = "lost"    // for a while after the store has lost what it had: which node has found that
)

// Settings of what one node shares. The times may be zero.
type Settings struct {
	Store store.Store
	// Key seals; all nodes have the same.
	Key *seal.Key
	// Node is this node's name.
	Node string
	// Live lists the names of the live nodes, if that is known; it may be nil.
	Live func(ctx context.Context) ([]string, error)
	// Lease is how long the lock of a node that has died is still held; 0: 30 s.
	Lease time.Duration
	// Spread is how long the nodes have to take up a challenge at most; 0: 3 s.
	Spread time.Duration
	// Patience is how long the store may take for one question and its answer;
	// 0: 3 s.
	Patience time.Duration
	Log      *slog.Logger
}

// Certificates are who is told of changes.
type Certificates interface {
	// Look is called when shared entries have changed, or can be had again.
	Look()
	// Challenged is called with all pending challenges, by name, and returns the
	// names of those that this node answers.
	Challenged(list map[string][]byte) (answered []string)
}

// Shared is what one node shares with the others.
type Shared struct {
	s        Settings
	instance string
	certs    Certificates // nil before Start
	kick     chan struct{}
	moved    bell // a lock or an acknowledgement has changed

	mu      sync.Mutex // guards what follows
	health  health
	trust   trust
	locks   []LockStatus
	tickets map[*Tickets]struct{}

	// Only the goroutine that follows touches these.
	version   string
	looked    time.Time
	announced string // the challenges that this node has said to answer
	pending   bool   // there were some

	stop func()
	done sync.WaitGroup
}

var _ acme.Shared = (*Shared)(nil)

// New returns one that has asked nothing yet.
func New(s Settings) *Shared {
	if s.Lease <= 0 {
		s.Lease = 30 * time.Second
	}
	if s.Spread <= 0 {
		s.Spread = 3 * time.Second
	}
	if s.Patience <= 0 {
		s.Patience = 3 * time.Second
	}
	return &Shared{
		s: s, instance: rand.Text()[:12], kick: make(chan struct{}, 1), stop: func() {},
		tickets: map[*Tickets]struct{}{},
	}
}

// Start begins to follow the store.
func (s *Shared) Start(c Certificates) {
	s.certs = c
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.done.Go(func() { s.watch(ctx) })
	s.done.Go(func() { s.follow(ctx) })
}

// Close ends that; safe twice and without Start.
func (s *Shared) Close() {
	s.stop()
	s.done.Wait()
}

func (s *Shared) poke() {
	select {
	case s.kick <- struct{}{}:
	default: // it is about to look
	}
}

// bell wakes everybody who waits for it.
type bell struct {
	mu sync.Mutex // guards c
	c  chan struct{}
}

// heard is closed when the bell rings next.
func (b *bell) heard() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c != nil {
		close(b.c)
		b.c = nil
	}
}

// sleep waits for d, the bell or the end of ctx.
func sleep(ctx context.Context, d time.Duration, heard <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-heard:
	case <-t.C:
	}
}
