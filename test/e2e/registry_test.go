package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
)

// eurekaScript is a running program of Node.js that tells what it does in lines.
type eurekaScript struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
}

// eurekaClient starts the client of Eureka from npm for an instance of an app.
func eurekaClient(t *testing.T, server, user, password, app, id, port string) *eurekaScript {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	modules := filepath.Join(root, ".cache", "eureka-client")
	if out, err := exec.Command(filepath.Join(root, "scripts", "eureka-client.sh"), modules).CombinedOutput(); err != nil {
		t.Fatalf("installing the client: %v (scripts/setup.sh installs Node.js)\n%s", err, out)
	}
	s := &eurekaScript{t: t, lines: make(chan string, 1000)}
	s.cmd = exec.Command("node", "testdata/eureka-client/client.js", modules, server, user, password, app, id, port)
	s.cmd.Stderr = os.Stderr
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			s.lines <- in.Text()
		}
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it may have ended
		_ = s.cmd.Wait()
	})
	return s
}

// says waits for a line.
func (s *eurekaScript) says(want string) {
	s.t.Helper()
	for end := time.After(time.Minute); ; {
		select {
		case line, open := <-s.lines:
			if line == want {
				return
			}
			if !open {
				s.t.Fatalf("it has ended without %q", want)
			}
		case <-end:
			s.t.Fatalf("it does not say %q", want)
		}
	}
}

// knows waits until the client knows instances of an app.
func (s *eurekaScript) knows(app, want string) {
	s.t.Helper()
	last := ""
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := fmt.Fprintln(s.in, "list "+app); err != nil {
			s.t.Fatal(err)
		}
		for line := range s.lines {
			if rest, ok := strings.CutPrefix(line, "list "); ok {
				last = rest
				break
			}
		}
		if last == want {
			return
		}
	}
	s.t.Fatalf("it knows %q, want %q", last, want)
}

// registryNode starts a node with its own config and a registry in Redis.
func registryNode(t *testing.T, name, redis, node, rest string) *gatehouse {
	t.Helper()
	g := prepare(t, "")
	g.writeRaw(fmt.Sprintf(`node:
  name: %s
  data_dir: %s
  admin: { address: %q }
  access_log: { path: "off" }
  drain: { timeout: 30s }
  store: { redis: { addresses: [%q]%s } }
%s
listeners: { web: { address: %q } }
%s`, name, g.dataDir, g.admin, redis, patient, node, g.web, rest))
	g.startAgain()
	g.waitReady()
	return g
}

// answersWith waits until the listener answers so.
func (g *gatehouse) answersWith(status int) {
	g.t.Helper()
	g.eventually(fmt.Sprintf("it answers %d", status), func() error {
		if got := g.get("/").StatusCode; got != status {
			return fmt.Errorf("it answers %d", got)
		}
		return nil
	})
}

// A client that knows nothing of Gatehouse registers with one node, another one
// sends it requests, and Redis may come and go.
func TestAClientOfEurekaGetsRequests(t *testing.T) {
	server := redistest.Start(t)
	eureka := freeAddress(t)
	const password = "a password of Eureka"
	a := registryNode(t, "a", server.Address,
		fmt.Sprintf("  registry: { eureka: { address: %q, users: { spring: %q } } }", eureka, password),
		`routes: { none: { match: { path: / }, respond: { body: "control" } } }`)
	b := registryNode(t, "b", server.Address, "  control: { enabled: false }", `
upstreams: { users: { mesh: users } }
routes: { all: { match: { path: / }, backends: [{ upstream: users }] } }`)
	app := upstreamServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "users") })
	_, port, _ := strings.Cut(app, ":")

	b.answersWith(503)
	client := eurekaClient(t, eureka, "spring", password, "users", "u1:users", port)
	client.says("registered")
	b.answersWith(200)
	client.knows("users", "u1:users@"+app+"=UP")

	if code, out, errs := b.cli("services", "drain", "users", "u1:users"); code != 0 {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	b.answersWith(503)
	client.knows("users", "u1:users@"+app+"=OUT_OF_SERVICE")
	if code, out, errs := a.cli("services", "status", "users", "u1:users", "own"); code != 0 {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	b.answersWith(200)

	// Without Redis everybody goes on with what is known, also over a restart.
	server.Kill(t)
	b.answersWith(200)
	b.stop()
	b.startAgain()
	b.waitReady()
	b.answersWith(200)
	b.eventually("it says so", func() error {
		code, out, _ := b.cli("status")
		if code != 1 || !strings.Contains(out, "services: the store does not answer, those that were on disk") {
			return errors.New(out)
		}
		return nil
	})
	client.knows("users", "u1:users@"+app+"=UP")

	// An empty Redis fills by itself: the client's heartbeat is not found.
	server.Run(t)
	client.says("registered")
	b.eventually("all is well", func() error {
		code, out, errs := b.cli("status")
		if code != 0 || !strings.Contains(out, "services     1 with 1 instance, 1 up") {
			return errors.New(out + errs)
		}
		return nil
	})
	b.answersWith(200)
	if _, err := fmt.Fprintln(client.in, "stop"); err != nil {
		t.Fatal(err)
	}
	client.says("deregistered")
	b.answersWith(503)
	if n := a.metric(`gatehouse_registry_eureka_requests_total{operation="register",result="ok"}`); n < 2 {
		t.Errorf("%v registrations are counted", n)
	}
	a.stop()
	b.stop()
}
