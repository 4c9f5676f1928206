package e2e

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"

	quichttp "github.com/quic-go/quic-go/http3"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// Connections outlive reloads; what they were let in by does not.
func TestTLSNewRulesHoldForOldConnections(t *testing.T) {
	app := upstreamServer(t, seen)
	n := prepareTLS(t)
	other := tlstest.NewAuthority(t)
	text := func(clients string) string {
		return n.secureText(`certificates: [api], `+clients+`session_tickets: { enabled: false } }, http3: true, http2: { max_concurrent_streams: 100`, app)
	}
	n.writeRaw(text(""))
	n.run()
	n.waitReady()
	clients := func(own *tls.Certificate) map[string]*http.Client {
		config := func() *tls.Config {
			c := &tls.Config{ServerName: "api.test", RootCAs: n.ca.Pool()}
			if own != nil {
				c.Certificates = []tls.Certificate{*own}
			}
			return c
		}
		list := map[string]*http.Client{}
		for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
			p := new(http.Protocols)
			p.SetHTTP1(protocol == "HTTP/1.1")
			p.SetHTTP2(protocol == "HTTP/2.0")
			tr := &http.Transport{TLSClientConfig: config(), Protocols: p}
			t.Cleanup(tr.CloseIdleConnections)
			list[protocol] = &http.Client{Transport: tr}
		}
		tr := &quichttp.Transport{TLSClientConfig: config()}
		t.Cleanup(func() { _ = tr.Close() })
		list["HTTP/3.0"] = &http.Client{Transport: tr}
		return list
	}
	ask := func(when string, list map[string]*http.Client, want int) {
		t.Helper()
		for protocol, c := range list {
			r, err := c.Get("https://" + n.web + "/")
			if err != nil {
				t.Errorf("%s, %s: %v", when, protocol, err)
				continue
			}
			b, err := io.ReadAll(r.Body)
			_ = r.Body.Close()
			if err != nil || r.StatusCode != want || r.Proto != protocol || want == 403 && !bytes.Contains(b, []byte("tls_client_certificate")) {
				t.Errorf("%s, %s: %s %d %s, %v; want %d", when, protocol, r.Proto, r.StatusCode, b, err, want)
			}
		}
	}
	swap := func(text string) {
		t.Helper()
		before := n.status()["digest"]
		n.writeRaw(text)
		n.eventually("the config is live", func() error {
			if n.status()["digest"] == before {
				return fmt.Errorf("still the old one, error %v", n.status()["error"])
			}
			return nil
		})
	}
	strangers := clients(nil)
	ask("nobody is asked", strangers, 200)
	swap(text("client_certificates: { mode: request, ca_file: clients.pem }, "))
	ask("clients are asked", strangers, 200)
	swap(text("client_certificates: { ca_file: clients.pem }, "))
	ask("clients must show one", strangers, 403)

	own := n.ca.Issue(t, tlstest.Request{Names: []string{"alice"}}).TLS(t)
	alice := clients(&own)
	ask("with a certificate", alice, 200)
	replace := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(n.path("clients.new"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(n.path("clients.new"), n.path("clients.pem")); err != nil {
			t.Fatal(err)
		}
	}
	changed := func(times int) {
		t.Helper()
		n.eventually("the authorities have changed", func() error {
			if got := bytes.Count([]byte(n.log.String()), []byte("the authorities of client certificates have changed")); got != times {
				return fmt.Errorf("%d times", got)
			}
			return nil
		})
	}
	replace(append(other.PEM(), n.ca.PEM()...))
	changed(1)
	ask("one authority more", alice, 200)
	replace(other.PEM())
	changed(2)
	ask("their authority was struck off", alice, 403)
}
