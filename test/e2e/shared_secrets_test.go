package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme/acmetest"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// sharingNode is one of several nodes that share a Redis and get one certificate.
type sharingNode struct {
	*acmeNode
	name string
}

func prepareSharing(t *testing.T, name string, ca *acmetest.Authority) *sharingNode {
	t.Helper()
	n := &acmeNode{gatehouse: prepare(t, ""), ca: ca, secure: freeAddress(t)}
	tlstest.Write(t, filepath.Join(filepath.Dir(n.config), "ca.pem"), ca.PEM)
	return &sharingNode{n, name}
}

// begin starts the node with a secret.
func (n *sharingNode) begin(redis, secret string) {
	n.t.Helper()
	n.configure(redis, secret)
	n.run()
}

// configure writes its config; an empty secret is none.
func (n *sharingNode) configure(redis, secret string) {
	n.t.Helper()
	more := fmt.Sprintf("  name: %s\n  store: { redis: { addresses: [%q]%s } }\n", n.name, redis, patient)
	if secret != "" {
		more += fmt.Sprintf("  secret_key: %q\n", secret)
	}
	text := n.text("http-01", "shop.test")
	n.writeRaw(strings.Replace(text, "  name: test\n", more, 1))
}

// resume makes a handshake with a cache of sessions and one request, and says
// whether it was a resumed one.
func (n *sharingNode) resume(cache tls.ClientSessionCache, version uint16) (bool, error) {
	config := &tls.Config{ServerName: "shop.test", RootCAs: n.ca.Roots(), ClientSessionCache: cache, MaxVersion: version}
	transport := &http.Transport{TLSClientConfig: config, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", n.secure)
	}}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport, Timeout: time.Minute}
	r, err := c.Get("https://shop.test/")
	if err != nil {
		return false, err
	}
	return r.TLS.DidResume, r.Body.Close()
}

const fleetSecret = "a secret of the fleet, long enough for all"

// Two nodes, one certificate, one order, whichever node the authority reaches;
// sessions go on at the other node; and neither needs Redis once it has both.
func TestTwoNodesShareCertificatesAndSessions(t *testing.T) {
	redis := redistest.Start(t)
	ca := acmetest.New(t, acmetest.Settings{})
	a, b := prepareSharing(t, "a", ca), prepareSharing(t, "b", ca)
	ca.Reach(b.web, b.secure) // whoever orders
	// The authority takes its time until both are there, and known to each other.
	both := make(chan struct{})
	ca.Filter(func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-both:
		case <-r.Context().Done():
		}
		return false
	})
	a.begin(redis.Address, fleetSecret)
	b.begin(redis.Address, fleetSecret)
	for _, n := range []*sharingNode{a, b} {
		n.waitReady()
		n.eventually("it is known to be there", func() error {
			if redis.Do(t, "EXISTS", "gatehouse:{values:nodes}:value:"+n.name) != int64(1) {
				return errors.New("not yet")
			}
			return nil
		})
	}
	close(both)
	for _, n := range []*sharingNode{a, b} {
		n.eventually("a certificate", func() error { return n.meet("shop.test") })
		n.eventually("all is well", func() error {
			code, out := n.ask()
			if code != 0 || !strings.Contains(out, "shared       certificates in the store, sealed") || !strings.Contains(out, "session tickets: secret ") {
				return errors.New(out)
			}
			return nil
		})
		n.eventually("the metrics say so", func() error {
			return errors.Join(is(n.metric("gatehouse_secrets_store_up"), 1), is(n.metric(`gatehouse_secrets_tickets_shared{rotate="12h0m0s"}`), 1))
		})
	}
	sessions := func(from, to *sharingNode) {
		t.Helper()
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			cache := tls.NewLRUClientSessionCache(1)
			if resumed, err := from.resume(cache, version); err != nil || resumed {
				t.Errorf("%s, the first time: resumed %v, %v", tls.VersionName(version), resumed, err)
			}
			if resumed, err := to.resume(cache, version); err != nil || !resumed {
				t.Errorf("%s, from %s to %s: resumed %v, %v", tls.VersionName(version), from.name, to.name, resumed, err)
			}
		}
	}
	sessions(a, b)
	sessions(b, a)

	// Without Redis they serve, resume each other's sessions, and start again.
	redis.Kill(t)
	a.eventually("it says so", func() error {
		code, out := a.ask()
		if code != 1 || !strings.Contains(out, "store: certificates and session tickets are not shared: ") {
			return errors.New(out)
		}
		return nil
	})
	sessions(a, b)
	b.stop()
	b.begin(redis.Address, fleetSecret)
	b.waitReady()
	if err := b.meet("shop.test"); err != nil {
		t.Errorf("started from its copy: %v", err)
	}

	// Redis comes back empty: it gets everything again, and b the tickets.
	redis.Run(t)
	for _, n := range []*sharingNode{a, b} {
		n.eventually("all is well again", func() error {
			if code, out := n.ask(); code != 0 {
				return errors.New(out)
			}
			return nil
		})
	}
	a.eventually("the certificate is in the store again", func() error {
		if found, _ := redis.Do(t, "KEYS", "gatehouse:{values:secrets}:value:certificate-*").([]any); len(found) != 1 {
			return fmt.Errorf("%v", found)
		}
		return nil
	})
	sessions(a, b)
	c := prepareSharing(t, "c", ca)
	c.begin(redis.Address, fleetSecret)
	c.waitReady()
	c.eventually("the certificate", func() error { return c.meet("shop.test") })
	if n := ca.Orders(); n != 1 {
		t.Errorf("%d orders", n)
	}
	for _, n := range []*sharingNode{a, b, c} {
		n.stop()
		n.nothingInPlain()
	}
}

// A node with another secret says so and takes nothing; one with none does not
// start with certificates that are to be shared.
func TestANodeWithAnotherSecret(t *testing.T) {
	redis := redistest.Start(t)
	ca := acmetest.New(t, acmetest.Settings{})
	a, b := prepareSharing(t, "a", ca), prepareSharing(t, "b", ca)
	ca.Reach(a.web, a.secure)
	a.begin(redis.Address, fleetSecret)
	a.eventually("a certificate", func() error { return a.meet("shop.test") })
	b.begin(redis.Address, strings.ToUpper(fleetSecret))
	b.eventually("it says so", func() error {
		code, out := b.ask()
		if code != 1 || !strings.Contains(out, "not shared: node.secret_key is not that of the other nodes") || !strings.Contains(out, "certificate shop: there is none yet: node.secret_key") {
			return errors.New(out)
		}
		return nil
	})
	if n := ca.Orders(); n != 1 {
		t.Errorf("%d orders", n)
	}
	b.stop()
	a.stop()
	b.configure(redis.Address, "")
	out, err := exec.Command(binary, "check", b.config).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "certificates.shop.acme: needs node.secret_key, the same on every node") {
		t.Errorf("%v\n%s", err, out)
	}
}
