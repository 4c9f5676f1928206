package secrets_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
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

	"github.com/gatehouse-proxy/gatehouse/control/secrets"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme/acmetest"
	"github.com/gatehouse-proxy/gatehouse/gateway/seal"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m, goleak.IgnoreTopFunction(acmetest.Leak)) }

// logbook is a log that can be read while it is written.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// String is what was logged so far.
func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// cable is the way to a store, which can be cut.
type cable struct {
	store.Store
	cut atomic.Bool
}

var errCut = errors.New("the cable is cut")

// Get implements store.Values.
func (c *cable) Get(ctx context.Context, folder, name string) ([]byte, error) {
	if c.cut.Load() {
		return nil, errCut
	}
	return c.Store.Get(ctx, folder, name)
}

// Put implements store.Values.
func (c *cable) Put(ctx context.Context, folder, name string, data []byte, ttl time.Duration) error {
	if c.cut.Load() {
		return errCut
	}
	return c.Store.Put(ctx, folder, name, data, ttl)
}

// Swap implements store.Values.
func (c *cable) Swap(ctx context.Context, folder, name string, old, data []byte, ttl time.Duration) error {
	if c.cut.Load() {
		return errCut
	}
	return c.Store.Swap(ctx, folder, name, old, data, ttl)
}

// Delete implements store.Values.
func (c *cable) Delete(ctx context.Context, folder, name string) error {
	if c.cut.Load() {
		return errCut
	}
	return c.Store.Delete(ctx, folder, name)
}

// List implements store.Values.
func (c *cable) List(ctx context.Context, folder string) ([]store.Value, error) {
	if c.cut.Load() {
		return nil, errCut
	}
	return c.Store.List(ctx, folder)
}

const (
	secret      = "the secret of the fleet, 32 bytes or more"
	otherSecret = "the secret of somebody else, as long as that"
)

func key(t testing.TB, secret string) *seal.Key {
	t.Helper()
	k, err := seal.New(secret)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// town is one authority, one store, and the nodes.
type town struct {
	t      *testing.T
	ca     *acmetest.Authority
	redis  *redistest.Server
	prefix string
	// These are longer than any delay of a busy machine, but where what they wait
	// for is to fail.
	lease  time.Duration
	hangs  time.Duration // what is silent for so long hangs
	spread time.Duration // so long nodes have to take up a challenge
	nodes  []*node
}

var towns atomic.Int64

func newTown(t *testing.T, server *redistest.Server) *town {
	t.Helper()
	return &town{t: t, ca: acmetest.New(t, acmetest.Settings{}), redis: server, prefix: fmt.Sprint("t", towns.Add(1)), lease: 20 * time.Second, hangs: 30 * time.Second, spread: 30 * time.Second}
}

// node is one of several in this process.
type node struct {
	*acme.Node
	t       *testing.T
	dir     string
	log     *logbook
	cable   *cable
	shared  *secrets.Shared
	source  *acme.Source
	changes atomic.Uint64
	web     string
	secure  string
}

type options struct {
	secret string
	dir    string
	hosts  []string
	kind   acme.Kind
}

// join adds a node that has loaded; its worker does not run yet.
func (w *town) join(o options) *node {
	t := w.t
	t.Helper()
	if o.secret == "" {
		o.secret = secret
	}
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	if o.hosts == nil {
		o.hosts = []string{"shop.test", "www.shop.test"}
	}
	if o.kind == "" {
		o.kind = acme.HTTP01
	}
	n := &node{t: t, dir: o.dir, log: &logbook{}}
	name := fmt.Sprint("n", len(w.nodes))
	log := slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.cable = &cable{Store: redis.New(redis.Settings{Addresses: []string{w.redis.Address}, Prefix: w.prefix, Timeout: w.hangs})}
	n.shared = secrets.New(secrets.Settings{
		Store: n.cable, Key: key(t, o.secret), Node: name, Lease: w.lease, Spread: w.spread, Patience: w.hangs, Log: log,
		Live: func(context.Context) ([]string, error) {
			var names []string
			for i := range w.nodes {
				names = append(names, fmt.Sprint("n", i))
			}
			return names, nil
		},
	})
	n.Node = acme.NewNode(acme.NodeSettings{Dir: acme.DirIn(o.dir), Secret: o.secret, Shared: n.shared, Version: "test", Log: log})
	ca := filepath.Join(o.dir, "ca.pem")
	if err := errors.Join(n.Open(), os.WriteFile(ca, w.ca.PEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	n.source = n.NewSource(acme.Settings{
		Name: "shop", Hosts: o.hosts, Directory: w.ca.Directory, CAFile: ca, TermsAgreed: true,
		Challenges: []acme.Kind{o.kind}, Changes: &n.changes,
	})
	if err := n.source.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.shared.Start(n.Node)
	n.web, n.secure = n.plain(), n.tls()
	w.nodes = append(w.nodes, n)
	t.Cleanup(n.leave)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, n.log)
		}
	})
	return n
}

// leave ends a node; twice is allowed.
func (n *node) leave() {
	if err := n.source.Close(context.Background()); err != nil {
		n.t.Error(err)
	}
	n.shared.Close()
	if err := n.cable.Close(); err != nil {
		n.t.Error(err)
	}
}

// plain answers on a plain port as a gateway does.
func (n *node) plain() string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer, ok := n.Challenges().HTTP(r.URL.Path); ok {
			_, _ = io.WriteString(w, answer)
			return
		}
		http.NotFound(w, r)
	}))
	n.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// tls makes handshakes as a gateway does.
func (n *node) tls() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	term := tlsterm.New(tlsterm.Settings{
		Listener: "web", Certificates: []tlsterm.CertSource{n.source}, MinVersion: tls.VersionTLS12, HandshakeTimeout: time.Minute,
		Changes: &n.changes, Log: slog.New(slog.DiscardHandler), Challenge: n.Challenges().TLS,
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = term.Handshake(c) // the client tells
			})
		}
	})
	n.t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// eventually waits until ok, for up to a minute.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	end := time.Now().Add(time.Minute)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// has waits until all these nodes show one certificate, and returns it.
func (w *town) has(nodes ...*node) *x509.Certificate {
	w.t.Helper()
	var leaf *x509.Certificate
	eventually(w.t, "one certificate everywhere", func() error {
		leaf = nil
		for _, n := range nodes {
			c := n.source.Current()
			if c == nil {
				return errors.New("a node has none")
			}
			if leaf == nil {
				leaf = c.Leaf
			} else if !leaf.Equal(c.Leaf) {
				return errors.New("there are two")
			}
		}
		return nil
	})
	return leaf
}

// says waits until the log has a text.
func (n *node) says(text string) {
	n.t.Helper()
	eventually(n.t, "the log says "+text, func() error {
		if !strings.Contains(n.log.String(), text) {
			return errors.New("not yet")
		}
		return nil
	})
}

func (w *town) orders(want int) {
	w.t.Helper()
	if got := w.ca.Orders(); got != want {
		w.t.Errorf("%d orders, want %d", got, want)
	}
}

// entries are what the store has in a folder. The first question after the store
// was killed may go to a connection that nobody has found broken yet.
func (w *town) entries(n *node, folder string) map[string][]byte {
	w.t.Helper()
	out := map[string][]byte{}
	eventually(w.t, folder+" can be listed", func() error {
		list, err := n.cable.Store.List(w.t.Context(), folder)
		for _, v := range list {
			out[v.Name] = v.Data
		}
		return err
	})
	return out
}

// certificate is the name and content of the one certificate in the store, which
// gets there right after it is in use.
func (w *town) certificate(n *node) (name string, data []byte) {
	w.t.Helper()
	eventually(w.t, "the store has a certificate", func() error {
		for name, data = range w.entries(n, "secrets") {
			if strings.HasPrefix(name, "certificate-") {
				return nil
			}
		}
		return errors.New("it has none")
	})
	return name, data
}
