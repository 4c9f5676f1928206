package acme_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"encoding/base64"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme/acmetest"
)

func TestFirstCertificate(t *testing.T) {
	t.Parallel()
	key := base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32))
	for name, tc := range map[string]struct {
		authority acmetest.Settings
		edit      func(*acme.Settings)
	}{
		"tls-alpn-01":             {acmetest.Settings{}, func(s *acme.Settings) { s.Challenges = []acme.Kind{acme.TLSALPN01} }},
		"http-01":                 {acmetest.Settings{}, func(s *acme.Settings) { s.Challenges = []acme.Kind{acme.HTTP01} }},
		"many nonces are refused": {acmetest.Settings{RejectNonces: 15}, nil}, // thirteen in a row end an order: once in 10^9 runs
		"an RSA key":              {acmetest.Settings{}, func(s *acme.Settings) { s.RSA = true }},
		"an external account": {acmetest.Settings{Binding: map[string]string{"kid-1": key}}, func(s *acme.Settings) {
			s.BindingID, s.BindingKey, s.Email = "kid-1", bytes.Repeat([]byte("k"), 32), "ops@example.com"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := withAuthority(t, tc.authority)
			c := b.source(tc.edit)
			if b.ca.Requests() != 0 || c.Current() != nil {
				t.Error("the authority was asked before the config was live")
			}
			c.Live()
			leaf := b.issued(c, nil)
			b.wait("success is noted", func() bool { return c.Stats().Orders["success"] == 1 })
			s := c.Stats()
			third := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
			if s.Fault != "" || s.Failed != 0 || s.Loaded != 1 || s.Next.After(third) || s.Next.Before(third.AddDate(0, 0, -5)) || s.Ordered.IsZero() {
				t.Errorf("%+v", s)
			}
			switch leaf.PublicKey.(type) {
			case *rsa.PublicKey:
				if name != "an RSA key" {
					t.Error("an RSA key")
				}
			case *ecdsa.PublicKey:
				if name == "an RSA key" {
					t.Error("an ECDSA key")
				}
			}
			if b.ca.Orders() != 1 && tc.authority.RejectNonces == 0 {
				t.Errorf("%d orders", b.ca.Orders())
			}
			if _, ok := b.node.Challenges().HTTP("/.well-known/acme-challenge/"); ok || b.node.Challenges().TLS("shop.test") != nil {
				t.Error("a challenge is answered after its end")
			}
		})
	}
}

func TestRestartsUseWhatIsStored(t *testing.T) {
	t.Parallel()
	b := withAuthority(t, acmetest.Settings{})
	c := b.source(nil)
	c.Live()
	leaf := b.issued(c, nil)
	b.wait("it is stored", func() bool { return stored(t, b)["certificate-shop"] != nil })
	c.Close(t.Context())
	requests := b.ca.Requests()
	b.ca.Filter(acmetest.Down)
	b.restart()
	d := b.source(nil)
	if d.Current() == nil || !d.Current().Leaf.Equal(leaf) {
		t.Fatal("what was stored is not in use")
	}
	d.Live()
	if s := d.Stats(); s.Next.IsZero() || s.Fault != "" || s.Loaded != 1 {
		t.Errorf("%+v", s)
	}
	d.Close(t.Context())
	if n := b.ca.Requests(); n != requests {
		t.Errorf("the authority was asked %d times for what is there", n-requests)
	}

	// Another wish is ordered at once; until then what is there is used. The
	// account is the same.
	b.ca.Filter(nil)
	b.restart()
	e := b.source(func(s *acme.Settings) { s.Hosts = append(s.Hosts, "new.shop.test") })
	if e.Current() == nil || !e.Current().Leaf.Equal(leaf) {
		t.Fatal("what was stored is not in use until there is a better one")
	}
	e.Live()
	if got := b.issued(e, leaf); got.VerifyHostname("new.shop.test") != nil {
		t.Errorf("%v", got.DNSNames)
	}
	b.logged(1, "an account was made at the authority")
}

// stored are the files by name, but temporary ones.
func stored(t *testing.T, b *bench) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	dir := acme.DirIn(b.dir)
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		content, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err == nil {
			out[f.Name()] = content
		}
	}
	return out
}

func TestNothingIsStoredInPlain(t *testing.T) {
	t.Parallel()
	b := withAuthority(t, acmetest.Settings{})
	c := b.source(nil)
	c.Live()
	leaf := b.issued(c, nil)
	b.wait("it is stored", func() bool { return stored(t, b)["certificate-shop"] != nil })
	for name, content := range stored(t, b) {
		for _, secret := range [][]byte{[]byte("PRIVATE KEY"), []byte("-----BEGIN"), leaf.Raw[:64], []byte("shop.test")} {
			if bytes.Contains(content, secret) {
				t.Errorf("%s can be read", name)
			}
		}
	}
	err := filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == b.dir || path == b.caFile() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestUnusableFilesAreMovedAside(t *testing.T) {
	t.Parallel()
	b := withAuthority(t, acmetest.Settings{})
	c := b.source(nil)
	c.Live()
	leaf := b.issued(c, nil)
	b.wait("it is stored", func() bool { return stored(t, b)["certificate-shop"] != nil })
	c.Close(t.Context())
	path := filepath.Join(acme.DirIn(b.dir), "certificate-shop")
	good := stored(t, b)["certificate-shop"]
	var account string
	for name := range stored(t, b) {
		if strings.HasPrefix(name, "account-") {
			account = filepath.Join(acme.DirIn(b.dir), name)
		}
	}
	for name, spoil := range map[string]func(t *testing.T){
		"cut": func(t *testing.T) { write(t, path, good[:len(good)/2]) },
		"another entry under this name": func(t *testing.T) {
			other, err := os.ReadFile(account)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, other)
		},
		"a PEM file":   func(t *testing.T) { write(t, path, b.ca.PEM) },
		"another key":  func(t *testing.T) { write(t, acme.KeyFileIn(b.dir), bytes.Repeat([]byte("x"), 40)) },
		"nothing left": func(t *testing.T) { write(t, path, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			spoil(t)
			before := strings.Count(b.log.String(), "moved aside")
			b.restart()
			c := b.source(nil)
			if c.Current() != nil {
				t.Fatal("it was used")
			}
			if strings.Count(b.log.String(), "moved aside") == before {
				t.Errorf("the log says nothing:\n%s", b.log.String())
			}
			if stored(t, b)["certificate-shop"+".unusable"] == nil || stored(t, b)["certificate-shop"] != nil {
				t.Errorf("it was not moved aside")
			}
			c.Live()
			leaf = b.issued(c, leaf)
			b.wait("it is stored", func() bool { return stored(t, b)["certificate-shop"] != nil })
			c.Close(t.Context())
		})
	}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRenewalAheadOfTime(t *testing.T) {
	t.Parallel()
	b := withAuthority(t, acmetest.Settings{Seconds: 15})
	c := b.source(nil)
	c.Hurry(50*time.Millisecond, 50*time.Millisecond)
	c.Live()
	first := b.issued(c, nil)
	if left := first.NotAfter.Sub(c.Stats().Next); left < first.NotAfter.Sub(first.NotBefore)/3 {
		t.Errorf("the renewal is due %s before the end", left)
	}
	second := b.issued(c, first)
	if bytes.Equal(first.RawSubjectPublicKeyInfo, second.RawSubjectPublicKeyInfo) {
		t.Error("the old key is used again")
	}
	// With the authority gone, the last one stays, and is told of.
	b.ca.Filter(acmetest.Down)
	b.wait("a failure", func() bool { return c.Stats().Orders["unreachable"] >= 2 })
	if got := c.Current(); got == nil || got.Leaf.Equal(first) {
		t.Error("the last certificate was given up")
	}
	if s := c.Stats(); s.Fault == "" || s.FaultSince.IsZero() || !s.Next.After(s.FaultSince) {
		t.Errorf("%+v", s)
	}
	last := c.Current().Leaf
	b.ca.Filter(nil)
	b.issued(c, last)
	b.wait("all is well", func() bool { return c.Stats().Fault == "" })
	b.logged(1, "the certificate is as it should be again")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		authority acmetest.Settings
		spoil     func(*bench)
		edit      func(*acme.Settings)
		outcome   string
		says      string
		orders    int
	}{
		"down":                {acmetest.Settings{}, func(b *bench) { b.ca.Filter(acmetest.Down) }, nil, "unreachable", "EOF", 0},
		"its certificate":     {acmetest.Settings{}, nil, func(s *acme.Settings) { s.CAFile = "" }, "unreachable", "certificate", 0},
		"overloaded":          {acmetest.Settings{}, func(b *bench) { b.ca.Filter(acmetest.Fail(503, "serverInternal", "later", "7200")) }, nil, "unreachable", "later", 0},
		"a rate limit":        {acmetest.Settings{}, func(b *bench) { b.ca.Filter(acmetest.Fail(429, "rateLimited", "too many", "7200")) }, nil, "rate_limited", "too many", 0},
		"nobody is reached":   {acmetest.Settings{}, func(b *bench) { b.ca.Reach("", "") }, nil, "challenge_failed", "shop.test", 2},
		"a name it refuses":   {acmetest.Settings{Blocked: []string{"shop.test"}}, nil, nil, "refused", "rejectedIdentifier", 1},
		"no external account": {acmetest.Settings{Binding: map[string]string{"k": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s"}}, nil, nil, "refused", "externalAccount", 0},
		"terms not agreed to": {acmetest.Settings{}, nil, func(s *acme.Settings) { s.TermsAgreed = false }, "refused", "terms of service", 0},
		"it answers with no end": {acmetest.Settings{}, func(b *bench) {
			b.ca.Filter(func(w http.ResponseWriter, r *http.Request) bool {
				for {
					if _, err := w.Write(make([]byte, 64<<10)); err != nil {
						return true
					}
				}
			})
		}, nil, "refused", "", 0},
		"its file of authorities": {acmetest.Settings{}, func(b *bench) { os.Remove(b.caFile()) }, nil, "unusable", "ca.pem", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := withAuthority(t, tc.authority)
			c := b.source(tc.edit)
			if tc.spoil != nil {
				tc.spoil(b)
			}
			c.Live()
			b.wait("a failure", func() bool { return c.Stats().Fault != "" })
			s := c.Stats()
			if s.Orders[tc.outcome] != 1 || !strings.Contains(s.Fault, tc.says) || strings.Contains(s.Fault, "\n") || s.Failed != 1 {
				t.Errorf("%+v", s)
			}
			if n := b.ca.Orders(); n != tc.orders {
				t.Errorf("%d orders, want %d", n, tc.orders)
			}
			if wait := s.Next.Sub(s.FaultSince); wait < 20*time.Second || strings.Contains(name, "a rate limit") && wait < 7000*time.Second || wait > 2*time.Hour {
				t.Errorf("the next try is in %s", wait)
			}
			b.logged(1, "no certificate could be had from the authority")
			if c.Current() != nil {
				t.Error("a certificate from nowhere")
			}
		})
	}
}

// A stranger asks for challenges that are not pending: the host's of another
// time, or a host that is none of ours.
func TestStrangersGetNoChallengeAnswered(t *testing.T) {
	t.Parallel()
	b := withAuthority(t, acmetest.Settings{})
	probe := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}, ServerName: "shop.test"}
	if _, err := b.ca.Visit(probe); err == nil {
		t.Error("a challenge was answered that is not pending")
	}
	cert := &tls.Certificate{}
	done := acme.AddTLS(b.node.Challenges(), "other.test", cert)
	defer done()
	if _, err := b.ca.Visit(probe); err == nil {
		t.Error("another host's challenge was answered")
	}
	for _, path := range []string{"", "/", "/.well-known/acme-challenge/", "/.well-known/acme-challenge/x", "/x/.well-known/acme-challenge/token"} {
		defer acme.AddHTTP(b.node.Challenges(), "token", "answer")()
		if answer, ok := b.node.Challenges().HTTP(path); ok {
			t.Errorf("%q: %q", path, answer)
		}
	}
	if answer, ok := b.node.Challenges().HTTP("/.well-known/acme-challenge/token"); !ok || answer != "answer" {
		t.Errorf("%q, %v", answer, ok)
	}
}
