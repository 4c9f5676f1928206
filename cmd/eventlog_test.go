package cmd

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// events is a config that blocks and writes what it blocks to a file.
func events(path, format string) string {
	return fmt.Sprintf(`listeners: { web: { address: "127.0.0.1:0" } }
routes: { r: { plugins: [{ waf: {} }], respond: { body: fine } } }
waf:
  event_log: { path: %q, format: %s }
  policies: { default: { crs: false, rules: 'SecRule ARGS "@contains evil" "id:1,phase:1,deny,log,msg:evil"' } }
`, path, format)
}

func (n *fleetNode) attack(want int) {
	n.t.Helper()
	if code := attack(n.t, n.gateway.Addresses()["web"]); code != want {
		n.t.Errorf("an attack: %d, want %d", code, want)
	}
}

func attack(t *testing.T, a net.Addr) int {
	t.Helper()
	code, _ := get(t, a, "/?x=evil")
	return code
}

func lines(path string) int {
	text, _ := os.ReadFile(path) // none is no line
	return strings.Count(string(text), "\n")
}

// A revision's event log takes effect like the rest of it.
func TestTheEventLogFollowsTheConfig(t *testing.T) {
	n := newFleetNode(t, t.TempDir(), "n1", "")
	one, two := filepath.Join(n.dir, "one.log"), filepath.Join(n.dir, "two.log")
	written := func(path string, want int) {
		t.Helper()
		eventually(t, "it is written to "+path, func() string {
			if got := lines(path); got != want {
				return fmt.Sprintf("%d lines", got)
			}
			return ""
		})
	}
	n.apply(events(one, "json"))
	n.attack(http.StatusForbidden)
	written(one, 1)
	n.apply(events(two, "modsecurity"))
	n.attack(http.StatusForbidden)
	written(two, 1)
	if text, _ := os.ReadFile(two); !strings.Contains(string(text), "ModSecurity") {
		t.Errorf("not in the form that was asked for: %s", text)
	}
	// One that cannot be opened is a refusal, and what was there stays.
	r := n.run("apply", "-c", file(t, events(filepath.Join(n.dir, "no", "x.log"), "json")), "-m", "x")
	if r.code != 1 || !strings.Contains(r.err, "refused revision 3: gatehouse.yaml:4:") || !strings.Contains(r.err, "waf.event_log.path: open ") {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
	n.attack(http.StatusForbidden)
	written(two, 2)
	if err := os.Rename(two, two+".1"); err != nil {
		t.Fatal(err)
	}
	n.reopenLogs()
	n.attack(http.StatusForbidden)
	written(two, 1)
	n.apply(events("off", "json"))
	n.attack(http.StatusForbidden)
	if lines(one) != 1 || lines(two) != 1 || lines(two+".1") != 2 {
		t.Errorf("%d, %d and %d lines", lines(one), lines(two), lines(two+".1"))
	}
}

// A node that starts with a revision of which it cannot open the event log
// serves without, says so, and opens it when it can.
func TestANodeStartsWithoutItsEventLog(t *testing.T) {
	dir := t.TempDir()
	n := newFleetNode(t, dir, "n1", "")
	folder := filepath.Join(dir, "logs")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "events.log")
	n.apply(events(path, "json"))
	n.end()
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	n = newFleetNode(t, dir, "n1", "")
	n.attack(http.StatusForbidden)
	if r := n.run("status"); r.code != 1 || !strings.Contains(r.out, "config: this node does without a part of it: gatehouse.yaml:4:") {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is well", func() string {
		if r := n.run("status"); r.code != 0 {
			return r.out + r.err
		}
		return ""
	})
	n.attack(http.StatusForbidden)
	eventually(t, "it is written", func() string {
		if lines(path) != 1 {
			return "it is not"
		}
		return ""
	})
}
