package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSystemdUnits has systemd read the units, with the binary where it is here.
func TestSystemdUnits(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"gatehouse.service", "gatehouse.socket"} {
		text, err := os.ReadFile(filepath.Join(root, "deploy/systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		here := strings.ReplaceAll(string(text), "/usr/local/bin/gatehouse", binary)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(here), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", "./gatehouse.service", "./gatehouse.socket")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestSystemdSocketActivate has systemd's own tool listen, which starts the node
// at the first connection.
func TestSystemdSocketActivate(t *testing.T) {
	g := prepare(t, `
routes:
  all: { match: { path: / }, respond: { body: activated } }
`)
	g.launch(exec.Command("systemd-socket-activate", "--listen="+g.web, "--listen="+g.admin, binary, "run", "-c", g.config))
	g.eventually("the tool listens", func() error {
		if listening := strings.Count(g.log.String(), "Listening on "); listening != 2 {
			return fmt.Errorf("%d sockets", listening)
		}
		return nil
	})
	if strings.Contains(g.log.String(), "gatehouse is ready") {
		t.Error("the node was started before there was a connection")
	}
	if r := g.get("/"); r.StatusCode != 200 || r.body != "activated" {
		t.Errorf("the connection that started it: %d %q", r.StatusCode, r.body)
	}
	g.waitReady()
	if log := g.log.String(); strings.Contains(log, "level=WARN") {
		t.Errorf("a socket has no use:\n%s", log)
	}
	g.stop()
}
