package tlsterm_test

import (
	"crypto/tls"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// both are the versions that sessions are resumed in.
var both = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// keeper is a client that keeps the last ticket it got.
func keeper(w *workbench, version uint16, cert *tls.Certificate) *tls.Config {
	c := &tls.Config{
		ServerName: "a.example", RootCAs: w.ca.Pool(), MaxVersion: version,
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	if cert != nil {
		c.Certificates = []tls.Certificate{*cert}
	}
	return c
}

// resumes makes a handshake that must succeed and says whether it was a resumed one.
func resumes(t *testing.T, term *tlsterm.Terminator, config *tls.Config) bool {
	t.Helper()
	o := meet(t, term, config)
	if o.server != nil || o.clientErr != nil {
		t.Fatalf("%s: %v, client %v", tls.VersionName(config.MaxVersion), o.server, o.clientErr)
	}
	if resumed := o.conn.TLS().Resumed; resumed != o.state.DidResume {
		t.Errorf("the server says %v, the client %v", resumed, o.state.DidResume)
	}
	return o.state.DidResume
}

func TestTicketsOutliveTwoRotations(t *testing.T) {
	w := newBench(t)
	cert := w.issued("a", tlstest.Request{Names: []string{"a.example"}})
	for _, version := range both {
		keys := tlsterm.NewRotation(time.Hour)
		term := w.terminator(func(s *tlsterm.Settings) { s.Tickets = keys }, cert)
		for rotations, want := range []bool{true, true, true, false} {
			client := keeper(w, version, nil)
			if resumes(t, term, client) {
				t.Fatal("resumed without a ticket")
			}
			for range rotations {
				keys.Rotate()
			}
			if got := resumes(t, term, client); got != want {
				t.Errorf("%s, after %d rotations: resumed %v", tls.VersionName(version), rotations, got)
			}
			if !resumes(t, term, client) {
				t.Errorf("%s, after %d rotations: no new ticket was given", tls.VersionName(version), rotations)
			}
		}
	}
}

// A reload makes a new terminator of the same keys.
func TestTicketsOutliveTheirTerminator(t *testing.T) {
	w := newBench(t)
	cert := w.issued("a", tlstest.Request{Names: []string{"a.example"}})
	for _, version := range both {
		keys := tlsterm.NewRotation(time.Hour)
		before := w.terminator(func(s *tlsterm.Settings) { s.Tickets = keys }, cert)
		after := w.terminator(func(s *tlsterm.Settings) { s.Tickets, s.HandshakeTimeout = keys, 2*time.Minute }, cert)
		strangers := w.terminator(nil, cert)
		none := w.terminator(func(s *tlsterm.Settings) { s.Tickets = nil }, cert)
		for name, tc := range map[string]struct {
			term *tlsterm.Terminator
			want bool
		}{"the same keys": {after, true}, "other keys": {strangers, false}, "no tickets": {none, false}} {
			client := keeper(w, version, nil)
			resumes(t, before, client)
			if got := resumes(t, tc.term, client); got != tc.want {
				t.Errorf("%s, %s: resumed %v", tls.VersionName(version), name, got)
			}
		}
		client := keeper(w, version, nil)
		for range 2 {
			if resumes(t, none, client) {
				t.Error("resumed although tickets are off")
			}
		}
	}
}

// A session is worth nothing where it could not have begun, not even with the
// same keys: without a certificate, with one that nobody asked for there, or
// with one of another authority.
func TestTicketsKeepToTheRulesAboutClients(t *testing.T) {
	w := newBench(t)
	others := tlstest.NewAuthority(t)
	tlstest.Write(t, w.path("ca.pem"), w.ca.PEM())
	tlstest.Write(t, w.path("others.pem"), others.PEM())
	tlstest.Write(t, w.path("both.pem"), append(w.ca.PEM(), others.PEM()...))
	cert := w.issued("a", tlstest.Request{Names: []string{"a.example"}})
	keys := tlsterm.NewRotation(time.Hour)
	make := func(listener string, mode tlsterm.ClientMode, file string) *tlsterm.Terminator {
		term := w.terminator(func(s *tlsterm.Settings) {
			s.Listener, s.Tickets, s.Clients, s.ClientCAFile = listener, keys, mode, w.path(file)
		}, cert)
		if err := term.Load(); err != nil {
			t.Fatal(err)
		}
		return term
	}
	alice := w.ca.Issue(t, tlstest.Request{Names: []string{"alice"}}).TLS(t)
	const open, request, require = tlsterm.NoClientCertificate, tlsterm.RequestClientCertificate, tlsterm.RequireClientCertificate
	for name, tc := range map[string]struct {
		from, to *tlsterm.Terminator
		cert     *tls.Certificate // shown in the first handshake only
		refused  bool
	}{
		"open to require":              {make("web", open, ""), make("web", require, "ca.pem"), nil, true},
		"request to require":           {make("web", request, "ca.pem"), make("web", require, "ca.pem"), nil, true},
		"known there, shown nothing":   {make("web", request, "ca.pem"), make("web", require, "ca.pem"), &alice, true},
		"another authority":            {make("web", require, "ca.pem"), make("web", require, "others.pem"), &alice, true},
		"another listener":             {make("web", require, "ca.pem"), make("api", require, "ca.pem"), &alice, true},
		"more authorities than before": {make("web", require, "ca.pem"), make("web", require, "both.pem"), &alice, true},
		"require to open":              {make("web", require, "ca.pem"), make("web", open, ""), &alice, false},
		"require to request":           {make("web", require, "ca.pem"), make("web", request, "ca.pem"), &alice, false},
	} {
		for _, version := range both {
			what := name + ", " + tls.VersionName(version)
			client := keeper(w, version, tc.cert)
			resumes(t, tc.from, client)
			client.Certificates = nil
			o := meet(t, tc.to, client)
			if tc.refused != errors.Is(o.server, reason.TLSClientCertificate) || tc.refused != (o.clientErr != nil) {
				t.Errorf("%s: %v, client %v", what, o.server, o.clientErr)
			}
			if o.server == nil && (o.conn.TLS().Resumed || o.conn.TLS().Peer != nil) {
				t.Errorf("%s: resumed as %q", what, o.conn.TLS().Subject)
			}
		}
	}
}

func TestResumedSessionsAreTheSameClients(t *testing.T) {
	w := newBench(t)
	term := clients(t, w, tlsterm.RequireClientCertificate)
	alice := w.ca.Issue(t, tlstest.Request{Names: []string{"alice"}, URI: "spiffe://example.internal/alice"}).TLS(t)
	for _, version := range both {
		client := keeper(w, version, &alice)
		first, second := meet(t, term, client), meet(t, term, client)
		if first.server != nil || second.server != nil || !second.conn.TLS().Resumed {
			t.Fatal(first.server, second.server)
		}
		a, b := *first.conn.TLS(), *second.conn.TLS()
		if a.Subject != b.Subject || a.SPIFFEID != b.SPIFFEID || a.Fingerprint != b.Fingerprint || a.ClientCert != b.ClientCert || len(b.Fingerprint) != 64 {
			t.Errorf("%+v became %+v", a, b)
		}
	}
}

func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := tlsterm.NewRotation(time.Hour)
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		seen := map[tlsterm.TicketSecret]bool{}
		for i := range 5 {
			s := r.Secrets()
			if seen[s.Current] || len(s.Previous) != min(i, 2) || s != r.Secrets() {
				t.Errorf("after %d hours: %d previous", i, len(s.Previous))
			}
			for _, p := range s.Previous {
				if !seen[p] || p == s.Current {
					t.Error("a secret that never was current")
				}
			}
			seen[s.Current] = true
			time.Sleep(time.Hour)
			synctest.Wait()
		}
		for range 2 {
			if err := r.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}
