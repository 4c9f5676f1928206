package tlsterm_test

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

func TestAdmits(t *testing.T) {
	ours, theirs := tlstest.NewAuthority(t), tlstest.NewAuthority(t)
	path := filepath.Join(t.TempDir(), "clients.pem")
	tlstest.Write(t, path, ours.PEM())
	listener := func(mode tlsterm.ClientMode) *tlsterm.Terminator {
		s := tlsterm.Settings{Listener: "test", Clients: mode, ClientCAFile: path, Changes: new(atomic.Uint64), Log: slog.New(slog.DiscardHandler)}
		term := tlsterm.New(s)
		if err := term.Load(); err != nil {
			t.Fatal(err)
		}
		return term
	}
	about := func(a *tlstest.Authority) *exchange.TLS {
		leaf := a.Issue(t, tlstest.Request{Names: []string{"client"}}).TLS(t).Leaf
		c := tlsterm.About(tls.ConnectionState{
			PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}},
		})
		return &c
	}
	bare := tlsterm.About(tls.ConnectionState{})
	for _, c := range []struct {
		what                       string
		client                     *exchange.TLS
		asked, requested, required bool
	}{
		{"plain text", nil, true, true, false},
		{"no certificate", &bare, true, true, false},
		{"ours", about(ours), true, true, true},
		{"a stranger's", about(theirs), true, false, false},
	} {
		for mode, want := range map[tlsterm.ClientMode]bool{
			tlsterm.NoClientCertificate: c.asked, tlsterm.RequestClientCertificate: c.requested, tlsterm.RequireClientCertificate: c.required,
		} {
			if got := listener(mode).Admits(c.client); got != want {
				t.Errorf("%s, mode %d: %v, want %v", c.what, mode, got, want)
			}
		}
	}

	term, client := listener(tlsterm.RequireClientCertificate), about(ours)
	if !term.Admits(client) {
		t.Error("not admitted")
	}
	if n := testing.AllocsPerRun(100, func() { term.Admits(client) }); n != 0 {
		t.Errorf("%v allocations for a client known to be good", n)
	}
	tlstest.Write(t, path, theirs.PEM())
	if err := term.Load(); err != nil {
		t.Fatal(err)
	}
	if term.Admits(client) {
		t.Error("admitted although its authority is no longer trusted")
	}
}
