package clientcert_test

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/clientcert"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

var hex = strings.Repeat("0f", 32)

func directory() *plugins.Directory {
	return plugins.NewDirectory([]*plugins.Consumer{
		{Consumer: exchange.Consumer{Name: "exact", Groups: []string{"ops"}}, Fingerprints: []string{hex}},
		{Consumer: exchange.Consumer{Name: "billing", Groups: []string{"staff"}}, SPIFFEIDs: []string{"spiffe://x.test/billing"}},
		{Consumer: exchange.Consumer{Name: "partner"}, Subjects: []string{"CN=partner,O=Partner"}},
	})
}

func build(t testing.TB, yaml string) fiber.Handler {
	t.Helper()
	f := clientcert.Factory()
	c := f.Config()
	if err := strict.Unmarshal([]byte(yaml), c); err != nil {
		t.Fatal(err)
	}
	p, err := f.New(c, plugins.Settings{Consumers: directory(), Route: plugins.Route{Name: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	return p.Handle
}

// shows is a request over TLS with a certificate; nil: without one.
func shows(t *exchange.TLS) func(*exchange.Exchange) {
	return func(e *exchange.Exchange) {
		if e.TLS = t; t != nil && t.Subject != "" {
			t.Peer = new(x509.Certificate)
		}
	}
}

func TestWhoseCertificate(t *testing.T) {
	partner := &exchange.TLS{Version: "TLS 1.3", Subject: "CN=partner,O=Partner", Fingerprint: "aa"}
	billing := &exchange.TLS{Version: "TLS 1.3", Subject: "CN=partner,O=Partner", SPIFFEID: "spiffe://x.test/billing", Fingerprint: "bb"}
	exact := &exchange.TLS{Version: "TLS 1.3", Subject: "CN=partner,O=Partner", SPIFFEID: "spiffe://x.test/billing", Fingerprint: hex}
	nobody := &exchange.TLS{Version: "TLS 1.3", Subject: "CN=nobody", Fingerprint: "cc"}
	bare := &exchange.TLS{Version: "TLS 1.3"}
	for i, tc := range []struct {
		config    string
		tls       *exchange.TLS
		consumer  string
		subject   string
		refusal   *reason.Reason
		detail    string
		anonymous bool
	}{
		{"{}", partner, "partner", "CN=partner,O=Partner", nil, "", false},
		{"{}", billing, "billing", "spiffe://x.test/billing", nil, "", false},
		{"{}", exact, "exact", "spiffe://x.test/billing", nil, "", false},
		{"{}", nobody, "", "", reason.Forbidden, `no consumer lists the client certificate "CN=nobody", sha256:cc`, false},
		{"{}", bare, "", "", reason.TLSClientCertificate, "no client certificate", false},
		{"{}", nil, "", "", reason.TLSClientCertificate, "no client certificate", false},
		{"{anonymous: true}", bare, "", "", nil, "", true},
		{"{anonymous: true}", nil, "", "", nil, "", true},
		{"{anonymous: true}", nobody, "", "", reason.Forbidden, "no consumer lists", false},
		{"{accept_unknown: true}", nobody, "", "CN=nobody", nil, "", false},
		{"{accept_unknown: true}", billing, "billing", "spiffe://x.test/billing", nil, "", false},
		{"{accept_unknown: true}", bare, "", "", reason.TLSClientCertificate, "", false},
		{"{groups: [staff]}", billing, "billing", "spiffe://x.test/billing", nil, "", false},
		{"{groups: [staff]}", exact, "", "", reason.Forbidden, "consumer exact is in none of the groups [staff]", false},
		{"{groups: [staff]}", partner, "", "", reason.Forbidden, "consumer partner is in none of the groups", false},
	} {
		what := fmt.Sprintf("%d: %s", i, tc.config)
		var seen exchange.Identity
		r := plugintest.Do(t, plugintest.Request{
			Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nClient-Cert: :evil:\r\n\r\n", Edit: shows(tc.tls),
			After: func(e *exchange.Exchange) { seen = e.Identity },
		}, build(t, tc.config), plugintest.Upstream)
		if tc.refusal != nil {
			if r.Status != 403 || r.Refusal == nil || r.Refusal.Reason != tc.refusal || !strings.Contains(r.Refusal.Detail, tc.detail) {
				t.Errorf("%s: %d, %v", what, r.Status, r.Refusal)
			}
			continue
		}
		got := ""
		if seen.Consumer != nil {
			got = seen.Consumer.Name
		}
		if r.Status != 200 || got != tc.consumer || seen.Subject != tc.subject || (seen.Method == "client_certificate") == tc.anonymous {
			t.Errorf("%s: %d, %+v", what, r.Status, seen)
		}
	}
}

func TestConformance(t *testing.T) {
	plugintest.Run(t, clientcert.Factory(), plugintest.Options{
		Good: []string{"{}", "{groups: [staff]}", "{anonymous: true}", "{accept_unknown: true}"},
		Bad: []plugintest.Bad{
			{YAML: "{groups: ['']}", Want: "groups: must not contain an empty name"},
			{YAML: "{groups: [a], accept_unknown: true}", Want: "accept_unknown: has no meaning with groups"},
		},
		Settings: plugins.Settings{Consumers: directory()},
		Request: plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", Edit: func(e *exchange.Exchange) {
			e.TLS = &exchange.TLS{Version: "TLS 1.3", Subject: "CN=x", SPIFFEID: "spiffe://x.test/billing", Peer: new(x509.Certificate)}
		}},
	})
}
