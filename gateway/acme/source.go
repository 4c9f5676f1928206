package acme

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
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
	due      time.Time // when current is to be replaced; zero: at once
	failures int       // in a row
	kind     int       // index in Challenges of the one to use next

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
		s: s, node: n, log: n.s.Log.With("certificate", s.Name), orders: map[string]uint64{},
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
// fits the settings less than fully is used until there is a better one.
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
	s.remember(ctx, st)
	return nil
}

// adopt puts the stored certificate in use, if there is one and it is newer
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
	s.due = time.Time{}
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
		case <-t.C:
		}
	}
}

// attempt gets a certificate, or says why not and when to try again.
func (s *Source) attempt(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	err := s.renew(ctx)
	if s.running.Err() != nil {
		return // stopped: that is no failure
	}
	if err == nil {
		s.succeeded()
		return
	}
	s.failedWith(classify(err))
}

// renew gets a new certificate, unless another node has stored one.
func (s *Source) renew(ctx context.Context) error {
	st, err := s.node.opened()
	if err != nil {
		return err
	}
	unlock, err := s.node.locker.Lock(ctx, certificateEntry(s.s.Name))
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.adopt(ctx, st); err != nil {
		return err
	}
	if time.Now().Before(s.due) {
		return nil
	}
	found, err := s.obtain(ctx, st)
	if err != nil {
		return err
	}
	s.use(found)
	if soonest := time.Now().Add(s.shortest); s.due.Before(soonest) {
		s.due = soonest // a very short life, or a clock that is ahead: never ask without a pause
		s.schedule(s.due)
	}
	s.log.Info("a new certificate is in use", "names", s.s.Hosts, "not_after", found.cert.Leaf.NotAfter, "renewal", s.due)
	s.mu.Lock()
	s.ordered = time.Now()
	s.orders[succeeded]++
	s.mu.Unlock()
	if err := st.putCertificate(ctx, s.s.Name, found); err != nil {
		// It is in use all the same: to order again would change nothing.
		s.log.Error("a new certificate cannot be stored; after a restart it is ordered again", "error", err)
	}
	return nil
}

// obtain asks the authority. The first attempt tries each kind of challenge,
// later ones one each, to spare the authority's limits.
func (s *Source) obtain(ctx context.Context, st *store) (*stored, error) {
	unlock, err := s.node.locker.Lock(ctx, s.s.account())
	if err != nil {
		return nil, err
	}
	c, done, err := s.dial(ctx, st)
	if err == nil {
		defer done()
		err = s.account(ctx, c)
	}
	unlock()
	if err != nil {
		return nil, err
	}
	tries := 1
	if s.failures == 0 {
		tries = len(s.s.Challenges)
	}
	var errs []error
	for range tries {
		kind := s.s.Challenges[s.kind%len(s.s.Challenges)]
		cert, err := s.order(ctx, c, kind)
		if err == nil {
			return &stored{cert: cert, directory: s.s.Directory, hosts: s.s.wanted()}, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", kind, err))
		if k := classify(err).kind; k != unproved && !errors.Is(err, errNoKind) {
			break // another challenge would meet the same
		}
		s.kind++
	}
	return nil, errors.Join(errs...)
}

func (s *Source) succeeded() {
	s.mu.Lock()
	again := s.fault != ""
	s.fault, s.since = "", time.Time{}
	s.mu.Unlock()
	if again {
		s.log.Info("the certificate authority answers again")
	}
	s.failures = 0
	s.forget()
}

func (s *Source) failedWith(f failure) {
	s.failures++
	s.failed.Add(1)
	p := s.whileRefused
	if f.kind == unreachable {
		p = s.whileUnreachable
	}
	now := time.Now()
	next := now.Add(p.pause(s.failures, f.wait))
	s.mu.Lock()
	s.orders[f.kind]++
	if s.fault == "" {
		s.since = now
	}
	s.fault, s.next = f.text, next
	s.mu.Unlock()
	until := "nothing: there is none yet"
	if c := s.current.Load(); c != nil {
		until = "the last one, until " + c.Leaf.NotAfter.Format(time.RFC3339)
	}
	s.log.Error("no certificate could be had from the authority", "kind", f.kind, "error", f.text,
		"failures", s.failures, "next_try", next.Round(time.Second), "in_use", until)
	if f.kind != unreachable {
		s.note(note{failures: s.failures, at: now, next: next, asked: f.wait > 0})
	}
}
