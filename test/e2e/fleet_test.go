package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
)

// fleetNode starts a node of a fleet. The address of its listener is a
// reference in the shared config, since all of them are on one machine. store is
// more about Redis, more is what it controls.
func fleetNode(t *testing.T, name, redis, more, store string) *gatehouse {
	t.Helper()
	g := prepare(t, "")
	g.writeRaw(fmt.Sprintf(`node:
  name: %s
  data_dir: %s
  admin: { address: %q }
  access_log: { path: "off" }
  drain: { timeout: 30s }
  config: store
  store: { redis: { addresses: [%q]%s } }
  control: { %s }
`, name, g.dataDir, g.admin, redis, store, more))
	g.startAgain()
	return g
}

// patient is for tests in which no store hangs: a busy machine may seem to be one.
const patient = ", timeout: 1m"

// startAgain starts the binary, which need not become ready.
func (g *gatehouse) startAgain() {
	g.t.Helper()
	cmd := exec.Command(binary, "run", "-c", g.config)
	cmd.Env = append(os.Environ(), "WEB="+g.web)
	g.launch(cmd)
}

// cli runs a command against the node.
func (g *gatehouse) cli(args ...string) (code int, out, errs string) {
	g.t.Helper()
	cmd := exec.Command(binary, append(args, "--server", g.admin, "--data-dir", g.dataDir)...)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil {
		if x := new(exec.ExitError); !errors.As(err, &x) {
			g.t.Fatal(err)
		}
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

func (g *gatehouse) answers(body string) {
	g.t.Helper()
	g.eventually("it answers "+body, func() error {
		r, err := client.Get("http://" + g.web + "/")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if got, err := io.ReadAll(r.Body); err != nil || string(got) != body {
			return fmt.Errorf("it answers %q, %v", got, err)
		}
		return nil
	})
}

const sharedConfig = `listeners: { web: { address: "${WEB}" } }
routes: { all: { match: { path: / }, respond: { body: %q } } }
`

func TestAFleetOfRealNodes(t *testing.T) {
	server := redistest.Start(t)
	a := fleetNode(t, "a", server.Address, "enabled: true", patient)
	shared := filepath.Join(t.TempDir(), "shared.yaml")
	publish := func(text string, args ...string) (int, string, string) {
		t.Helper()
		if err := os.WriteFile(shared, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return a.cli(append([]string{"apply", "-c", shared, "-m", "a test"}, args...)...)
	}
	var key string
	a.eventually("it shows its key", func() error {
		_, out, errs := a.cli("status")
		i := strings.Index(out, "ed25519:")
		if i < 0 {
			return errors.New(out + errs)
		}
		key = strings.Fields(out[i:])[0]
		return nil
	})
	b := fleetNode(t, "b", server.Address, fmt.Sprintf("enabled: false, trusted_keys: [%q]", key), patient)
	nodes := []*gatehouse{a, b}
	both := func(body string) {
		t.Helper()
		for _, g := range nodes {
			g.waitReady()
			g.answers(body)
		}
	}
	b.eventually("both are known", func() error {
		_, out, errs := a.cli("status")
		if !strings.Contains(out, "\nb ") {
			return errors.New(out + errs)
		}
		return nil
	})
	code, out, errs := publish(fmt.Sprintf(sharedConfig, "one"))
	if code != 0 || !strings.Contains(out, "published as revision 1\nlive on a, b\n") {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	both("one")
	if code, out, errs = publish(fmt.Sprintf(sharedConfig, "two")); code != 0 || !strings.Contains(out, "  ~ routes.all\n") {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	both("two")
	if code, out, errs = a.cli("rollback", "1", "-m", "two was bad"); code != 0 || !strings.Contains(out, "published as revision 3\nlive on a, b\n") {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	both("one")

	// A file that is on one node only: the other cannot build the config.
	if err := os.WriteFile(filepath.Join(filepath.Dir(a.config), "only-a.txt"), []byte("192.0.2.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs = publish(fmt.Sprintf(sharedConfig, "bad") + "plugins: [{ ip_filter: { deny_file: only-a.txt } }]\n")
	if code != 1 || !strings.Contains(errs, "node b refused revision 4: shared.yaml:") || !strings.Contains(errs, "back to the config of revision 3, as revision 5") {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	both("one")
	if code, out, errs = publish("listeners: {}\nnonsense: 1\n"); code != 2 || !strings.HasPrefix(errs, "shared.yaml:2:1: nonsense: ") {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	a.eventually("all is well", func() error {
		if code, out, errs := a.cli("status"); code != 0 {
			return errors.New(out + errs)
		}
		return nil
	})

	// Without Redis they serve, and start.
	for _, g := range nodes {
		g.eventually("it runs what was published last", func() error { return is(g.metric("gatehouse_fleet_revision_number"), 5) })
	}
	server.Kill(t)
	both("one")
	b.stop()
	b.startAgain()
	both("one")
	b.logHas("it is the last good one on disk")
	code, out, _ = b.cli("status")
	if code != 1 || !strings.Contains(out, "revision     5, from disk") || !strings.Contains(out, "store: does not answer since ") {
		t.Errorf("code %d\n%s", code, out)
	}
	// Empty, it gets everything back.
	server.Run(t)
	a.logHas("this node has restored them")
	b.eventually("it has found its way back", func() error {
		if code, out, errs := b.cli("status"); code != 0 || !strings.Contains(out, "revision     5 by ") {
			return errors.New(out + errs)
		}
		return nil
	})
	if _, out, _ = b.cli("history"); strings.Count(out, "a test") != 3 {
		t.Errorf("the history:\n%s", out)
	}
	for _, g := range nodes {
		for _, line := range strings.Split(g.log.String(), "\n") {
			if strings.HasPrefix(line, "redis: ") {
				t.Errorf("a library writes to standard error: %s", line)
			}
		}
		g.stop()
	}
}
