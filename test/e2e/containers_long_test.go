//go:build long

package e2e

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// confined is what the compose file asks for too.
var confined = []string{"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"}

// TestContainers builds the image and runs it, alone and as docker-compose.yml
// says, where a container engine works.
func TestContainers(t *testing.T) {
	e := startEngine(t)
	authority := tlstest.NewAuthority(t)
	e.baseImages(authority.PEM())
	if out, err := e.try("make", "image", "VERSION=under-test"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Run("image", func(t *testing.T) { testImage(t, e, authority) })
	t.Run("compose", func(t *testing.T) { testCompose(t, e) })
}

// start runs the image in the background, with config as its file.
func (e *engine) start(t *testing.T, name, config string, args ...string) (configFile string) {
	t.Helper()
	dir := t.TempDir()
	configFile = filepath.Join(dir, "gatehouse.yaml")
	readable(t, dir)
	writeReadable(t, configFile, config)
	run := append([]string{"run", "--detach", "--name", name, "--network", "gatehouse-test", "--volume", dir + ":/etc/gatehouse:ro"}, confined...)
	e.docker(t, append(append(run, args...), "gatehouse:under-test")...)
	return configFile
}

// readable lets the image's user read what the test has made.
func readable(t *testing.T, path string) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	mode := os.FileMode(0o644)
	if st.IsDir() {
		mode = 0o755
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func writeReadable(t *testing.T, path, text string) {
	t.Helper()
	tlstest.Write(t, path, []byte(text))
	readable(t, path)
}

func testImage(t *testing.T, e *engine, authority *tlstest.Authority) {
	e.docker(t, "network", "create", "gatehouse-test")
	once := func(args ...string) (string, error) {
		return e.try("docker", append(append([]string{"run", "--rm", "--network", "none"}, confined...), args...)...)
	}
	if out, err := once("gatehouse:under-test", "--version"); err != nil || !strings.HasPrefix(out, "gatehouse under-test\n") {
		t.Errorf("%v, %q", err, out)
	}
	if out, err := once("gatehouse:under-test"); err == nil || !strings.Contains(err.Error(), "/etc/gatehouse/gatehouse.yaml: cannot be read") {
		t.Errorf("without a config: %v\n%s", err, out)
	}

	// What the program cannot bring along: a time zone, and authorities for an
	// upstream that is found by its name.
	pair := authority.Issue(t, tlstest.Request{Names: []string{"backend"}})
	certs := t.TempDir()
	pair.Write(t, filepath.Join(certs, "cert.pem"), filepath.Join(certs, "key.pem"))
	for _, path := range []string{"", "cert.pem", "key.pem"} {
		readable(t, filepath.Join(certs, path))
	}
	e.start(t, "backend", `
node: { data_dir: /data }
certificates: { own: { cert_file: /certs/cert.pem, key_file: /certs/key.pem } }
listeners: { web: { address: ":8443", tls: { certificates: [own] } } }
routes: { all: { match: { path: / }, respond: { body: "over TLS" } } }
`, "--volume", certs+":/certs:ro")
	text := `
node: { data_dir: /data, drain: { delay: 1s, timeout: 20s } }
listeners: { web: { address: ":80" } }
upstreams: { backend: { endpoints: ["backend:8443"], tls: {} } }
routes:
  all:
    match: { path: / }
    plugins: [ { quota: { plans: { free: { day: 10 } }, anonymous: skip, time_zone: Europe/Berlin } } ]
    backends: [{ upstream: backend }]
`
	config := e.start(t, "front", text, "--publish", "127.0.0.1:8081:80")
	e.waitFor(t, "front", ".State.Health.Status", "healthy")
	e.waitFor(t, "backend", ".State.Health.Status", "healthy")
	eventually(t, "an upstream with TLS", e.answers("http://127.0.0.1:8081/", "over TLS"))
	if out := e.docker(t, "exec", "front", "/gatehouse", "status"); !strings.HasSuffix(out, "All is well.") {
		t.Errorf("status:\n%s", out)
	}
	e.owner(t, "front")

	// SIGHUP is for the first process of a container too; SIGUSR2 would end it.
	writeReadable(t, config, strings.Replace(text, "routes:", "routes:\n  new: { match: { path: /new }, respond: { body: new } }", 1))
	e.docker(t, "kill", "--signal", "HUP", "front")
	eventually(t, "the new config", e.answers("http://127.0.0.1:8081/new", "new"))
	e.docker(t, "kill", "--signal", "USR2", "front")
	eventually(t, "why there is no handover", func() error {
		_, err := e.try("sh", "-c", "docker logs front 2>&1 | grep -q 'first of its container'")
		return err
	})
	e.docker(t, "stop", "--time", "60", "front")
	if code := e.inspect(t, "front", ".State.ExitCode"); code != "0" {
		t.Errorf("stopped with %s", code)
	}
	e.docker(t, "rm", "--force", "--volumes", "front", "backend")

	// A folder of the host belongs to somebody else.
	if out, err := once("--volume", certs+":/data", "--volume", filepath.Dir(config)+":/etc/gatehouse:ro", "gatehouse:under-test"); err == nil ||
		!strings.Contains(err.Error(), "node.data_dir: ") {
		t.Errorf("%v\n%s", err, out)
	}
}

// owner checks whom the files in a node's volume belong to.
func (e *engine) owner(t *testing.T, container string) {
	t.Helper()
	out, err := e.try("docker", "cp", container+":/data", "-")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	for r := tar.NewReader(strings.NewReader(out)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = h.Mode & 0o777
		if h.Uid != 65532 || h.Gid != 65532 {
			t.Errorf("%s belongs to %d:%d", h.Name, h.Uid, h.Gid)
		}
	}
	if found["data/"] != 0o700 || found["data/admin.token"] != 0o600 {
		t.Errorf("modes: %v", found)
	}
}

func testCompose(t *testing.T, e *engine) {
	const project, web, prometheus = "fleet", "127.0.0.1:8080", "127.0.0.1:9090"
	c := readCompose(t)
	compose := func(args ...string) string {
		t.Helper()
		args = append(append(e.compose[1:len(e.compose):len(e.compose)], "--project-name", project), args...)
		out, err := e.tryIn([]string{"GATEHOUSE_IMAGE=gatehouse:under-test"}, nil, e.compose[0], args...)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return out
	}
	container := func(service string) string {
		t.Helper()
		return strings.TrimSpace(compose("ps", "--quiet", service))
	}
	defer compose("down", "--volumes")
	compose("up", "--detach")
	ids := map[string]string{}
	for name := range c.Services {
		if name == "secrets" || name == "publish" { // they have done their work, or nothing below would work
			continue
		}
		ids[name] = container(name)
		e.waitFor(t, ids[name], ".State.Health.Status", "healthy")
	}
	for path, want := range map[string]string{"/users/1": "hello from users\n", "/orders": "hello from orders\n"} {
		eventually(t, path, e.answers("http://"+web+path, want))
	}
	if code, body, err := e.get("http://" + web + "/orders?q=" + url.QueryEscape("1' OR '1'='1' --")); err != nil || code != http.StatusForbidden {
		t.Errorf("an attack: %d %q, %v", code, body, err)
	}
	well := func(nodes ...string) func() error {
		return func() error {
			out, err := e.try("docker", "exec", ids["node-1"], "/gatehouse", "status")
			for _, node := range nodes {
				if err == nil && !strings.Contains(out, "\n"+node+" ") {
					err = fmt.Errorf("there is no %s:\n%s", node, out)
				}
			}
			return err
		}
	}
	eventually(t, "both nodes are well", well("node-1", "node-2"))
	eventually(t, "Prometheus", func() error { return e.watched(prometheus) })

	// Redis needs its own password, and must not know what the nodes encrypt with.
	if out, err := e.try("docker", "exec", ids["redis"], "cat", "/secrets/redis-password"); err != nil || len(out) < 40 {
		t.Errorf("Redis' password: %v, %q", err, out)
	}
	if out, err := e.try("docker", "exec", ids["redis"], "cat", "/secrets/node-secret"); err == nil {
		t.Errorf("Redis can read the nodes' secret: %q", out)
	}
	if out, err := e.try("docker", "exec", ids["redis"], "redis-cli", "ping"); err != nil || !strings.Contains(out, "NOAUTH") {
		t.Errorf("Redis without a password: %v, %q", err, out)
	}

	// One limit for both nodes, by a revision that is applied as the file says. On
	// a busy machine Redis may be late: such a request is refused, counted or not.
	shared, err := os.ReadFile(filepath.Join(root, "deploy/compose/shared.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const limited = 7
	edited := strings.Replace(string(shared), "limit: 1000, per: 1s", fmt.Sprintf("limit: %d, per: 24h, on_store_failure: closed", limited), 1)
	if edited == string(shared) {
		t.Fatal("shared.yaml has another limit now")
	}
	dir := t.TempDir()
	readable(t, dir)
	writeReadable(t, filepath.Join(dir, "shared.yaml"), edited)
	if out := compose("run", "--rm", "-T", "--volume", dir+":/edited:ro", "publish", "apply", "-c", "/edited/shared.yaml", "-m", "a limit",
		"--server", "node-1:9901", "--data-dir", "/node-1"); !strings.Contains(out, "live on node-1, node-2") {
		t.Errorf("apply:\n%s", out)
	}
	series := `gatehouse_route_requests_total{code="429",route="users"}`
	granted, late := 0, 0
	eventually(t, "both nodes refuse", func() error {
		code, body, err := e.get("http://" + web + "/users")
		switch {
		case err != nil:
			t.Fatal(err)
		case code == http.StatusOK:
			granted++
		case code == http.StatusServiceUnavailable:
			late++
		case code != http.StatusTooManyRequests:
			t.Fatalf("%d %q", code, body)
		}
		for _, node := range []string{"node-1", "node-2"} {
			if n, err := e.metric(ids[node], series); err != nil || n == 0 {
				return fmt.Errorf("%s has refused %v, %v", node, n, err)
			}
		}
		return nil
	})
	if granted > limited || granted+late < limited {
		t.Errorf("%d of %d requests were let through, for %d Redis was late", granted, limited, late)
	}

	// A node that crashes is started again. Connections it had taken end with it;
	// everything else is answered.
	both := func() error {
		if n, err := e.metric(ids["balancer"], `gatehouse_upstream_endpoint_healthy{`); err != nil || n != 2 {
			return fmt.Errorf("the balancer has %v nodes, %v", n, err)
		}
		return nil
	}
	e.crash(t, ids["node-2"])
	eventually(t, "node-2 is back", func() error {
		if code, body, err := e.get("http://" + web + "/orders"); err == nil && code != http.StatusOK {
			t.Fatalf("while node-2 is away: %d %q", code, body)
		}
		if n, health := e.inspect(t, ids["node-2"], ".RestartCount"), e.inspect(t, ids["node-2"], ".State.Health.Status"); n != "1" || health != "healthy" {
			return fmt.Errorf("restarted %s times, %s", n, health)
		}
		return both()
	})
	quietly := func(what string, done func() error) {
		t.Helper()
		eventually(t, what, func() error {
			for range 5 {
				if code, body, err := e.get("http://" + web + "/orders"); err != nil || code != http.StatusOK {
					t.Fatalf("%s: %d %q, %v", what, code, body, err)
				}
			}
			return done()
		})
	}
	// One that is stopped drains, which takes less than its grace, and nobody notices.
	compose("stop", "node-1")
	if code := e.inspect(t, ids["node-1"], ".State.ExitCode"); code != "0" {
		t.Errorf("node-1 stopped with %s", code)
	}
	quietly("node-1 is away", func() error { return nil })
	compose("start", "node-1")
	quietly("node-1 is back", both)
	// Redis keeps what it has, and its password.
	number := func() float64 {
		t.Helper()
		n, err := e.metric(ids["node-1"], "gatehouse_fleet_revision_number ")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := number()
	compose("restart", "redis")
	quietly("all is well without Redis and after", well("node-1", "node-2"))
	if after := number(); before != 2 || after != before {
		t.Errorf("revision %v, then %v", before, after)
	}
}

// watched says whether Prometheus reads all three, and has the alerts.
func (e *engine) watched(address string) error {
	var targets struct {
		Data struct {
			ActiveTargets []struct{ ScrapeURL, Health, LastError string }
		}
	}
	if err := e.prometheus(address, "targets?state=active", &targets); err != nil {
		return err
	}
	up := 0
	for _, target := range targets.Data.ActiveTargets {
		if target.Health != "up" {
			return fmt.Errorf("%+v", target)
		}
		up++
	}
	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct {
					Name, Health, State, LastError string
					LastEvaluation                 time.Time
				}
			}
		}
	}
	if err := e.prometheus(address, "rules", &rules); err != nil {
		return err
	}
	alerts := 0
	for _, group := range rules.Data.Groups {
		for _, rule := range group.Rules {
			if rule.Health != "ok" || rule.State != "inactive" || rule.LastEvaluation.IsZero() {
				return fmt.Errorf("%+v", rule)
			}
			alerts++
		}
	}
	if up != 3 || alerts < 6 {
		return fmt.Errorf("%d targets, %d alerts", up, alerts)
	}
	return nil
}
