package acme

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

// Source is one certificate, kept fresh. Its methods are safe for concurrent
// use, and none waits for the authority.
type Source struct {
	s       Settings
	node    *Node
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate] // nil: none yet

	loaded, failed atomic.Uint64

	mu      sync.Mutex // guards what follows
	orders  map[string]uint64
	fault   string // why the last attempt failed
	since   time.Time
	ordered time.Time
	next    time.Time // when the worker acts

	// Only the worker, and Load before it, touch these.
	inUse    *stored   // current; nil: none yet
	due      time.Time // when current is to be replaced; zero: at once
	alone    time.Time // from when it is replaced even if the others cannot be asked
	failures int       // in a row
	kind     int       // index in Challenges of the one to use next
	again    bool      // a failure was met, or a pause kept, since the start
	waiting  bool      // for what the nodes share

	wake    chan struct{} // look at what the nodes share
	begin   sync.Once
	stop    context.CancelFunc
	running context.Context
	worker  sync.WaitGroup

	// What tests change.
	transport                      http.RoundTripper // nil: the usual one
	whileUnreachable, whileRefused pauses
	shortest                       time.Duration
}

var _ tlsterm.CertSource = (*Source)(nil)

// NewSource returns a source that has read nothing and asked nobody.
func (n *Node) NewSource(s Settings) *Source {
	c := &Source{
		s: s, node: n, log: n.s.Log.With("certificate", s.Name), orders: map[string]uint64{}, wake: make(chan struct{}, 1),
		whileUnreachable: whileUnreachable, whileRefused: whileRefused, shortest: shortest,
	}
	for _, o := range outcomes {
		c.orders[o] = 0
	}
	c.running, c.stop = context.WithCancel(context.Background())
	return c
}

// Check makes sure that the file of authorities can be used. It touches nothing
// of the node's.
func (s *Source) Check() error {
	if s.s.CAFile == "" {
		return nil
	}
	if _, err := readPool(s.s.CAFile); err != nil {
		return fmt.Errorf("ca_file: %w", err)
	}
	return nil
}

// Load reads what is stored; the node's store must be open. A certificate that
// fits the settings less than fully is used until there is a better one. Where
// what the nodes share cannot be had, the copy on disk has to do.
func (s *Source) Load(ctx context.Context) error {
	if err := s.Check(); err != nil {
		return err
	}
	st, err := s.node.opened()
	if err != nil {
		return err
	}
	if err := s.adopt(ctx, st); err != nil {
		return err
	}
	if st.shared != nil {
		if err := s.adoptShared(ctx, st); err != nil && !isAway(err) {
			return err
		}
	}
	s.remember(ctx, st)
	return nil
}

// adopt puts the certificate on disk in use, if there is one and it is newer
// than what is.
func (s *Source) adopt(ctx context.Context, st *store) error {
	found, err := st.certificate(ctx, s.s.Name)
	if err != nil || found == nil || !s.serves(found.cert.Leaf) {
		return err
	}
	if old := s.current.Load(); old != nil && !found.cert.Leaf.NotAfter.After(old.Leaf.NotAfter) {
		return nil
	}
	s.use(found)
	return nil
}

// serves reports whether a certificate is good for at least one of the hosts.
func (s *Source) serves(leaf *x509.Certificate) bool {
	for _, host := range s.s.Hosts {
		if leaf.VerifyHostname(host) == nil {
			return true
		}
	}
	return false
}

// fits reports whether a certificate is what the settings ask for. It goes by
// what was ordered: an authority may add names of its own.
func (s *Source) fits(c *stored) bool {
	_, inRSA := c.cert.Leaf.PublicKey.(*rsa.PublicKey)
	return inRSA == s.s.RSA && c.directory == s.s.Directory && c.hosts == s.s.wanted()
}

// wanted are the hosts in the one way to write them down.
func (s *Settings) wanted() string {
	return strings.Join(slices.Sorted(slices.Values(s.Hosts)), ",")
}

// use puts a certificate in use.
func (s *Source) use(c *stored) {
	leaf := c.cert.Leaf
	s.inUse, s.due, s.alone = c, time.Time{}, lastResort(leaf.NotBefore, leaf.NotAfter)
	if s.fits(c) {
		s.due = renewal(leaf.NotBefore, leaf.NotAfter)
	}
	s.current.Store(c.cert)
	s.loaded.Add(1)
	s.s.Changes.Add(1)
	s.schedule(s.due)
	if !time.Now().Before(leaf.NotAfter) {
		s.log.Warn("a stored certificate has expired; it is used until there is a new one", "not_after", leaf.NotAfter)
	}
}

func (s *Source) schedule(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = at
}

// Current implements tlsterm.CertSource.
func (s *Source) Current() *tls.Certificate { return s.current.Load() }

// Stats implements tlsterm.CertSource.
func (s *Source) Stats() tlsterm.Stats {
	t := tlsterm.Stats{Name: s.s.Name, Source: "acme", Hosts: s.s.Hosts, Loaded: s.loaded.Load(), Failed: s.failed.Load()}
	if c := s.current.Load(); c != nil {
		t.NotBefore, t.NotAfter = c.Leaf.NotBefore, c.Leaf.NotAfter
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Fault, t.FaultSince, t.Ordered, t.Next = s.fault, s.since, s.ordered, s.next
	t.Orders = maps.Clone(s.orders)
	return t
}

// Start does nothing yet: until the config is live, nobody could answer the
// authority's questions.
func (s *Source) Start(context.Context) error { return nil }

// Live begins to keep the certificate fresh. Doing it again does nothing.
func (s *Source) Live() {
	s.begin.Do(func() {
		if s.running.Err() == nil {
			s.node.join(s)
			s.worker.Go(s.work)
		}
	})
}

// Retire ends the worker, without waiting: another source has taken over.
func (s *Source) Retire() { s.stop() }

// Close ends the worker and waits for it. The certificate stays usable.
func (s *Source) Close(context.Context) error {
	s.stop()
	s.begin.Do(func() {}) // or Live might start one after this
	s.worker.Wait()
	return nil
}

// longestNap keeps a clock that was set, or a machine that slept, from
// delaying a renewal for longer.
const longestNap = time.Hour

// shortest is the least time from one order to the next, whatever certificates
// and clocks say.
const shortest = time.Minute

// work is the worker.
func (s *Source) work() {
	defer s.node.leave(s)
	for s.sleep() {
		s.attempt(s.running)
	}
}

// sleep waits until it is time to act; false: never again.
func (s *Source) sleep() bool {
	for {
		s.mu.Lock()
		left := time.Until(s.next)
		s.mu.Unlock()
		if left <= 0 {
			return s.running.Err() == nil
		}
		t := time.NewTimer(min(left, longestNap))
		select {
		case <-s.running.Done():
			t.Stop()
			return false
		case <-s.wake:
			s.look(s.running)
		case <-t.C:
		}
		t.Stop()
	}
}
