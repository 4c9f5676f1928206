//go:build long

package registries

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/discovery/consul"
	"github.com/gatehouse-proxy/gatehouse/discovery/discoverytest"
	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
)

func TestConsul(t *testing.T) {
	program := filepath.Join(build(t, "consul", "github.com/hashicorp/consul"), "consul")
	for name, f := range map[string]func(*testing.T, string){
		"instances": consulInstances, "faults": consulFaults, "snapshot": consulSnapshot, "datacenters": consulDatacenters,
		"ACL": consulACL, "TLS": consulTLS, "Enterprise": consulEnterprise,
	} {
		t.Run(name, func(t *testing.T) { f(t, program) })
	}
}

// agent is a server of Consul's that keeps nothing on disk.
type agent struct {
	*caller
	t    *testing.T
	args []string
	wan  string // its port for other datacenters
	p    *process
}

// newAgent starts one; settings are in HCL.
func newAgent(t *testing.T, program, settings string) *agent {
	t.Helper()
	port, wan := freePort(t), freePort(t)
	a := &agent{
		t: t, caller: newCaller(t, "http://127.0.0.1:"+port, nil, nil), wan: wan,
		args: []string{
			program, "agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-node", "n1", "-node-meta", "zone:z1",
			"-http-port", port, "-serf-wan-port", wan, "-server-port", freePort(t), "-serf-lan-port", freePort(t),
			"-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1", "-hcl", "disable_update_check = true\n" + settings,
		},
	}
	a.start()
	return a
}

func (a *agent) start() {
	a.t.Helper()
	a.p = start(a.t, a.args[0], a.args[1:]...)
	a.p.until("Consul's leader", func() error {
		text, err := a.do("GET", "/v1/status/leader", "")
		if err == nil && len(strings.TrimSpace(text)) <= len(`""`) {
			err = errors.New("there is none yet")
		}
		return err
	})
}

// put is a request that has to work. The agent of a new leader may have to try
// again.
func (a *agent) put(path, body string) {
	a.t.Helper()
	a.p.until(path, func() error {
		_, err := a.do("PUT", path, body)
		return err
	})
}

// register adds an instance of the service users with a check of its name.
func (a *agent) register(id, address string, port int, status string, more string) {
	a.t.Helper()
	a.put("/v1/agent/service/register", fmt.Sprintf(
		`{"ID":%q,"Name":"users","Address":%q,"Port":%d,"Check":{"CheckID":"check-%s","TTL":"1h","Status":%q}%s}`, id, address, port, id, status, more))
}

func users(url string, change func(*consul.Settings)) consul.Settings {
	s := consul.Settings{Client: remote.Settings{Servers: []string{url}}, Service: "users", ZoneMeta: "zone", Stale: true}
	if change != nil {
		change(&s)
	}
	return s
}

func runConsul(t *testing.T, url string, change func(*consul.Settings)) *discoverytest.Run {
	t.Helper()
	c, err := consul.New(users(url, change))
	if err != nil {
		t.Fatal(err)
	}
	return discoverytest.Start(t, c)
}

// Instances come, go, fail and are maintained, with tags, weights and zones.
func consulInstances(t *testing.T, program string) {
	a := newAgent(t, program, "")
	m := newMiddle(t, a.base, nil)
	r := runConsul(t, m.url, nil)
	r.Until("an answer", func() bool { return r.Reports() > 0 })
	r.List("") // nobody knows the service
	warn := runConsul(t, a.base, func(s *consul.Settings) { s.Warning, s.Stale = true, false })
	tagged := runConsul(t, a.base, func(s *consul.Settings) { s.Tags = []string{"v2", "eu"} })

	a.register("one", "10.0.0.1", 80, "passing", `,"Tags":["v1","eu"]`)
	r.List("10.0.0.1:80*1@z1")
	a.register("two", "10.0.0.2", 8080, "warning", `,"Tags":["v2","eu"],"Weights":{"Passing":10,"Warning":3}`)
	a.register("three", "2001:db8::3", 80, "critical", `,"Tags":["v2"]`)
	warn.List("10.0.0.1:80*1@z1 10.0.0.2:8080*3@z1")
	a.put("/v1/agent/check/pass/check-two", "")
	r.List("10.0.0.1:80*1@z1 10.0.0.2:8080*10@z1")
	warn.List("10.0.0.1:80*1@z1 10.0.0.2:8080*10@z1")
	tagged.List("10.0.0.2:8080*10@z1")
	a.put("/v1/agent/check/pass/check-three", "")
	r.List("10.0.0.1:80*1@z1 10.0.0.2:8080*10@z1 [2001:db8::3]:80*1@z1")
	a.put("/v1/agent/check/fail/check-one", "")
	r.List("10.0.0.2:8080*10@z1 [2001:db8::3]:80*1@z1")
	a.put("/v1/agent/service/maintenance/three?enable=true&reason=disk", "")
	r.List("10.0.0.2:8080*10@z1")
	warn.List("10.0.0.2:8080*10@z1")
	a.put("/v1/agent/service/maintenance/three?enable=false", "")
	r.List("10.0.0.2:8080*10@z1 [2001:db8::3]:80*1@z1")
	a.put("/v1/agent/maintenance?enable=true", "")
	r.List("")
	a.put("/v1/agent/maintenance?enable=false", "")
	r.List("10.0.0.2:8080*10@z1 [2001:db8::3]:80*1@z1")
	a.put("/v1/agent/service/deregister/two", "")
	r.List("[2001:db8::3]:80*1@z1")
	tagged.List("")

	// On a node without an agent, in a zone of its own, and without an address or port.
	a.put("/v1/catalog/register", `{"Node":"old","Address":"10.0.0.7","NodeMeta":{"zone":"z7"},"Service":{"ID":"u","Service":"users","Port":81},"Check":{"Name":"alive","ServiceID":"u","Status":"passing"}}`)
	r.List("10.0.0.7:81*1@z7 [2001:db8::3]:80*1@z1")
	a.put("/v1/catalog/register", `{"Node":"older","Address":"10.0.0.8","Locality":{"Region":"r","Zone":"z8"},"Service":{"ID":"u","Service":"users","Port":82}}`)
	r.List("10.0.0.7:81*1@z7 10.0.0.8:82*1@z8 [2001:db8::3]:80*1@z1")
	a.put("/v1/catalog/register", `{"Node":"old","Address":"10.0.0.7","NodeMeta":{"zone":"z7"},"Service":{"ID":"u","Service":"users","Port":0}}`)
	r.List("10.0.0.8:82*1@z8 [2001:db8::3]:80*1@z1 note: 1 instances without an address or port")
	a.put("/v1/catalog/deregister", `{"Node":"old"}`)
	a.put("/v1/catalog/deregister", `{"Node":"older"}`)
	r.List("[2001:db8::3]:80*1@z1")

	// Nothing happens to the service: it is not asked about again and again.
	before := m.count("")
	for i := range 20 {
		a.put("/v1/agent/service/register", fmt.Sprintf(`{"ID":"other-%d","Name":"other","Port":80}`, i))
	}
	a.put("/v1/agent/check/pass/check-one", "")
	r.List("10.0.0.1:80*1@z1 [2001:db8::3]:80*1@z1")
	if n := m.count("") - before; n > 10 {
		t.Errorf("%d queries for a change of another service and one of ours", n)
	}
}

// A server that is killed, comes back empty, or hangs.
func consulFaults(t *testing.T, program string) {
	a := newAgent(t, program, "")
	a.register("one", "10.0.0.1", 80, "passing", "")
	r := runConsul(t, a.base, func(s *consul.Settings) { s.Wait = time.Second })
	r.List("10.0.0.1:80*1@z1")
	before := r.Reports()
	r.Until("confirmations", func() bool { return r.Reports() >= before+3 })
	a.p.kill()
	r.Fails("127.0.0.1:")
	a.start()
	a.register("two", "10.0.0.2", 80, "passing", "") // and nobody knows the first
	r.List("10.0.0.2:80*1@z1")
	r.Works()
	a.p.signal(syscall.SIGSTOP)
	r.Fails("no answer in time")
	a.p.signal(syscall.SIGCONT)
	r.Works()
	a.register("three", "10.0.0.3", 80, "passing", "")
	r.List("10.0.0.2:80*1@z1 10.0.0.3:80*1@z1")
}

// A snapshot that is restored puts the index back while queries wait. Consul lets
// them wait on: their end tells.
func consulSnapshot(t *testing.T, program string) {
	a := newAgent(t, program, "")
	register := func(node string) {
		a.put("/v1/catalog/register", fmt.Sprintf(`{"Node":%q,"Address":"10.0.0.9","Service":{"ID":"u","Service":"users","Address":%q,"Port":80}}`, node, node))
	}
	register("10.0.0.1")
	m := newMiddle(t, a.base, nil)
	r := runConsul(t, m.url, func(s *consul.Settings) { s.Wait = 5 * time.Second })
	r.List("10.0.0.1:80*1")
	snapshot := a.must(t, "GET", "/v1/snapshot", "")
	for i := range 50 {
		register(fmt.Sprintf("10.0.1.%d", i))
	}
	register("10.0.0.2")
	r.Until("all", func() bool { return len(r.Last().Endpoints) == 52 })
	r.Until("a query that waits", func() bool { return m.count("index=") > 0 })
	a.must(t, "PUT", "/v1/snapshot", snapshot)
	r.List("10.0.0.1:80*1")
	register("10.0.0.3")
	r.List("10.0.0.1:80*1 10.0.0.3:80*1")
	if err := r.Last().Err; err != nil {
		t.Error(err)
	}
}

func consulDatacenters(t *testing.T, program string) {
	a := newAgent(t, program, "")
	b := newAgent(t, program, `datacenter = "dc2"`)
	a.register("one", "10.0.0.1", 80, "passing", "")
	b.register("two", "10.0.0.2", 80, "passing", "")
	far := func(s *consul.Settings) { s.Datacenter = "dc2" }
	unknown := runConsul(t, a.base, far)
	unknown.Fails("answered 500: No path to datacenter")
	unknown.Stop()
	a.put("/v1/agent/join/127.0.0.1:"+b.wan+"?wan=1", "")
	a.p.until("a way to dc2", func() error {
		text, err := a.do("GET", "/v1/health/service/users?dc=dc2&passing=1", "")
		if err == nil && !strings.Contains(text, "10.0.0.2") {
			err = errors.New(text)
		}
		return err
	})
	near := runConsul(t, a.base, nil)
	r := runConsul(t, a.base, far)
	near.List("10.0.0.1:80*1@z1")
	r.List("10.0.0.2:80*1@z1")
	b.register("three", "10.0.0.3", 80, "passing", "")
	r.List("10.0.0.2:80*1@z1 10.0.0.3:80*1@z1")
}

// Tokens that are missing, wrong, right, and that lose what they may do.
func consulACL(t *testing.T, program string) {
	const root, reader = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
	a := newAgent(t, program, `acl { enabled = true, default_policy = "deny", tokens { initial_management = "`+root+`", agent = "`+root+`" } }`)
	a.header = http.Header{"X-Consul-Token": {root}}
	a.register("one", "10.0.0.1", 80, "passing", "")
	with := func(token string) func(*consul.Settings) {
		return func(s *consul.Settings) { s.Token, s.Wait = token, 5*time.Second }
	}

	anonymous := runConsul(t, a.base, nil) // who is not told that there is something to hide
	anonymous.Until("an answer", func() bool { return anonymous.Reports() > 0 })
	anonymous.List("")
	anonymous.Stop()

	r := runConsul(t, a.base, with(reader))
	r.Fails("answered 403: ACL not found")
	if text := r.Last().Err.Error(); strings.Contains(text, reader) {
		t.Errorf("the error tells the token: %s", text)
	}
	const all = `service \"users\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }`
	var policy struct{ ID string }
	if err := json.Unmarshal([]byte(a.must(t, "PUT", "/v1/acl/policy", `{"Name":"reader","Rules":"`+all+`"}`)), &policy); err != nil {
		t.Fatal(err)
	}
	a.put("/v1/acl/token", `{"SecretID":"`+reader+`","Policies":[{"Name":"reader"}]}`)
	r.List("10.0.0.1:80*1@z1")
	a.register("two", "10.0.0.2", 80, "passing", "")
	r.List("10.0.0.1:80*1@z1 10.0.0.2:80*1@z1")

	// Without the right to read nodes there is nothing to be seen, which is not an
	// empty service.
	a.put("/v1/acl/policy/"+policy.ID, `{"ID":"`+policy.ID+`","Name":"reader","Rules":"service \"users\" { policy = \"read\" }"}`)
	a.register("three", "10.0.0.3", 80, "passing", "")
	r.Fails("node:read")
	r.List("10.0.0.1:80*1@z1 10.0.0.2:80*1@z1")
	a.put("/v1/acl/policy/"+policy.ID, `{"ID":"`+policy.ID+`","Name":"reader","Rules":"`+all+`"}`)
	r.List("10.0.0.1:80*1@z1 10.0.0.2:80*1@z1 10.0.0.3:80*1@z1")
}

// Consul's own TLS, which wants a certificate of its clients.
func consulTLS(t *testing.T, program string) {
	ca, dir, port := tlstest.NewAuthority(t), t.TempDir(), freePort(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	tlstest.Write(t, file("ca.pem"), ca.PEM())
	ca.Issue(t, tlstest.Request{Names: []string{"consul.internal"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}).Write(t, file("server.pem"), file("server.key"))
	own := shown(ca.Issue(t, tlstest.Request{}).TLS(t))
	a := newAgent(t, program, fmt.Sprintf(`ports { https = %s }
tls { https { ca_file = %q, cert_file = %q, key_file = %q, verify_incoming = true } }`, port, file("ca.pem"), file("server.pem"), file("server.key")))
	a.register("one", "10.0.0.1", 80, "passing", "")
	with := func(s dial.TLSSettings) *discoverytest.Run {
		return runConsul(t, "https://127.0.0.1:"+port, func(c *consul.Settings) { c.Client.TLS = s })
	}
	with(dial.TLSSettings{}).Fails("certificate")
	with(dial.TLSSettings{CAFile: file("ca.pem")}).Fails("the endpoint requires a client certificate")
	with(dial.TLSSettings{CAFile: file("ca.pem"), ServerName: "other.internal"}).Fails("other.internal")
	r := with(dial.TLSSettings{CAFile: file("ca.pem"), ServerName: "consul.internal", Certificate: own})
	r.List("10.0.0.1:80*1@z1")
	a.register("two", "10.0.0.2", 80, "passing", "")
	r.List("10.0.0.1:80*1@z1 10.0.0.2:80*1@z1")
}

// shown is a certificate that never changes.
type shown tls.Certificate

// Current implements dial.CertSource.
func (s shown) Current() *tls.Certificate { return (*tls.Certificate)(&s) }

// What only Consul Enterprise has is refused with words that help.
func consulEnterprise(t *testing.T, program string) {
	a := newAgent(t, program, "")
	runConsul(t, a.base, func(s *consul.Settings) { s.Namespace = "team" }).Fails("Namespaces are a Consul Enterprise feature")
	runConsul(t, a.base, func(s *consul.Settings) { s.Partition = "west" }).Fails("Partitions are a Consul Enterprise feature")
}
