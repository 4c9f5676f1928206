package compile_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

const secureConfig = `
certificates:
  one: { cert_file: one.crt, key_file: one.key }
  two: { cert_file: %s.crt, key_file: two.key }
listeners:
  web: { address: "127.0.0.1:0", tls: { certificates: [one] } }
  api: { address: "127.0.0.1:0", tls: { certificates: [one, two], client_certificates: { ca_file: %s } } }
routes:
  all: { match: { path: / }, respond: { body: "%s" } }
`

// A reload must not make session tickets worthless, nor lose a certificate's
// place in its files, unless something about it changed.
func TestTLSUnitsAreTakenOver(t *testing.T) {
	defer leak.VerifyNone(t)
	dir := t.TempDir()
	ca := tlstest.NewAuthority(t)
	tlstest.Write(t, filepath.Join(dir, "ca.pem"), ca.PEM())
	for _, name := range []string{"one", "two", "three"} {
		ca.Issue(t, tlstest.Request{Names: []string{name}}).Write(t, filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	}
	m := metrics.New(metrics.Settings{})
	c, err := compile.New(compile.Settings{Log: slog.New(slog.DiscardHandler), Metrics: m})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var prev *compile.Result
	build := func(mode compile.Mode, args ...any) (*compile.Result, error) {
		t.Helper()
		cfg, src, err := config.Parse([]byte(fmt.Sprintf(secureConfig, args...)), "in.yaml", nil, config.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if prev == nil {
			return c.Build(context.Background(), cfg, src, nil, mode)
		}
		return c.Build(context.Background(), cfg, src, prev.Snapshot, mode)
	}
	terminators := func(r *compile.Result) map[string]*tlsterm.Terminator {
		out := map[string]*tlsterm.Terminator{}
		for _, l := range r.Snapshot.Listeners {
			out[l.Name] = l.TLS
		}
		return out
	}
	next := func(mode compile.Mode, args ...any) map[string]*tlsterm.Terminator {
		t.Helper()
		r, err := build(mode, args...)
		if err != nil {
			t.Fatal(err)
		}
		c.Live(r)
		if prev != nil {
			prev.Snapshot.Release()
			<-prev.Snapshot.Retired()
		}
		prev = r
		return terminators(r)
	}
	first := next(compile.ServeTheRest, "missing", "missing.pem", "1")
	if first["web"] == nil || first["api"] == nil {
		t.Fatal("a listener without TLS, although it is configured")
	}
	if s := compile.CertificatesStatus(prev.Snapshot); len(s) != 2 || s[0].State != "ok" || s[0].Source != "file" || s[0].Hosts[0] != "one" ||
		s[1].State != "missing" || !strings.Contains(s[1].Error, "missing.crt") || s[1].ErrorAt.IsZero() {
		t.Errorf("%+v", s)
	}
	if _, err := build(compile.AllOrNothing, "three", "ca.pem", "2"); err == nil || !strings.Contains(err.Error(), "in.yaml:4:21: certificates.two.cert_file: ") {
		t.Errorf("a certificate with another's key: %v", err)
	}
	if _, err := build(compile.DryRun, "two", "gone.pem", "2"); err == nil || !strings.Contains(err.Error(), "listeners.api.tls.client_certificates.ca_file: ") || !strings.Contains(err.Error(), "in.yaml:7:") {
		t.Errorf("missing authorities: %v", err)
	}
	second := next(compile.AllOrNothing, "two", "ca.pem", "2")
	if second["web"] != first["web"] || second["api"] == first["api"] {
		t.Error("what did not change was made anew, or what did was not")
	}
	if third := next(compile.AllOrNothing, "two", "ca.pem", "3"); third["web"] != second["web"] || third["api"] != second["api"] {
		t.Error("a reload of other things touched TLS")
	}
	prev.Snapshot.Release()
	<-prev.Snapshot.Retired()
}
