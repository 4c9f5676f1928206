package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket/sockettest"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

// fleetNode is a node whose config comes from a store.
type fleetNode struct {
	*node
	t    *testing.T
	dir  string
	path string
	log  *logbook
	args []string // that make a command talk to it
}

const ofStore = `
node:
  name: NAME
  zone: z1
  data_dir: DIR/data
  admin: { address: "127.0.0.1:0" }
  access_log: { path: "off" }
  config: store
`

// newFleetNode starts a node; more is the rest of its node section.
func newFleetNode(t *testing.T, dir, name, more string) *fleetNode {
	t.Helper()
	path := filepath.Join(dir, "node.yaml")
	text := strings.NewReplacer("NAME", name, "DIR", dir).Replace(ofStore) + more // in which a key may spell DIR
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, src, err := loadConfig([]string{path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := &fleetNode{t: t, dir: dir, path: path, log: &logbook{}}
	n.node, err = newNode(context.Background(), nodeSettings{version: "v0", config: cfg, source: src, log: n.log})
	if err != nil {
		t.Fatal(err)
	}
	n.args = []string{"--server", n.admin.Addr().String(), "--data-dir", filepath.Join(dir, "data")}
	t.Cleanup(n.end)
	return n
}

// end stops the node; twice is allowed.
func (n *fleetNode) end() {
	if n.node != nil {
		if err := n.close(context.Background()); err != nil {
			n.t.Error(err)
		}
		n.node = nil
	}
}

func (n *fleetNode) run(args ...string) result {
	n.t.Helper()
	return run(n.t, "", append(args, n.args...)...)
}

// apply publishes a config and wants it to go well.
func (n *fleetNode) apply(text string) {
	n.t.Helper()
	if r := n.run("apply", "-c", file(n.t, text), "-m", "a test", "--author", "ann"); r.code != 0 {
		n.t.Fatalf("apply: code %d\n%s%s", r.code, r.out, r.err)
	}
}

func (n *fleetNode) says(want string) {
	n.t.Helper()
	eventually(n.t, "the node "+n.config.Node.Name+" says "+want, func() string {
		a := n.gateway.Addresses()["web"]
		if a == nil {
			return "it has no listener"
		}
		if _, got := get(n.t, a, "/"); got != want {
			return "it says " + got
		}
		return ""
	})
}

// eventually waits until ok says nothing more.
func eventually(t *testing.T, what string, ok func() string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		why := ok()
		if why == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %s", what, why)
		}
	}
}

func shared(body string) string {
	return fmt.Sprintf("listeners: { web: { address: \"127.0.0.1:0\" } }\nroutes: { r: { respond: { body: %q } } }\n", body)
}

func TestOneNodePublishesToItself(t *testing.T) {
	n := newFleetNode(t, t.TempDir(), "n1", "")
	if err := n.loop.Ready(); err == nil {
		t.Error("a node without a config is ready")
	}
	if r := n.run("status"); r.code != 1 || !strings.Contains(r.out, "config: none is live yet") || !strings.Contains(r.out, "revision     none") {
		t.Errorf("code %d\n%s%s", r.code, r.out, r.err)
	}
	n.apply(shared("one"))
	n.says("one")
	r := n.run("status")
	for _, want := range []string{"revision     1 by ann", ": a test\n", "store        answers", "key          ed25519:", "n1    control  z1    v0       1 ", "All is well."} {
		if r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("code %d, %q is not in\n%s%s", r.code, want, r.out, r.err)
		}
	}
	var s status
	if r = n.run("status", "-o", "json"); json.Unmarshal([]byte(r.out), &s) != nil || len(s.Nodes) != 1 || s.Fleet.Revision != 1 {
		t.Errorf("code %d: %s", r.code, r.out)
	}

	// What would change is told before it does.
	two := strings.Replace(shared("two"), "routes: {", "upstreams: { app: { endpoints: [\"127.0.0.1:1\"] } }\nroutes: { more: { match: { path: /x }, backends: [{ upstream: app }] },", 1)
	r = n.run("plan", "-c", file(t, two))
	for _, want := range []string{"compared with revision 1\n", "  + upstreams.app\n", "  + routes.more\n", "  ~ routes.r\n", "--- a/gatehouse.yaml\n", "-routes: { r: { respond: { body: \"one\" } } }\n"} {
		if r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("code %d, %q is not in\n%s%s", r.code, want, r.out, r.err)
		}
	}
	n.says("one")
	n.apply(two)
	n.says("two")
	if r = n.run("plan", "-c", file(t, two)); r.code != 0 || r.out != "compared with revision 2\nnothing would change\n" {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
	if r = n.run("diff", "2", "1"); r.code != 0 || !strings.Contains(r.out, "+routes: { r: { respond: { body: \"one\" } } }\n") {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
	if r = n.run("rollback", "1", "-m", "two was bad"); r.code != 0 || !strings.Contains(r.out, "published as revision 3\nlive on n1\n") {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
	n.says("one")
	r = n.run("history")
	if lines := strings.Split(r.out, "\n"); r.code != 0 || len(lines) != 5 || !strings.HasPrefix(lines[1], "3 ") || !strings.HasSuffix(lines[1], "two was bad") || !strings.Contains(lines[3], "  ann ") {
		t.Errorf("code %d:\n%s%s", r.code, r.out, r.err)
	}
	var list []store.Revision
	if r = n.run("history", "-o", "json", "-n", "1", "--before", "3"); json.Unmarshal([]byte(r.out), &list) != nil || len(list) != 1 || list[0].Number != 2 {
		t.Errorf("code %d:\n%s%s", r.code, r.out, r.err)
	}
	if r = n.run("show", "1"); r.code != 0 || !strings.HasPrefix(r.out, "# revision 1 by ann at ") || !strings.HasSuffix(r.out, "# gatehouse.yaml\n"+shared("one")) {
		t.Errorf("code %d:\n%s%s", r.code, r.out, r.err)
	}
	if r = n.run("show", "9"); r.code != 1 || r.err != "gatehouse: revision 9: there is no such revision, or it is no longer kept (node.control.history)\n" {
		t.Errorf("code %d:\n%s%s", r.code, r.out, r.err)
	}
}

func TestAnInvalidConfigIsNotPublished(t *testing.T) {
	n := newFleetNode(t, t.TempDir(), "n1", "")
	n.apply(shared("one"))
	for text, want := range map[string]string{
		"listeners: { web: { adress: \":80\" } }\n": "gatehouse.yaml:1:21: listeners.web.adress",
		"node: { name: x }\n" + shared("x"):         "gatehouse.yaml:1:1: node: must not be in a config for several nodes",
		"routes: {}\n":                              "gatehouse.yaml: listeners: there is none",
		shared("x") + "plugins: [{ jwt: { jwks_file: missing.json, audiences: [a] } }]\n":      "missing.json",
		shared("x") + "waf: { policies: { off: { mode: off, rules: \"SecNonsense\" } } }\n":    "waf.policies.off",
		shared("x") + "consumers: { ann: { basic_auth: { password_hash: \"file:none\" } } }\n": "gatehouse.yaml:3:",
	} {
		path := file(t, text)
		for _, args := range [][]string{{"plan", "-c", path}, {"apply", "-c", path, "-m", "x"}} {
			if r := n.run(args...); r.code != 2 || !strings.Contains(r.err, want) || r.out != "" {
				t.Errorf("%v: code %d, %q %q; want %q", args[0], r.code, r.out, r.err, want)
			}
		}
	}
	if r := n.run("apply", "-c", file(t, shared("x")), "-m", " "); r.code != 2 || !strings.Contains(r.err, "has to say why") {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
	if r := n.run("history", "-o", "json"); strings.Count(r.out, `"number"`) != 1 {
		t.Errorf("something was published:\n%s", r.out)
	}
	n.says("one")
}

func TestAFleetRunsOneConfigAndRefusesItTogether(t *testing.T) {
	server := redistest.Start(t)
	where := fmt.Sprintf("  store: { redis: { addresses: [%q], timeout: 1m } }\n", server.Address)
	a := newFleetNode(t, t.TempDir(), "a", where)
	b := newFleetNode(t, t.TempDir(), "b", where+fmt.Sprintf("  control: { enabled: false, trusted_keys: [%q] }\n", a.fleet.key))
	c := newFleetNode(t, t.TempDir(), "c", where+fmt.Sprintf("  control: { trusted_keys: [%q] }\n", a.fleet.key))
	a.apply(shared("one"))
	for _, n := range []*fleetNode{a, b, c} {
		n.says("one")
	}
	eventually(t, "all have said that they run it", func() string {
		if r := a.run("status"); r.code != 0 || strings.Count(r.out, "z1    v0       1 ") != 3 {
			return r.out + r.err
		}
		return ""
	})
	if r := b.run("apply", "-c", file(t, shared("two")), "-m", "x"); r.code != 1 || !strings.Contains(r.err, "no control role") {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
	if r := b.run("history"); r.code != 0 || !strings.Contains(r.out, "a test") {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}

	// A file that is on one node only: the others cannot build the config.
	keys := `{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	if err := os.WriteFile(filepath.Join(a.dir, "keys.json"), []byte(keys), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := shared("two") + "plugins: [{ jwt: { jwks_file: keys.json, audiences: [x] } }]\n"
	r := a.run("apply", "-c", file(t, bad), "-m", "with jwt")
	if r.code != 1 || !strings.Contains(r.out, "published as revision 2\n") ||
		!strings.Contains(r.err, "node b refused revision 2: gatehouse.yaml:3:") || !strings.Contains(r.err, "back to the config of revision 1, as revision 3") {
		t.Errorf("code %d:\n%s%s", r.code, r.out, r.err)
	}
	for _, n := range []*fleetNode{a, b, c} {
		eventually(t, n.config.Node.Name+" is back", func() string {
			if s := n.fleet.follower.Status(); s.Revision != 3 || s.Error != "" {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		})
		n.says("one")
	}
	var list []store.Revision
	if r = c.run("history", "-o", "json"); json.Unmarshal([]byte(r.out), &list) != nil || len(list) != 3 || !strings.HasPrefix(list[0].Message, "back to 1 because b refused: gatehouse.yaml:3:") && !strings.HasPrefix(list[0].Message, "back to 1 because c refused: ") {
		t.Errorf("code %d:\n%s%s", r.code, r.out, r.err)
	}
	// Left published, it is live where it can be, and status says where not.
	if r = a.run("apply", "-c", file(t, bad), "-m", "with jwt", "--no-rollback", "-o", "json"); r.code != 1 {
		t.Errorf("code %d:\n%s%s", r.code, r.out, r.err)
	}
	var applied fleet.Applied
	if err := json.Unmarshal([]byte(r.out), &applied); err != nil || applied.Rollback != 0 || len(applied.Outcome.Refused) != 2 || len(applied.Outcome.Running) != 1 {
		t.Errorf("%v: %s", err, r.out)
	}
	b.says("one")
	if r = a.run("status"); r.code != 1 || !strings.Contains(r.out, "node b: revision 4 refused, revision 3 serves: ") {
		t.Errorf("code %d:\n%s%s", r.code, r.out, r.err)
	}
	// Mended outside the config, it runs after a SIGHUP, or by itself.
	if err := os.WriteFile(filepath.Join(b.dir, "keys.json"), []byte(keys), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "after the mending", func() string { // the store may seem away on a machine that stalls
		b.reload("SIGHUP")
		if s := b.fleet.follower.Status(); s.Revision != 4 || s.Error != "" {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	if err := os.WriteFile(filepath.Join(c.dir, "keys.json"), []byte(keys), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is well", func() string {
		if r := a.run("status"); r.code != 0 {
			return r.out
		}
		return ""
	})
	// A node that has left is not waited for.
	c.end()
	a.apply(shared("three"))
	b.says("three")
}

// The servers' certificates are checked, and ours is shown to them.
func TestTheStoreSpeaksTLS(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	ca := tlstest.NewAuthority(t)
	tlstest.Write(t, in("ca.pem"), ca.PEM())
	tlstest.Write(t, in("other.pem"), tlstest.NewAuthority(t).PEM())
	ca.Issue(t, tlstest.Request{Names: []string{"redis.test"}}).Write(t, in("redis.crt"), in("redis.key"))
	ca.Issue(t, tlstest.Request{Names: []string{"node.test"}}).Write(t, in("node.crt"), in("node.key"))
	address := sockettest.Reserve(t) // Redis wants to be told a port
	_, port, _ := net.SplitHostPort(address)
	redistest.Start(t, "--tls-port", port, "--tls-cert-file", in("redis.crt"), "--tls-key-file", in("redis.key"), "--tls-ca-cert-file", in("ca.pem"))
	node := func(tls string) *fleetNode {
		return newFleetNode(t, dir, "n1", fmt.Sprintf("  store: { redis: { addresses: [%q], timeout: 1m, tls: { %s } } }\n", address, tls))
	}
	const ours = "cert_file: node.crt, key_file: node.key"
	n := node("ca_file: ca.pem, server_name: redis.test, " + ours)
	n.apply(shared("one"))
	n.says("one")
	n.end()
	for tls, want := range map[string]string{
		"ca_file: other.pem, server_name: redis.test, " + ours:  "unknown authority",
		"ca_file: ca.pem, server_name: elsewhere.test, " + ours: "elsewhere.test",
		"ca_file: ca.pem, " + ours:                              "127.0.0.1",
		"ca_file: ca.pem, server_name: redis.test":              "certificate required",
	} {
		n := node(tls)
		eventually(t, "the store is away: "+tls, func() string { // the start may not have waited for the reason
			if s := n.fleet.follower.Status(); s.Store.Up || !s.FromDisk || !strings.Contains(s.Store.Error, want) {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		})
		n.says("one")
		n.end()
	}
}

// A store that hangs is told to whoever publishes and asks for the status.
func TestPublishingWithoutAStore(t *testing.T) {
	server := redistest.Start(t)
	n := newFleetNode(t, t.TempDir(), "n1", fmt.Sprintf("  store: { redis: { addresses: [%q], timeout: 200ms } }\n", server.Address))
	eventually(t, "it can be published", func() string { // within the time that is too short for a store that hangs
		if r := n.run("apply", "-c", file(t, shared("one")), "-m", "x"); r.code != 0 {
			return r.err
		}
		return ""
	})
	server.Pause(t)
	r := n.run("apply", "-c", file(t, shared("two")), "-m", "x")
	if r.code != 1 || !strings.HasPrefix(r.err, "gatehouse: store: ") {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
	eventually(t, "status says so", func() string {
		if r := n.run("status"); r.code != 1 || !strings.Contains(r.out, "store: does not answer since ") {
			return r.out + r.err
		}
		return ""
	})
	n.says("one")
	server.Resume(t)
	eventually(t, "it answers again", func() string {
		if r := n.run("apply", "-c", file(t, shared("three")), "-m", "x"); r.code != 0 {
			return r.err
		}
		return ""
	})
	n.says("three")
}
