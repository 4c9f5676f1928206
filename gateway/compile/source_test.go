package compile_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/cmd"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// withSources is a world whose compiler has s besides the usual.
func withSources(t *testing.T, s compile.Settings) *world {
	t.Helper()
	w := newWorld(t)
	w.compiler.Close()
	s.Plugins, s.Log, s.Metrics, s.Version = cmd.Plugins(), slog.New(slog.DiscardHandler), w.metrics, "9"
	var err error
	if w.compiler, err = compile.New(s); err != nil {
		t.Fatal(err)
	}
	return w
}

const users = web + "routes: { r: { backends: [{ upstream: users }] } }\nupstreams: { users: { %s } }\n"

func status(w *world) upstream.Status { return compile.UpstreamStatus(w.gateway.Current())["users"] }

func (w *world) copies() []string {
	w.t.Helper()
	list, err := filepath.Glob(filepath.Join(w.dir, "kept", "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// What a source finds is served, kept on disk, and kept by a reload.
func TestSourcesAcrossReloadsAndRestarts(t *testing.T) {
	s := newService(t, "app")
	dir := t.TempDir()
	w := withSources(t, compile.Settings{DiscoveryDir: filepath.Join(dir, "kept")})
	w.dir = dir
	file := filepath.Join(dir, "users.yaml")
	tlstest.Write(t, file, []byte("- "+s.address))
	w.apply(fmt.Sprintf(users, "file: users.yaml"))
	eventually(t, "a list", func() bool { return len(status(w).Endpoints) == 1 }) // a start does not wait for ever
	w.want("/a", 200, "app /a")
	r, err := w.build(fmt.Sprintf(users, "file: users.yaml"), compile.AllOrNothing)
	if err != nil {
		t.Fatal(err)
	}
	w.compiler.Live(r)
	r.Snapshot.Release()
	before := w.units()["upstream/users"]
	eventually(t, "a copy on disk", func() bool { return len(w.copies()) == 1 })

	w.apply(fmt.Sprintf(users, "file: { path: users.yaml }") + "certificates: {}")
	if w.units()["upstream/users"] != before {
		t.Error("the same source was made anew")
	}
	tlstest.Write(t, file, []byte("- nonsense"))
	w.apply(fmt.Sprintf(users, "file: users.yaml, load_balancer: { algorithm: random }"))
	w.want("/b", 200, "app /b") // by the list of the one before
	eventually(t, "an error", func() bool { return status(w).Source.Error != "" })
	if got := status(w).Source; got.FromDisk || !strings.Contains(got.Error, "users.yaml:1:3: [0].address: must be HOST:PORT") {
		t.Errorf("status %+v", got)
	}

	again := withSources(t, compile.Settings{DiscoveryDir: filepath.Join(dir, "kept")})
	again.dir = dir
	again.apply(fmt.Sprintf(users, "file: users.yaml"))
	again.want("/c", 200, "app /c")
	if got := status(again).Source; !got.FromDisk || got.Endpoints != 1 || got.Kind != "file" || got.Target != file {
		t.Errorf("status %+v", got)
	}
	page := httptest.NewRecorder()
	r = again.apply(web + "upstreams: { users: { file: users.yaml } }")
	again.compiler.Live(r)
	again.metrics.Handler().ServeHTTP(page, httptest.NewRequest("GET", "/", nil))
	for _, want := range []string{
		`gatehouse_upstream_discovery_endpoints{source="file",upstream="users"} 1`,
		`gatehouse_upstream_discovery_failures_total{source="file",upstream="users"}`,
		`gatehouse_upstream_discovery_age_seconds{source="file",upstream="users"}`,
	} {
		if !strings.Contains(page.Body.String(), want) {
			t.Errorf("no metric %s", want)
		}
	}
	r = again.apply(web + "routes: { r: { respond: {} } }")
	again.compiler.Live(r)
	if left := again.copies(); len(left) != 0 {
		t.Errorf("left on disk: %v", left)
	}
}

// registry answers as each kind of source wants it, with one endpoint.
func registry(t *testing.T, address string) http.Handler {
	host, port, _ := net.SplitHostPort(address)
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/health/service/users", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Consul-Token") != "secret" || r.UserAgent() != "gatehouse/9" {
			t.Errorf("headers %v", r.Header)
		}
		if r.FormValue("index") != "" {
			<-r.Context().Done()
			return
		}
		w.Header().Set("X-Consul-Index", "7")
		fmt.Fprintf(w, `[{"Service":{"Address":%q,"Port":%s}}]`, host, port)
	})
	m.HandleFunc("GET /eureka/apps", func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			t.Errorf("%s:%s", user, password)
		}
		fmt.Fprintf(w, `{"applications":{"application":[{"name":"USERS","instance":[{"ipAddr":%q,"status":"UP","port":{"$":%s}}]}]}}`, host, port)
	})
	m.HandleFunc("GET /apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("headers %v", r.Header)
		}
		if r.FormValue("watch") != "" {
			<-r.Context().Done()
			return
		}
		fmt.Fprintf(w, `{"kind":"EndpointSliceList","items":[{"addressType":"IPv4","ports":[{"name":"http","port":%s}],"endpoints":[{"addresses":[%q]}]}]}`, port, host)
	})
	return m
}

func TestEveryKindOfSource(t *testing.T) {
	s := newService(t, "app")
	server := httptest.NewServer(registry(t, s.address))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	w := withSources(t, compile.Settings{Mesh: func(service string, _ bool) upstream.Source { return fixed{service, s.address} }})
	tlstest.Write(t, filepath.Join(w.dir, "token"), []byte("secret"))
	for kind, source := range map[string]string{
		"consul users at dc1":   "consul: { service: users, address: %q, token: secret, datacenter: dc1 }",
		"eureka USERS":          "eureka: { app: users, servers: [%q/eureka], username: me, password: secret }",
		"kubernetes shop/users": "kubernetes: { service: users, namespace: shop, server: %q, token_file: token }",
		"mesh users":            "mesh: users # %q",
	} {
		source = strings.ReplaceAll(fmt.Sprintf(source, server.URL), `"/eureka`, `/eureka"`)
		w.apply(strings.ReplaceAll(fmt.Sprintf(users, "\n"+source+"\n"), "users: { \n", "users: {\n"))
		eventually(t, kind, func() bool { return len(status(w).Endpoints) == 1 })
		w.want("/x", 200, "app /x")
		if got := status(w).Source; got.Kind+" "+got.Target != kind || got.Error != "" {
			t.Errorf("status %+v, want %s", got, kind)
		}
	}
}

// fixed is a source that says one thing.
type fixed struct{ name, address string }

func (f fixed) Name() (kind, target string) { return "mesh", f.name }

func (f fixed) Run(_ context.Context, report func(upstream.Report)) {
	report(upstream.Report{Endpoints: []upstream.EndpointSettings{{Address: f.address}}})
}

func TestSourcesThatCannotBe(t *testing.T) {
	w := newWorld(t)
	f := func(source, want string) {
		t.Helper()
		_, err := w.build(fmt.Sprintf(users, source), compile.AllOrNothing)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", source, err, want)
		}
	}
	f("mesh: users", "gatehouse.yaml:3:14: upstreams.users: mesh: this node has no registry")
	f("consul: { service: users, address: 'https://consul', tls: { ca_file: none.pem } }", "upstreams.users.consul.tls.ca_file")
	f("kubernetes: { service: users, server: 'https://k8s', tls: { cert_file: none.pem, key_file: none.key } }", "upstreams.users.kubernetes.tls.key_file")
	if r, err := w.build(fmt.Sprintf(users, "mesh: users"), compile.DryRun); err != nil {
		t.Errorf("a dry run needs a registry: %v", err)
	} else {
		r.Snapshot.Release()
	}
}

// A registry's certificate, and ours, are read anew when their files change.
func TestSourceTLS(t *testing.T) {
	w := newWorld(t)
	ca := tlstest.NewAuthority(t)
	tlstest.Write(t, filepath.Join(w.dir, "ca.pem"), ca.PEM())
	ca.Issue(t, tlstest.Request{Names: []string{"node"}}).Write(t, filepath.Join(w.dir, "c.pem"), filepath.Join(w.dir, "k.pem"))
	text := "consul: { service: users, address: 'https://127.0.0.1:1', tls: { ca_file: ca.pem, cert_file: c.pem, key_file: k.pem } }"
	w.apply(fmt.Sprintf(users, text))
	before := w.units()
	w.apply(fmt.Sprintf(users, text))
	if same, fresh := kept(before, w.units()); len(same) != 3 || len(fresh) != 0 {
		t.Errorf("kept %v, new %v", same, fresh)
	}
	if !slices.ContainsFunc(compile.CertificatesStatus(w.gateway.Current()), func(c compile.CertificateStatus) bool { return c.Name == "upstreams.users.consul.tls" }) {
		t.Error("our certificate has no status")
	}
	if err := os.Remove(filepath.Join(w.dir, "k.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.build(fmt.Sprintf(users, strings.Replace(text, "c.pem", "./c.pem", 1)), compile.AllOrNothing); err == nil {
		t.Error("a key that is missing is no error")
	}
}
