//go:build long

package registries

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/discovery/kubernetes"
	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
)

// administrator's token may do everything.
const administrator = "administrator-of-the-test"

// cluster is an API server with an etcd and nothing else: no controller changes
// what the tests write.
type cluster struct {
	*caller         // as the administrator
	etcd    *caller // etcd's HTTP gateway
	t       *testing.T
	dir     string
	trust   *tls.Config

	etcdArgs, apiArgs []string
	etcdRun, apiRun   *process
}

func newCluster(t *testing.T, programs string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir()}
	ca := tlstest.NewAuthority(t)
	tlstest.Write(t, c.file("ca.crt"), ca.PEM())
	ca.Issue(t, tlstest.Request{Names: []string{"kubernetes"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}).Write(t, c.file("api.pem"), c.file("api.key"))
	c.trust = &tls.Config{RootCAs: ca.Pool()}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tlstest.Write(t, c.file("accounts.key"), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	tlstest.Write(t, c.file("tokens.csv"), []byte(administrator+`,admin,1,"system:masters"`+"\n"))

	api, peers := freePort(t), "http://127.0.0.1:"+freePort(t)
	c.etcd = newCaller(t, "http://127.0.0.1:"+freePort(t), nil, nil)
	header := http.Header{"Authorization": {"Bearer " + administrator}, "Content-Type": {"application/json"}}
	c.caller = newCaller(t, "https://127.0.0.1:"+api, header, c.trust)
	c.etcdArgs = []string{
		filepath.Join(programs, "server"), "--name=e", "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + c.etcd.base, "--advertise-client-urls=" + c.etcd.base,
		"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=e=" + peers,
	}
	c.apiArgs = []string{
		filepath.Join(programs, "kube-apiserver"), "--etcd-servers=" + c.etcd.base, "--etcd-compaction-interval=0",
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=" + api, "--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC", "--token-auth-file=" + c.file("tokens.csv"),
		"--tls-cert-file=" + c.file("api.pem"), "--tls-private-key-file=" + c.file("api.key"), "--cert-dir=" + c.dir,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + c.file("accounts.key"),
		"--service-account-signing-key-file=" + c.file("accounts.key"), "--shutdown-delay-duration=0s",
	}
	c.startEtcd("first")
	c.startAPI()
	c.furnish()
	return c
}

func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }

// startEtcd starts it with what it has in a folder: nothing at first.
func (c *cluster) startEtcd(folder string) {
	c.t.Helper()
	c.etcdRun = start(c.t, c.etcdArgs[0], append(c.etcdArgs[1:], "--data-dir="+c.file(folder))...)
	c.etcdRun.until("etcd", func() error {
		_, err := c.etcd.do("GET", "/health", "")
		return err
	})
}

func (c *cluster) startAPI() {
	c.t.Helper()
	c.apiRun = start(c.t, c.apiArgs[0], c.apiArgs[1:]...)
	c.apiRun.until("the API server", func() error {
		_, err := c.do("GET", "/readyz", "")
		return err
	})
}

// furnish makes the namespace shop, and the service account gateway in it, which
// may do nothing yet.
func (c *cluster) furnish() {
	c.t.Helper()
	c.must(c.t, "POST", "/api/v1/namespaces", `{"metadata":{"name":"shop"}}`)
	c.account()
}

func (c *cluster) account() {
	c.t.Helper()
	c.must(c.t, "POST", "/api/v1/namespaces/shop/serviceaccounts", `{"metadata":{"name":"gateway"}}`)
}

// token is one of the service account.
func (c *cluster) token() string {
	c.t.Helper()
	text := c.must(c.t, "POST", "/api/v1/namespaces/shop/serviceaccounts/gateway/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":3600}}`)
	var r struct{ Status struct{ Token string } }
	if err := json.Unmarshal([]byte(text), &r); err != nil || r.Status.Token == "" {
		c.t.Fatalf("no token: %v in %s", err, text)
	}
	return r.Status.Token
}

const rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/"

// allow has the account do this with EndpointSlices, and nothing else.
func (c *cluster) allow(verbs string) {
	c.t.Helper()
	c.must(c.t, "PUT", rbac+"roles/gateway", `{"metadata":{"name":"gateway"},"rules":[{"apiGroups":["discovery.k8s.io"],"resources":["endpointslices"],"verbs":[`+verbs+`]}]}`)
	c.must(c.t, "PUT", rbac+"rolebindings/gateway", `{"metadata":{"name":"gateway"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"gateway"},
"subjects":[{"kind":"ServiceAccount","name":"gateway","namespace":"shop"}]}`)
}

const slicesPath = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"

// slice is one of a service, with a port named http unless there are others.
func slice(name, service, family, ports, list string) string {
	if ports == "" {
		ports = `{"name":"http","port":8080}`
	}
	return fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"kubernetes.io/service-name":%q}},"addressType":%q,"ports":[%s],"endpoints":[%s]}`,
		name, service, family, ports, list)
}

// ready are endpoints in the zone z1.
func ready(addresses ...string) string {
	var list []string
	for _, a := range addresses {
		list = append(list, fmt.Sprintf(`{"addresses":[%q],"conditions":{"ready":true,"serving":true,"terminating":false},"zone":"z1"}`, a))
	}
	return strings.Join(list, ",")
}

func (c *cluster) create(text string) {
	c.t.Helper()
	c.must(c.t, "POST", slicesPath, text)
}

func (c *cluster) update(name, text string) {
	c.t.Helper()
	c.must(c.t, "PUT", slicesPath+"/"+name, text)
}

func (c *cluster) remove(name string) {
	c.t.Helper()
	c.must(c.t, "DELETE", slicesPath+"/"+name, "")
}

// compact has etcd forget all versions but the newest.
func (c *cluster) compact() error {
	text, err := c.etcd.do("POST", "/v3/kv/range", `{"key":"`+base64.StdEncoding.EncodeToString([]byte("x"))+`"}`)
	if err != nil {
		return err
	}
	var r struct{ Header struct{ Revision string } }
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return err
	}
	_, err = c.etcd.do("POST", "/v3/kv/compaction", `{"revision":"`+r.Header.Revision+`","physical":true}`)
	return err
}

// direct is how to ask the API server itself, with the token in a file.
func (c *cluster) direct(service, token string) kubernetes.Settings {
	c.t.Helper()
	file := c.file("token-" + service)
	tlstest.Write(c.t, file, []byte(token+"\n"))
	return kubernetes.Settings{
		Client:    remote.Settings{Servers: []string{c.base}, TLS: dial.TLSSettings{CAFile: c.file("ca.crt")}},
		TokenFile: file, Namespace: "shop", Service: service,
	}
}

// through is the same by way of somebody who sees what is asked.
func (c *cluster) through(t *testing.T, service string) (*middle, kubernetes.Settings) {
	t.Helper()
	m := newMiddle(t, c.base, c.trust)
	s := c.direct(service, administrator)
	s.Client = remote.Settings{Servers: []string{m.url}}
	return m, s
}
