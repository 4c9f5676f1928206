package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// logHas waits until the node's own log has a text.
func (g *gatehouse) logHas(text string) {
	g.t.Helper()
	g.eventually("log: "+text, func() error {
		if !strings.Contains(g.log.String(), text) {
			return errors.New("it is not there")
		}
		return nil
	})
}

// descriptors are what the node has open: names of files, mostly.
func (g *gatehouse) descriptors() (open []string) {
	g.t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	for _, l := range links {
		if name, err := os.Readlink(l); err == nil { // else it was closed meanwhile
			open = append(open, name)
		}
	}
	return open
}

const answering = `routes:
  all: { match: { path: / }, plugins: [waf: {}], respond: { body: fine } }
`

func TestSIGUSR1ReopensEveryLog(t *testing.T) {
	events := t.TempDir() + "/waf.log"
	g := start(t, answering+"waf: { event_log: { path: "+events+" } }\n")
	attack := func(id string) {
		t.Helper()
		if r := g.get("/?" + id + "=<script>alert(1)</script>"); r.StatusCode != 403 {
			t.Fatalf("the attack was answered with %d", r.StatusCode)
		}
	}
	inFile := func(path, text string) {
		t.Helper()
		g.eventually(path+" has "+text, func() error {
			b, err := os.ReadFile(path)
			if err == nil && !strings.Contains(string(b), text) {
				err = fmt.Errorf("it has only\n%s", b)
			}
			return err
		})
	}
	logs := []string{g.access, events}
	attack("before")
	for _, path := range logs {
		inFile(path, "before")
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	for _, path := range logs { // the old ones are closed last
		g.eventually(path+" is reopened", func() error {
			if open := g.descriptors(); slices.Contains(open, path+".1") || !slices.Contains(open, path) {
				return fmt.Errorf("open are %q", open)
			}
			return nil
		})
	}
	attack("after")
	for _, path := range logs {
		inFile(path, "after")
		if b, err := os.ReadFile(path + ".1"); err != nil || strings.Contains(string(b), "after") {
			t.Errorf("%v: the old file was still written to:\n%s", err, b)
		}
	}
	g.stop()
}

// An editor that empties a file before it writes it must not stop the node.
func TestAnEmptiedConfigChangesNothing(t *testing.T) {
	g := start(t, answering)
	for _, text := range []string{"", "# nothing\n", "node: { name: test }\n", "listeners: {}\n"} {
		failures := g.status()["failures"]
		g.writeRaw(text)
		g.eventually(fmt.Sprintf("%q is refused", text), func() error {
			if g.status()["failures"] == failures {
				return errors.New("not yet")
			}
			return nil
		})
		if why, _ := g.status()["error"].(string); !strings.Contains(why, "listeners: there is none") {
			t.Errorf("%q: refused because of %q", text, why)
		}
		if r := g.get("/"); r.StatusCode != http.StatusOK || r.body != "fine" {
			t.Errorf("%q: answered with %d %q", text, r.StatusCode, r.body)
		}
	}
	g.write(answering)
	g.eventually("the old config is read again", func() error {
		if why := g.status()["error"]; why != nil {
			return fmt.Errorf("%v", why)
		}
		return nil
	})
	g.stop()
}

// The first config with a firewall takes a while to build.
func TestAChangeDuringTheStartIsNotMissed(t *testing.T) {
	for range 5 {
		g := prepare(t, answering)
		g.run()
		g.eventually("the admin address answers", func() error {
			resp, err := http.Get("http://" + g.admin + "/healthz")
			if err != nil {
				return err
			}
			return resp.Body.Close()
		})
		g.write(strings.Replace(answering, "fine", "changed", 1))
		g.waitReady()
		g.eventually("the change is live", func() error {
			if r := g.get("/"); r.body != "changed" {
				return fmt.Errorf("answered with %q", r.body)
			}
			return nil
		})
		g.stop()
	}
}

func TestWhatAReloadCannotChangeIsSaid(t *testing.T) {
	g := start(t, answering)
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	g.logHas(`msg="the config has not changed" cause=SIGHUP`)
	g.writeRaw(strings.Replace(g.text(answering), "  name: test\n", "  name: another\n", 1))
	g.logHas("they take effect after a restart")
	g.stop()
}

func TestANodeWithoutANameHasItsMachines(t *testing.T) {
	want, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	g := prepare(t, "")
	g.writeRaw(strings.Replace(g.text(answering), "  name: test\n", "", 1))
	g.run()
	g.waitReady()
	resp, err := http.Get("http://" + g.admin + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct{ Detail struct{ Node string } }
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if body.Detail.Node != want {
		t.Errorf("the node calls itself %q, want %q", body.Detail.Node, want)
	}
	g.stop()
}
