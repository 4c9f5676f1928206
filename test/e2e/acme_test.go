package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/acme/acmetest"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// acmeNode is a node that gets its certificate from an authority.
type acmeNode struct {
	*gatehouse
	ca     *acmetest.Authority
	secure string // HOST:PORT of the listener with TLS
}

func prepareACME(t *testing.T) *acmeNode {
	t.Helper()
	n := &acmeNode{gatehouse: prepare(t, ""), ca: acmetest.New(t, acmetest.Settings{}), secure: freeAddress(t)}
	n.ca.Reach(n.web, n.secure)
	tlstest.Write(t, filepath.Join(filepath.Dir(n.config), "ca.pem"), n.ca.PEM)
	return n
}

// text is a config for these hosts by this challenge. Everybody is sent to
// https, and nobody is let in by the plugins: neither is in an authority's way.
func (n *acmeNode) text(challenge string, hosts ...string) string {
	_, port, err := net.SplitHostPort(n.secure)
	if err != nil {
		n.t.Fatal(err)
	}
	return fmt.Sprintf(`node:
  name: test
  data_dir: %s
  admin: { address: %q }
  access_log: { path: %s }
  drain: { timeout: 30s }
certificates:
  shop:
    acme: { hosts: [%s], accept_terms: true, directory: %q, ca_file: ca.pem, challenges: [%s] }
listeners:
  web: { address: %q, redirect_to_https: { port: %s } }
  websecure: { address: %q, tls: { certificates: [shop] } }
plugins: [{ basic_auth: { realm: shop } }]
routes:
  all: { match: { path: / }, respond: { body: "hello" } }
`, n.dataDir, n.admin, n.access, strings.Join(hosts, ", "), n.ca.Directory, challenge, n.web, port, n.secure)
}

// meet makes a handshake as a client who trusts the authority.
func (n *acmeNode) meet(name string) error {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: time.Minute}, Config: &tls.Config{ServerName: name, RootCAs: n.ca.Roots()}}
	c, err := d.DialContext(n.t.Context(), "tcp", n.secure)
	if err != nil {
		return err
	}
	return c.Close()
}

// ask runs gatehouse status.
func (n *acmeNode) ask(args ...string) (code int, out string) {
	n.t.Helper()
	cmd := exec.Command(binary, append([]string{"status", "-c", n.config}, args...)...)
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

func TestACMEThroughTheBinary(t *testing.T) {
	for _, challenge := range []string{"http-01", "tls-alpn-01"} {
		t.Run(challenge, func(t *testing.T) {
			n := prepareACME(t)
			// The authority hangs: no handshake waits for it, and the node is well otherwise.
			release := make(chan struct{})
			n.ca.Filter(func(_ http.ResponseWriter, r *http.Request) bool {
				select {
				case <-release:
				case <-r.Context().Done():
				}
				panic(http.ErrAbortHandler)
			})
			n.writeRaw(n.text(challenge, "shop.test"))
			n.run()
			n.waitReady()
			n.eventually("the authority is asked", func() error {
				if n.ca.Requests() == 0 {
					return errors.New("not yet")
				}
				return nil
			})
			if err := n.meet("shop.test"); err == nil {
				t.Error("a certificate from nowhere")
			}
			n.eventually("the refused handshake is counted", func() error {
				if got := n.metric(`gatehouse_listener_protocol_refusals_total{listener="websecure",reason="tls_no_certificate"}`); got != 1 {
					return fmt.Errorf("%v", got)
				}
				return nil
			})
			if code, out := n.ask(); code != 1 || !strings.Contains(out, "certificate shop: there is none yet") {
				t.Errorf("status: code %d\n%s", code, out)
			}
			n.stop() // in the middle of an order
			close(release)
			n.ca.Filter(nil)

			// Now it answers.
			n.run()
			n.waitReady()
			n.eventually("a certificate", func() error { return n.meet("shop.test") })
			n.eventually("it is told of", func() error {
				if got := n.metric(`gatehouse_certificate_orders_total{certificate="shop",result="success"}`); got != 1 {
					return fmt.Errorf("%v", got)
				}
				return nil
			})
			if code, out := n.ask(); code != 0 || !strings.Contains(out, "All is well.") || !strings.Contains(out, "acme") || !strings.Contains(out, "shop.test") {
				t.Errorf("status: code %d\n%s", code, out)
			}
			if code, out := n.ask("-o", "json"); code != 0 || !strings.Contains(out, `"source": "acme"`) || !strings.Contains(out, `"days_left": 89`) {
				t.Errorf("status: code %d\n%s", code, out)
			}
			if challenge == "http-01" {
				n.accessLine("the authority's visit", func(m map[string]any) bool { return m["route"] == "acme_challenge" && m["status"] == 200.0 })
			}
			n.strangers()

			// Another host is ordered on reload; what is there serves until then.
			before := n.ca.Orders()
			n.writeRaw(n.text(challenge, "shop.test", "new.shop.test"))
			n.eventually("the new host", func() error {
				if err := n.meet("shop.test"); err != nil {
					t.Fatalf("the old host, meanwhile: %v", err)
				}
				return n.meet("new.shop.test")
			})
			if got := n.ca.Orders() - before; got != 1 {
				t.Errorf("%d orders for one change", got)
			}
			n.stop()

			// A restart needs no authority.
			n.ca.Filter(acmetest.Down)
			asked := n.ca.Requests()
			n.run()
			n.waitReady()
			if err := n.meet("new.shop.test"); err != nil {
				t.Error(err)
			}
			if code, out := n.ask(); code != 0 {
				t.Errorf("status: code %d\n%s", code, out)
			}
			if n.ca.Requests() != asked {
				t.Error("the authority was asked for what is there")
			}
			n.stop()
			n.nothingInPlain()
		})
	}
}

// strangers probe for challenges that are not pending.
func (n *acmeNode) strangers() {
	n.t.Helper()
	for _, name := range []string{"shop.test", "other.test", ""} {
		probe := &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}}
		if c, err := tls.Dial("tcp", n.secure, probe); err == nil {
			c.Close()
			n.t.Errorf("%q: somebody speaks acme-tls/1", name)
		}
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, path := range []string{"", "x", "../x", "%2e%2e"} {
		resp, err := client.Get("http://" + n.web + "/.well-known/acme-challenge/" + path)
		if err != nil {
			n.t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusPermanentRedirect {
			n.t.Errorf("%q: %s, want what any other path gets", path, resp.Status)
		}
	}
}

// nothingInPlain looks through all that the node wrote.
func (n *acmeNode) nothingInPlain() {
	n.t.Helper()
	files := 0
	err := filepath.WalkDir(n.dataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		if bytes.Contains(content, []byte("PRIVATE KEY")) || bytes.Contains(content, []byte("CERTIFICATE")) {
			n.t.Errorf("%s can be read", path)
		}
		return nil
	})
	if err != nil || files < 2 { // token and certificate at least
		n.t.Errorf("%d files, %v", files, err)
	}
}
