package e2e

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// A session is resumed, in both versions, also after a reload that changes
// something else about the listener; not after one that asks for certificates.
func TestTLSTicketsOutliveReloads(t *testing.T) {
	app := upstreamServer(t, seen)
	n := startTLS(t, `certificates: [api]`, app)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		settings := []string{`certificates: [api]`, `certificates: [api], handshake_timeout: 9s`, `certificates: [api, wild], handshake_timeout: 9s`}
		cache := tls.NewLRUClientSessionCache(1)
		for i, text := range settings {
			n.become(text, app)
			c := n.client("api.test", func(c *tls.Config) { c.ClientSessionCache, c.MaxVersion = cache, version })
			r, err := n.fetch(c, "/")
			if err != nil {
				t.Fatal(err)
			}
			if r.TLS.DidResume != (i > 0) {
				t.Errorf("%s, with %q: resumed %v", tls.VersionName(version), text, r.TLS.DidResume)
			}
			c.CloseIdleConnections()
		}
		n.become(`certificates: [api], client_certificates: { ca_file: clients.pem }`, app)
		c := n.client("api.test", func(c *tls.Config) { c.ClientSessionCache, c.MaxVersion = cache, version })
		if r, err := n.fetch(c, "/"); err == nil {
			t.Errorf("%s: a ticket was good for %d without a certificate", tls.VersionName(version), r.StatusCode)
		}
	}
	if full, resumed := n.metric(`gatehouse_listener_tls_handshakes_total{kind="full",listener="web"}`), n.metric(`gatehouse_listener_tls_handshakes_total{kind="resumed",listener="web"}`); full != 2 || resumed != 4 {
		t.Errorf("counted %v full and %v resumed handshakes", full, resumed)
	}
}

// become replaces the settings of "web" and waits until they are live.
func (n *secureNode) become(settings, app string) {
	n.t.Helper()
	text := n.secureText(settings, app)
	if b, err := os.ReadFile(n.config); err == nil && string(b) == text {
		return
	}
	before := n.status()["digest"]
	n.writeRaw(text)
	n.eventually("the new config is live", func() error {
		if s := n.status(); s["digest"] == before {
			return fmt.Errorf("still %v, error %v", before, s["error"])
		}
		return nil
	})
}

// Thousands of handshakes from one address are refused, counted and hardly
// logged, while connections made before are served.
func TestTLSHandshakesPerClient(t *testing.T) {
	n := startTLS(t, `certificates: [api], handshakes_per_client: { limit: 5, per: 1h }`, upstreamServer(t, seen))
	c := n.client("api.test", nil)
	if _, err := n.fetch(c, "/"); err != nil {
		t.Fatal(err)
	}
	const flood = 2000
	failed, began := 0, time.Now()
	for range flood {
		s, err := tls.Dial("tcp", n.web, &tls.Config{ServerName: "api.test", RootCAs: n.ca.Pool()})
		if err != nil {
			failed++
			continue
		}
		s.Close()
	}
	if failed != flood-4 {
		t.Errorf("%d of %d were refused", failed, flood)
	}
	n.refusedTimes("tls_handshakes_limited", flood-4)
	if r, err := n.fetch(c, "/"); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("a connection that was there before: %v", err)
	}
	n.accessLine("the flood", func(m map[string]any) bool { return m["reason"] == "tls_handshakes_limited" })
	n.stop()
	b, err := os.ReadFile(n.access)
	if err != nil {
		t.Fatal(err)
	}
	lines, most := strings.Count(string(b), "tls_handshakes_limited"), 2+int(time.Since(began).Seconds()) // one a second
	if lines == 0 || lines > most {
		t.Errorf("%d lines in the log, more than %d", lines, most)
	}
}
