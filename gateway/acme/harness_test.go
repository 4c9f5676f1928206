package acme_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme/acmetest"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m, goleak.IgnoreTopFunction(acmetest.Leak)) }

// logbook is a log that can be read while it is written.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// bench is a node with a folder, and a port for each kind of challenge.
type bench struct {
	t       testing.TB
	dir     string
	log     logbook
	changes atomic.Uint64
	node    *acme.Node
	ca      *acmetest.Authority // nil: none
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir()}
	b.restart()
	return b
}

// restart is a new process with the same folder.
func (b *bench) restart() {
	b.node = acme.NewNode(acme.NodeSettings{
		Dir: acme.DirIn(b.dir), KeyFile: acme.KeyFileIn(b.dir), Version: "test",
		Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	})
	if err := b.node.Open(); err != nil {
		b.t.Fatal(err)
	}
}

// withAuthority also starts an authority that reaches the node.
func withAuthority(t testing.TB, s acmetest.Settings) *bench {
	t.Helper()
	b := newBench(t)
	b.ca = acmetest.New(t, s)
	if err := os.WriteFile(b.caFile(), b.ca.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	b.ca.Reach(b.web(), b.secure())
	return b
}

func (b *bench) caFile() string { return filepath.Join(b.dir, "ca.pem") }

// web answers on a plain port as a gateway does.
func (b *bench) web() string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer, ok := b.node.Challenges().HTTP(r.URL.Path); ok {
			_, _ = io.WriteString(w, answer)
			return
		}
		http.NotFound(w, r)
	}))
	b.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// secure makes handshakes as a gateway does, with no certificate of its own.
func (b *bench) secure() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = b.terminator().Handshake(c) // the client tells
			})
		}
	})
	b.t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func (b *bench) terminator(certs ...tlsterm.CertSource) *tlsterm.Terminator {
	return tlsterm.New(tlsterm.Settings{
		Listener: "web", Certificates: certs, MinVersion: tls.VersionTLS12, HandshakeTimeout: time.Minute,
		Changes: &b.changes, Log: slog.New(slog.DiscardHandler),
		Challenge: func(name string) *tls.Certificate { return b.node.Challenges().TLS(name) },
	})
}

// source is one that has loaded; the worker does not run yet.
func (b *bench) source(edit func(*acme.Settings)) *acme.Source {
	b.t.Helper()
	s := acme.Settings{
		Name: "shop", Hosts: []string{"shop.test", "www.shop.test"}, TermsAgreed: true,
		Challenges: []acme.Kind{acme.TLSALPN01, acme.HTTP01}, Changes: &b.changes, Directory: "https://ca.test/dir",
	}
	if b.ca != nil {
		s.Directory, s.CAFile = b.ca.Directory, b.caFile()
	}
	if edit != nil {
		edit(&s)
	}
	c := b.node.NewSource(s)
	if err := errors.Join(c.Load(context.Background()), c.Start(context.Background())); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// wait waits until ok, for up to two minutes.
func (b *bench) wait(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	b.t.Fatalf("%s: never; the log:\n%s", what, b.log.String())
}

// issued waits for a certificate and returns it, checked.
func (b *bench) issued(c *acme.Source, not *x509.Certificate) *x509.Certificate {
	b.t.Helper()
	b.wait("a certificate", func() bool { l := c.Current(); return l != nil && (not == nil || !l.Leaf.Equal(not)) })
	got := c.Current()
	chain := x509.NewCertPool()
	for _, der := range got.Certificate[1:] {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			b.t.Fatal(err)
		}
		chain.AddCert(x)
	}
	for _, host := range []string{"shop.test", "www.shop.test"} {
		if _, err := got.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: b.ca.Roots(), Intermediates: chain, CurrentTime: got.Leaf.NotBefore.Add(time.Second)}); err != nil {
			b.t.Fatal(err)
		}
	}
	return got.Leaf
}

func (b *bench) logged(n int, text string) {
	b.t.Helper()
	if got := strings.Count(b.log.String(), text); got != n {
		b.t.Errorf("%q is %d times in the log, want %d:\n%s", text, got, n, b.log.String())
	}
}
