package compile_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

const acmeConfig = `
certificates: { shop: { acme: { hosts: [%s], accept_terms: true, directory: "http://127.0.0.1:1/" } }%s }
listeners: { web: { address: "127.0.0.1:0", tls: { certificates: [shop] } }, plain: { address: "127.0.0.1:0" } }
routes: { all: { match: { path: / }, respond: { body: "%s" } } }
`

// The worker of a certificate lives as long as its entry says the same, and
// ends with it.
func TestACMEWorkersFollowTheConfig(t *testing.T) {
	defer leak.VerifyNone(t)
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	node := acme.NewNode(acme.NodeSettings{Dir: acme.DirIn(dir), KeyFile: acme.KeyFileIn(dir), Log: log})
	c, err := compile.New(compile.Settings{Log: log, Metrics: metrics.New(metrics.Settings{}), ACME: node})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var prev *snapshot.Snapshot
	build := func(mode compile.Mode, args ...any) (*compile.Result, error) {
		t.Helper()
		cfg, src, err := config.Parse([]byte(fmt.Sprintf(acmeConfig, args...)), "in.yaml", nil, config.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return c.Build(context.Background(), cfg, src, prev, mode)
	}
	if r, err := build(compile.DryRun, "a.test", "", "0"); err != nil {
		t.Fatal(err)
	} else if r.Snapshot.Release(); len(list(t, dir)) != 0 {
		t.Errorf("a dry run left %v", list(t, dir))
	}
	next := func(args ...any) snapshot.Unit {
		t.Helper()
		r, err := build(compile.AllOrNothing, args...)
		if err != nil {
			t.Fatal(err)
		}
		if prev != nil {
			prev.Units.Retire(r.Snapshot.Units)
			prev.Release()
			<-prev.Retired()
		}
		c.Live(r)
		prev = r.Snapshot
		return prev.Units.Lookup("certificate/shop")
	}
	first := next("a.test", "", "1")
	if same := next("a.test", ", other: { acme: { hosts: [b.test], accept_terms: true, directory: \"http://127.0.0.1:1/\" } }", "2"); same != first {
		t.Error("a reload of other things touched the worker")
	}
	if s := compile.CertificatesStatus(prev); len(s) != 2 || s[1].Name != "shop" || s[1].State != "missing" || s[1].Source != "acme" || s[1].Hosts[0] != "a.test" {
		t.Errorf("%+v", s)
	}
	if other := next("a.test, c.test", "", "3"); other == first {
		t.Error("another wish is ordered by the old worker")
	}
	for _, mode := range []compile.Mode{compile.AllOrNothing, compile.DryRun} {
		if _, err := build(mode, "d.test", ", private: { acme: { hosts: [e.test], accept_terms: true, ca_file: gone.pem } }", "4"); err == nil ||
			!strings.Contains(err.Error(), "certificates.private.acme: ca_file: ") {
			t.Errorf("a missing file of authorities: %v", err)
		}
	}
	prev.Release()
	<-prev.Retired()
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if path != dir {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Without a place to keep certificates none is ordered: it would be lost, and
// ordered again and again.
func TestACMEWithoutAStore(t *testing.T) {
	defer leak.VerifyNone(t)
	c, err := compile.New(compile.Settings{Log: slog.New(slog.DiscardHandler), Metrics: metrics.New(metrics.Settings{})})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cfg, src, err := config.Parse([]byte(fmt.Sprintf(acmeConfig, "a.test", "", "1")), "in.yaml", nil, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Build(t.Context(), cfg, src, nil, compile.AllOrNothing); err == nil || !strings.Contains(err.Error(), "in.yaml:2:25: certificates.shop.acme: the store of certificates is not open") {
		t.Error(err)
	}
}
