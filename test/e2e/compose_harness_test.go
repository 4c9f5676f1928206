package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
)

// compose is what the tests need of docker-compose.yml; other keys of a service
// are errors, so that a slip does not go unnoticed.
type compose struct {
	Services map[string]composeService
	Volumes  map[string]struct{}
	Confined any `yaml:"x-confined"`
	Shared   any `yaml:"x-gatehouse"`
	Node     any `yaml:"x-node"`
}

type composeService struct {
	Image           string
	Restart         string
	User            string
	ReadOnly        bool     `yaml:"read_only"`
	CapDrop         []string `yaml:"cap_drop"`
	CapAdd          []string `yaml:"cap_add"`
	SecurityOpt     []string `yaml:"security_opt"`
	StopGracePeriod string   `yaml:"stop_grace_period"`
	NetworkMode     string   `yaml:"network_mode"`
	Entrypoint      []string
	Command         []string
	Environment     map[string]string
	Ports           []string
	Volumes         []string
	Logging         struct {
		Driver  string
		Options map[string]string
	}
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	Healthcheck struct {
		Test              []string
		Interval, Timeout string
		Retries           int
		Disable           bool
	}
}

// root is the folder of the repository.
const root = "../.."

func readCompose(t *testing.T) *compose {
	t.Helper()
	f, err := os.Open(filepath.Join(root, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	c := new(compose)
	if err := d.Decode(c); err != nil {
		t.Fatal(err)
	}
	return c
}

// mounted is the file of the repository that a service sees as path.
func (s *composeService) mounted(path string) string {
	for _, v := range s.Volumes {
		if from, to, _ := strings.Cut(strings.TrimSuffix(v, ":ro"), ":"); to == path && strings.HasPrefix(from, "./") {
			return filepath.Join(root, from)
		}
	}
	return ""
}

// machines plays the containers of docker-compose.yml: each service is a process
// with an address of its own on the loopback interface; ports are the same for
// all, as there. Their config files are those that are mounted.
type machines struct {
	t                 *testing.T
	compose           *compose
	dir, net          string // net: the first three numbers of their addresses
	data, admin       string // ports that stand for 8080 and 9901
	redis             *redistest.Server
	changes, places   *strings.Replacer // of a test; to where things are here
	hosts             map[string]string
	nodes             map[string]*gatehouse
	password, secrets string
}

// newMachines starts Redis alone. edits change texts in the config files.
func newMachines(t *testing.T, edits ...string) *machines {
	t.Helper()
	m := &machines{
		t: t, compose: readCompose(t), dir: t.TempDir(), hosts: map[string]string{}, nodes: map[string]*gatehouse{},
		net: fmt.Sprintf("127.%d.%d.", 1+rand.IntN(250), rand.IntN(250)), password: "made-by-the-test",
	}
	port := func() string {
		_, p, err := net.SplitHostPort(freeAddress(t))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	m.data, m.admin, m.secrets = port(), port(), filepath.Join(m.dir, "secrets")
	if err := os.Mkdir(m.secrets, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"redis-password": m.password, "node-secret": strings.Repeat("secret ", 7)} {
		if err := os.WriteFile(filepath.Join(m.secrets, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.redis = redistest.Start(t, "--requirepass", m.password)
	names := []string{"node-1", "node-2", "node-3", "balancer", "users", "orders"}
	m.changes = strings.NewReplacer(edits...)
	// A busy machine may be silent for longer than a store of users should.
	places := []string{`["redis:6379"],`, `["` + m.redis.Address + `"], timeout: 1m,`, "/secrets/", m.secrets + "/", "10.0.0.0/8", "127.0.0.0/8", "port: 9901", "port: " + m.admin}
	for i, name := range names {
		m.hosts[name] = fmt.Sprint(m.net, i+1)
		places = append(places, name+":8080", m.hosts[name]+":"+m.data, name+":9901", m.hosts[name]+":"+m.admin)
	}
	m.places = strings.NewReplacer(places...)
	return m
}

// text is a config file as the process of a machine has to have it.
func (m *machines) text(machine, path string) string {
	m.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	data := filepath.Join(m.dir, machine)
	return strings.NewReplacer(
		"/data\n", data+"\n", `":8080"`, `"${HOST}:`+m.data+`"`, `":9901"`, `"${HOST}:`+m.admin+`"`,
	).Replace(m.places.Replace(m.changes.Replace(string(b))))
}

// start starts the process of a service, as the compose file says or as another
// one, and does not wait for it.
func (m *machines) start(machine, as string) *gatehouse {
	m.t.Helper()
	s, ok := m.compose.Services[as]
	if !ok || len(s.Command) != 3 || s.Command[0] != "run" || s.Command[1] != "-c" {
		m.t.Fatalf("service %s: %+v", as, s)
	}
	g := m.nodes[machine]
	if g == nil {
		host := m.hosts[machine]
		g = &gatehouse{
			t: m.t, config: filepath.Join(m.dir, machine+".yaml"), web: host + ":" + m.data, admin: host + ":" + m.admin,
			dataDir: filepath.Join(m.dir, machine), log: &lockedBuffer{},
		}
		m.nodes[machine] = g
	}
	text := m.text(machine, s.mounted(s.Command[2]))
	if !strings.Contains(text, "admin:") { // its own, on the default port: all are on one machine
		text = strings.Replace(text, "node:\n", "node:\n  admin: { address: \"${HOST}:"+m.admin+"\" }\n", 1)
	}
	g.writeRaw(text)
	cmd := exec.Command(binary, "run", "-c", g.config)
	cmd.Env = append(os.Environ(), "HOST="+m.hosts[machine])
	for name, value := range s.Environment {
		if value == as {
			value = machine
		}
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	g.launch(cmd)
	return g
}

// publish does what the service of this name does, with the config changed so,
// and waits so long for the nodes.
func (m *machines) publish(wait string, edits ...string) (code int, out, errs string) {
	m.t.Helper()
	s := m.compose.Services["publish"]
	file := filepath.Join(m.dir, "shared.yaml")
	text := strings.NewReplacer(edits...).Replace(m.text("publish", s.mounted("/etc/gatehouse/shared.yaml")))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	args := strings.Join(s.Command, "\x00")
	args = strings.NewReplacer("/etc/gatehouse/shared.yaml", file, "node-1:9901", m.nodes["node-1"].admin, "/node-1", m.nodes["node-1"].dataDir).Replace(args)
	return execute(m.t, []string{"HOST="}, append(strings.Split(args, "\x00"), "--wait", wait)...)
}

// execute runs the binary to its end.
func execute(t *testing.T, env []string, args ...string) (code int, out, errs string) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), env...)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

// spread waits until the balancer counts so many nodes as healthy.
func (m *machines) spread(healthy int) {
	m.t.Helper()
	b := m.nodes["balancer"]
	b.eventually(fmt.Sprintf("%d nodes are in use", healthy), func() error {
		n := 0
		for name, host := range m.hosts {
			if strings.HasPrefix(name, "node-") {
				n += int(b.metric(fmt.Sprintf(`gatehouse_upstream_endpoint_healthy{endpoint="%s:%s",upstream="nodes"}`, host, m.data)))
			}
		}
		if n != healthy {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
}
