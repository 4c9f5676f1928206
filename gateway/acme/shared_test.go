package acme_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
	"github.com/gatehouse-proxy/gatehouse/gateway/seal"
)

// commons is what the nodes of a test share.
type commons struct {
	mu      sync.Mutex // guards entries and away
	entries map[string]entry
	away    bool
	locks   map[string]chan struct{}
	slow    time.Duration // how long a write takes
}

type entry struct {
	data []byte
	ends time.Time // zero: never
}

func newCommons() *commons {
	return &commons{entries: map[string]entry{}, locks: map[string]chan struct{}{}}
}

var errAway = errors.New("the store is not there")

func (c *commons) get(name string) []byte {
	e, ok := c.entries[name]
	if !ok || !e.ends.IsZero() && !time.Now().Before(e.ends) {
		return nil
	}
	return e.data
}

// Get implements acme.Cache.
func (c *commons) Get(_ context.Context, name string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return nil, errAway
	}
	if data := c.get(name); data != nil {
		return data, nil
	}
	return nil, acme.ErrNone
}

// Replace implements acme.Cache.
func (c *commons) Replace(_ context.Context, name string, old, data []byte, ttl time.Duration) error {
	time.Sleep(c.slow)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return errAway
	}
	now := c.get(name)
	if (now == nil) != (old == nil) || !bytes.Equal(now, old) {
		return acme.ErrChanged
	}
	c.entries[name] = entry{data: data}
	if ttl > 0 {
		c.entries[name] = entry{data: data, ends: time.Now().Add(ttl)}
	}
	return nil
}

// Lock implements acme.Locker.
func (c *commons) Lock(ctx context.Context, name string) (context.Context, func(), error) {
	c.mu.Lock()
	l := c.locks[name]
	if l == nil {
		l = make(chan struct{}, 1)
		c.locks[name] = l
	}
	away := c.away
	c.mu.Unlock()
	if away {
		return nil, nil, errAway
	}
	select {
	case l <- struct{}{}:
		return ctx, func() { <-l }, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// Announce implements acme.Exchange.
func (c *commons) Announce(context.Context, map[string][]byte) (func(), error) {
	return func() {}, nil
}

func (c *commons) setAway(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
}

const fleetSecret = "a secret of the fleet, long enough for all"

// member is a node of a fleet, with a folder of its own.
func member(t testing.TB, c *commons) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir()}
	b.node = acme.NewNode(acme.NodeSettings{
		Dir: acme.DirIn(b.dir), Secret: fleetSecret, Shared: c, Version: "test",
		Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	})
	if err := b.node.Open(); err != nil {
		t.Fatal(err)
	}
	return b
}

// certificate is one that somebody issued for shop.test.
func certificate(t testing.TB, from, to time.Time) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"shop.test", "www.shop.test"}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, x, x, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func shop(c *acme.Settings) { c.Challenges = c.Challenges[:1] }

const day = 24 * time.Hour

// While what they share is away, nodes order nothing before the last tenth of the
// certificate's life, and then not all at once.
func TestWithoutTheOthers(t *testing.T) {
	c := newCommons()
	var benches []*bench
	for range 5 {
		benches = append(benches, member(t, c))
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		cert := certificate(t, began, began.Add(90*day))
		c.setAway(true)
		asked := map[time.Duration]bool{}
		for i, b := range benches {
			ca := &sullen{reply: func() (*http.Response, error) { return nil, errNobody }}
			if i < 4 {
				settings := acme.Settings{Name: "shop", Hosts: []string{"shop.test", "www.shop.test"}, Directory: "https://ca.test/dir"}
				if err := acme.Issue(b.node, settings, cert); err != nil {
					t.Fatal(err)
				}
			}
			s := b.source(shop)
			s.Through(ca)
			s.Live()
			defer func() {
				s.Close(t.Context())
				if i == 4 {
					if ca.asked() != 0 {
						t.Error("a node without a certificate orders one on its own")
					}
					if f := s.Stats(); !strings.Contains(f.Fault, "nothing is ordered without it") || f.Orders["store_away"] == 0 {
						t.Errorf("%+v", f)
					}
					return
				}
				ca.mu.Lock()
				defer ca.mu.Unlock()
				if len(ca.times) == 0 {
					t.Fatal("no order although the certificate has expired")
				}
				first := ca.times[0].Sub(began)
				if first < 81*day || first > 86*day {
					t.Errorf("the first order is after %s", first)
				}
				asked[first.Round(time.Second)] = true
				if f := s.Stats(); f.Orders["unreachable"] == 0 || f.Orders["store_away"] == 0 {
					t.Errorf("%+v", f)
				}
			}()
		}
		time.Sleep(91 * day)
		synctest.Wait()
		t.Cleanup(func() {
			if len(asked) < 3 {
				t.Errorf("they order at the same time: %v", asked)
			}
		})
	})
}

// A node whose certificate is due waits for what they share, and goes on at once
// when it is back.
func TestTheStoreComesBack(t *testing.T) {
	c := newCommons()
	a, b := member(t, c), member(t, c)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		settings := acme.Settings{Name: "shop", Hosts: []string{"shop.test", "www.shop.test"}, Directory: "https://ca.test/dir"}
		if err := acme.Issue(a.node, settings, certificate(t, began.Add(-70*day), began.Add(20*day))); err != nil {
			t.Fatal(err)
		}
		newer := certificate(t, began, began.Add(90*day))
		if err := acme.Issue(b.node, settings, newer); err != nil {
			t.Fatal(err)
		}
		c.setAway(true)
		ca := &sullen{reply: func() (*http.Response, error) { return nil, errNobody }}
		sa, sb := a.source(shop), b.source(shop)
		defer sa.Close(t.Context())
		defer sb.Close(t.Context())
		sa.Through(ca)
		sb.Through(ca)
		sa.Live()
		sb.Live()
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := sa.Stats(); !strings.Contains(s.Fault, "nothing is ordered without it before 2000-01-1") {
			t.Errorf("%+v", s)
		}
		c.setAway(false)
		b.node.Look()
		synctest.Wait()
		a.node.Look()
		synctest.Wait()
		if !sa.Current().Leaf.Equal(newer.Leaf) || sa.Stats().Fault != "" || !sa.Stats().Next.After(time.Now()) {
			t.Errorf("%+v", sa.Stats())
		}
		// Emptied, it gets the newest back; an older one does not replace it.
		c.entries = map[string]entry{}
		a.node.Look()
		synctest.Wait()
		if c.entries[sa.Entry()].data == nil {
			t.Error("the certificate was not put back")
		}
		if ca.asked() != 0 {
			t.Error("the authority was asked")
		}
	})
}

// However many nodes, a refusing authority is not asked more often than by one.
func TestAWeekOfFailuresOfAFleet(t *testing.T) {
	c := newCommons()
	c.slow = time.Second // what one node writes, the others cannot read at once
	benches := []*bench{member(t, c), member(t, c), member(t, c)}
	synctest.Test(t, func(t *testing.T) {
		ca := &sullen{reply: answer(403, "unauthorized", "")}
		for _, b := range benches {
			s := b.source(shop)
			s.Through(ca)
			s.Live()
			defer s.Close(t.Context())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := ca.asked(); n != 1 {
			t.Errorf("asked by %d nodes at once", n)
		}
		time.Sleep(7 * day)
		synctest.Wait()
		if n := ca.asked(); n > 50 || n < 28 {
			t.Errorf("asked %d times in a week", n)
		}
		if n := len(ca.times); n > 4 && ca.times[4].Sub(ca.times[0]) < 20*time.Minute {
			t.Errorf("five times in %s", ca.times[4].Sub(ca.times[0]))
		}
	})
}

// A note of a node whose clock is minutes off delays nobody for longer than its
// pause, and is no reason to try at once.
func TestNotesOfOtherClocks(t *testing.T) {
	for name, skew := range map[string]time.Duration{"right": 0, "ahead": 10 * time.Minute, "behind": -10 * time.Minute, "an hour behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			c := newCommons()
			b := member(t, c)
			key, err := seal.New(fleetSecret)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				ca := &sullen{reply: answer(403, "unauthorized", "")}
				s := b.source(shop)
				defer s.Close(t.Context())
				s.Through(ca)
				const pause = 5 * time.Minute
				theirs := time.Now().Add(skew)
				text := s.Note("other", theirs, theirs.Add(pause), true)
				if err := c.Replace(t.Context(), s.NoteEntry(), nil, key.Seal(s.NoteEntry(), text), pause); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				s.Live()
				synctest.Wait()
				if f := s.Stats(); f.Fault != "another node has failed: because" || !f.Next.After(began) || f.Failed != 0 {
					t.Errorf("%+v", f)
				}
				time.Sleep(2*pause + time.Minute)
				synctest.Wait()
				if ca.asked() == 0 {
					t.Fatal("never asked")
				}
				if first := ca.times[0].Sub(began); first < pause || first > 2*pause {
					t.Errorf("asked after %s", first)
				}
			})
		})
	}
}

func FuzzChallenge(f *testing.F) {
	f.Add([]byte("-----BEGIN ACME CHALLENGE-----\nKind: http-01\nName: token\n\nYW5zd2Vy\n-----END ACME CHALLENGE-----\n"))
	f.Add([]byte("-----BEGIN ACME CHALLENGE-----\nKind: tls-alpn-01\nName: shop.test\n\n-----END ACME CHALLENGE-----\n"))
	f.Add([]byte("-----BEGIN ACME CHALLENGE-----\nKind: dns-01\n\n-----END ACME CHALLENGE-----\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		again, err := acme.ParseChallenge(text)
		if err != nil {
			return
		}
		twice, err := acme.ParseChallenge(again)
		if err != nil || !bytes.Equal(again, twice) {
			t.Errorf("%q became %q: %v", text, again, err)
		}
	})
}
