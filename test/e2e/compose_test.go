package e2e

import (
	"debug/elf"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v4"
)

// TestComposeFile checks what can be checked without an engine; TestContainers
// does the rest.
func TestComposeFile(t *testing.T) {
	c := readCompose(t)
	want := []string{"balancer", "node-1", "node-2", "orders", "prometheus", "publish", "redis", "secrets", "users"}
	var have []string
	for name, s := range c.Services {
		have = append(have, name)
		if s.Image == "" {
			t.Errorf("%s has no image", name)
		}
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) || len(s.CapAdd) > 0 && name != "secrets" {
			t.Errorf("%s may do more than it has to", name)
		}
		if s.Logging.Options["max-size"] == "" {
			t.Errorf("%s fills the disk with its log", name)
		}
		if s.Restart == "" || s.Restart == "no" && name != "secrets" {
			t.Errorf("%s stays away when it ends", name)
		}
		for other, how := range s.DependsOn {
			if _, ok := c.Services[other]; !ok || how.Condition == "" {
				t.Errorf("%s depends on %s (%q)", name, other, how.Condition)
			}
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s is open to the world: %s", name, p)
			}
		}
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if _, named := c.Volumes[from]; named {
				continue
			}
			if st, err := os.Stat(filepath.Join(root, from)); err != nil || !st.Mode().IsRegular() || !strings.HasSuffix(v, ":ro") {
				t.Errorf("%s: %s: %v", name, v, err)
			}
		}
	}
	if slices.Sort(have); !slices.Equal(have, want) {
		t.Errorf("services: %v", have)
	}
	dockerfile(t)
}

// TestAlerts reads the rules as Prometheus would, and knows all they ask for.
func TestAlerts(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "deploy/fleet-alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Groups []struct {
			Name  string
			Rules []struct{ Alert, Expr, For string }
		}
	}
	d := yaml.NewDecoder(strings.NewReader(string(b)))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil || len(c.Groups) != 1 {
		t.Fatalf("%+v, %v", c, err)
	}
	known, err := os.ReadFile(filepath.Join(root, "docs/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range c.Groups[0].Rules {
		if r.For != "" {
			if _, err := time.ParseDuration(r.For); err != nil {
				t.Errorf("%s: %v", r.Alert, err)
			}
		}
		for _, name := range regexp.MustCompile(`gatehouse_\w+`).FindAllString(r.Expr, -1) {
			if !strings.Contains(string(known), "| `"+name+"` |") {
				t.Errorf("%s: there is no metric %s", r.Alert, name)
			}
		}
	}
}

// dockerfile checks the image's recipe, and that what is copied needs nothing.
func dockerfile(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "deploy/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	stages := regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(string(b), -1)
	if len(stages) == 0 || stages[len(stages)-1][1] != "scratch" {
		t.Errorf("stages: %v", stages)
	}
	last := string(b)[strings.LastIndex(string(b), "FROM scratch"):]
	for _, line := range []string{"USER 65532:65532", "VOLUME /data", `HEALTHCHECK --`, `ENTRYPOINT ["/gatehouse"]`} {
		if !strings.Contains(last, "\n"+line) {
			t.Errorf("the image has no %s", line)
		}
	}
	if strings.Contains(last, "\nRUN ") {
		t.Error("there is nothing in scratch that could run")
	}
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Section(".dynamic") != nil || f.Section(".interp") != nil {
		t.Error("the binary needs a dynamic linker")
	}
}

func answersWith(u, want string) error {
	r, err := client.Get(u)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && string(b) != want {
		err = fmt.Errorf("%d %q", r.StatusCode, b)
	}
	return err
}

// TestComposeAsProcesses runs the same config files as plain processes: requests
// through the balancer, one node killed, a revision applied meanwhile, which the
// node finds when it is back; and what Prometheus would read.
func TestComposeAsProcesses(t *testing.T) {
	// The balancer is not to take a node that a busy machine holds up for a dead one.
	m := newMachines(t, "delay: 3s", "delay: 100ms", "interval: 1s, timeout: 1s", "interval: 4s, timeout: 4s")
	m.start("users", "users").waitReady()
	m.start("orders", "orders").waitReady()
	one, two := m.start("node-1", "node-1"), m.start("node-2", "node-2")
	for _, g := range []*gatehouse{one, two} {
		g.eventually("the token of the admin server", func() error {
			_, err := os.Stat(filepath.Join(g.dataDir, "admin.token"))
			return err
		})
	}
	one.eventually("the nodes know each other", func() error {
		if _, out, errs := one.cli("status"); !strings.Contains(out, "\nnode-2") {
			return fmt.Errorf("%s%s", out, errs)
		}
		return nil
	})
	code, out, errs := m.publish("1m")
	if code != 0 || !strings.Contains(out, "live on node-1, node-2\n") {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	b := m.start("balancer", "balancer")
	b.waitReady()
	m.spread(2)
	both := func() {
		t.Helper()
		for _, g := range []*gatehouse{one, two} {
			before := g.metric(`gatehouse_route_requests_total{code="200",route="users"}`)
			b.eventually("the balancer sends requests to each node", func() error {
				client.CloseIdleConnections()
				if r := b.get("/users/7"); r.StatusCode != 200 || r.body != "hello from users\n" {
					t.Fatalf("%d %q", r.StatusCode, r.body)
				}
				if g.metric(`gatehouse_route_requests_total{code="200",route="users"}`) == before {
					return fmt.Errorf("not yet")
				}
				return nil
			})
		}
	}
	both()
	if r := b.get("/orders"); r.body != "hello from orders\n" {
		t.Errorf("%d %q", r.StatusCode, r.body)
	}
	if r := b.get("/orders?q=1%27%20OR%20%271%27=%271%20--%20"); r.StatusCode != http.StatusForbidden {
		t.Errorf("an attack: %d", r.StatusCode)
	}
	scrape(t, m)

	if err := two.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-two.exited
	client.CloseIdleConnections()
	for range 20 { // the balancer finds out by the first of them
		if r := b.get("/users"); r.StatusCode != 200 {
			t.Fatalf("with one node: %d %q", r.StatusCode, r.body)
		}
		client.CloseIdleConnections()
	}
	code, out, errs = m.publish("0", "routes:\n", "routes:\n  new: { match: { path: /new }, respond: { body: new } }\n", "docker compose up", "again")
	if !strings.Contains(out, "published as revision 2") {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	one.eventually("the revision is live", func() error { return answersWith("http://"+b.web+"/new", "new") })
	b.eventually("probes have seen it go", func() error {
		if _, out, errs := b.cli("status", "-o", "json"); !strings.Contains(out, `"health": "unhealthy"`) {
			return fmt.Errorf("%s%s", out, errs)
		}
		return nil
	})
	two = m.start("node-2", "node-2")
	two.waitReady()
	m.spread(2)
	both()
	two.eventually("it has found the revision", func() error {
		if r := two.metric("gatehouse_fleet_revision_number"); r != 2 {
			return fmt.Errorf("it runs %v", r)
		}
		return nil
	})
	one.eventually("all is well", func() error {
		if code, out, errs := one.cli("status"); code != 0 {
			return fmt.Errorf("%s%s", out, errs)
		}
		return nil
	})
	client.CloseIdleConnections() // or the balancer waits for them
	for _, g := range []*gatehouse{b, one, two} {
		g.stop()
	}
}

// scrape reads prometheus.yml as Prometheus would, and the targets in it.
func scrape(t *testing.T, m *machines) {
	t.Helper()
	s := m.compose.Services["prometheus"]
	b, err := os.ReadFile(s.mounted("/etc/prometheus/prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Scrape []struct {
			Job    string                       `yaml:"job_name"`
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
		Global struct {
			Interval string `yaml:"scrape_interval"`
		}
		Rules []string `yaml:"rule_files"`
	}
	d := yaml.NewDecoder(strings.NewReader(m.places.Replace(string(b))))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	for _, name := range c.Rules {
		if s.mounted("/etc/prometheus/"+name) == "" {
			t.Errorf("%s is not mounted", name)
		}
	}
	if _, err := time.ParseDuration(c.Global.Interval); err != nil || len(c.Scrape) != 1 || len(c.Scrape[0].Static) != 1 || len(c.Scrape[0].Static[0].Targets) != 3 {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, target := range c.Scrape[0].Static[0].Targets {
		r, err := client.Get("http://" + target + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(r.Body)
		r.Body.Close()
		if err != nil || families["gatehouse_build_info"] == nil || families["gatehouse_listener_connections_total"] == nil {
			t.Errorf("%s: %d families, %v", target, len(families), err)
		}
	}
}
