package cmd

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

const ofMesh = `
node:
  name: n1
  data_dir: DIR/data
  admin: { address: "127.0.0.1:0" }
  access_log: { path: "off" }
listeners: { web: { address: "127.0.0.1:0" } }
upstreams: { users: { mesh: { service: users, allow_empty: true } } }
routes: { all: { match: { path: / }, backends: [{ upstream: users }] } }
`

// What is registered gets requests, and what is drained none, in a node whose
// registry is its own.
func TestServicesOfANode(t *testing.T) {
	s, path, _ := settings(t, ofMesh)
	n, err := newNode(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "users here") }))
	defer app.Close()
	web := "http://" + n.gateway.Addresses()["web"].String() + "/"
	answers := func(want int) {
		t.Helper()
		got := 0
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			resp, err := client.Get(web)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got = resp.StatusCode; got == want {
				return
			}
		}
		t.Fatalf("it answers %d, want %d", got, want)
	}
	services := func(code int, want string, args ...string) string {
		t.Helper()
		args = append(append([]string{"services"}, args...), "--server", n.admin.Addr().String(), "--data-dir", filepath.Join(filepath.Dir(path), "data"))
		r := run(t, "", args...)
		if r.code != code || !strings.Contains(r.out+r.err, want) {
			t.Fatalf("%v: code %d\n%s%s", args, r.code, r.out, r.err)
		}
		return r.out
	}
	answers(503)
	services(0, "no service is registered")
	address := app.Listener.Addr().String()
	services(0, "users "+address+" at "+address+" is up\n", "register", "users", address, "--zone", "z1", "--weight", "2", "--metadata", "version=1")
	answers(200)
	services(0, "SERVICE  INSTANCE", "list")
	services(0, "static", "list", "users")
	services(0, "is drain, says up", "drain", "users", address)
	answers(503)
	services(0, "is up", "status", "users", address, "own")
	answers(200)
	services(0, "is out_of_service", "status", "users", address, "out_of_service")
	answers(503)
	var all struct {
		Services []struct {
			Instances []registry.Instance
		}
	}
	if err := json.Unmarshal([]byte(services(0, "{", "-o", "json")), &all); err != nil || len(all.Services) != 1 || all.Services[0].Instances[0].Metadata["version"] != "1" {
		t.Errorf("%v, %+v", err, all)
	}
	services(2, "host must be a host name", "register", "users", "a b:80", "--id", "x")
	for _, address := range []string{"a", "a:", ":80", "a:x", "a:0", "a:65536"} {
		services(2, "<address> must be HOST:PORT", "register", "users", address)
	}
	services(2, "must be at least 1s", "register", "users", "a:1", "--ttl", "1ms")
	services(1, "there is no such instance", "drain", "users", "nobody")
	services(1, "there is no service", "list", "nobody")
	if st := n.status(); st.Registry == nil || st.Registry.Instances != 1 || st.Registry.Up != 0 {
		t.Errorf("%+v", st.Registry)
	}
	if _, text := get(t, n.admin.Addr(), "/metrics"); !strings.Contains(text, `gatehouse_registry_instances{service="users",status="out_of_service"} 1`) {
		t.Error("the metrics do not tell of the instance")
	}
	services(0, "users "+address+" is deregistered\n", "deregister", "users", address)
	services(1, "there is no such instance", "deregister", "users", address)
	services(0, "users u2 at ", "register", "users", address, "--id", "u2")
	var gone map[string]string
	if err := json.Unmarshal([]byte(services(0, "{", "deregister", "users", "u2", "-o", "json")), &gone); err != nil || gone["service"] != "users" || gone["id"] != "u2" {
		t.Errorf("%v, %v", err, gone)
	}
}

// A node that needs no service opens no store.
func TestARegistryNobodyUsesIsNotThere(t *testing.T) {
	s, path, _ := settings(t, whole)
	n, err := newNode(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.close(context.Background()); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"store.db", "services.json"} {
		if found, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "data", name)); len(found) > 0 {
			t.Errorf("it has left %v", found)
		}
	}
	if n.status().Registry != nil {
		t.Error("the status tells of services")
	}
}

func TestWhatIsWrongWithServices(t *testing.T) {
	now := time.Now()
	s := &status{Registry: &registry.Summary{
		StoreUp: true, Preserving: now.Add(-time.Minute), Overdue: 40, Leases: 100, Missing: 3, Malformed: 2,
		Problems: []string{"lease \"x\" is no entry"},
	}}
	got := strings.Join(s.wrong(now), "\n")
	s.Registry = &registry.Summary{Error: "refused", FromDisk: true, Saved: now.Add(-time.Hour)}
	got += "\n" + strings.Join(s.wrong(now), "\n")
	// Those that were named may have been put right, and others not.
	s.Registry = &registry.Summary{StoreUp: true, Malformed: 1}
	got += "\n" + strings.Join(s.wrong(now), "\n")
	for _, want := range []string{
		"40 of 100 leases are over, none is evicted", "has lost 3 instances", "left out: 2, such as lease \"x\" is no entry", "left out: 1",
		"those that were on disk, from 60m ago, are used: refused",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}
