//go:build long

package registries

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/discovery/discoverytest"
	"github.com/gatehouse-proxy/gatehouse/discovery/kubernetes"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
)

func TestKubernetes(t *testing.T) {
	programs := build(t, "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "go.etcd.io/etcd/server/v3")
	c := newCluster(t, programs)
	for _, s := range []struct {
		name string
		f    func(*testing.T, *cluster)
	}{
		{"slices", kubernetesSlices},
		{"ports and families", kubernetesPorts},
		{"rights", kubernetesRights},
		{"pod", kubernetesPod},
		{"pages", kubernetesPages},
		{"a list that expires", kubernetesExpiry},
		{"watches", kubernetesWatches},
		{"bookmarks", kubernetesBookmarks},
		{"faults", kubernetesFaults},
		{"another past", kubernetesAnotherPast}, // the last: nothing is left after it
	} {
		t.Run(s.name, func(t *testing.T) { s.f(t, c) })
	}
}

func run(t *testing.T, s kubernetes.Settings) *discoverytest.Run {
	t.Helper()
	k, err := kubernetes.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return discoverytest.Start(t, k)
}

// Slices come, change and go; only those conditions count that mean requests.
func kubernetesSlices(t *testing.T, c *cluster) {
	r := run(t, c.direct("users", administrator))
	r.Until("an answer", func() bool { return r.Reports() > 0 })
	r.List("")
	c.create(slice("users-1", "users", "IPv4", "", ready("10.1.0.1")))
	r.List("10.1.0.1:8080@z1")
	c.create(slice("users-2", "users", "IPv4", "", ready("10.1.0.2", "10.1.0.3")))
	c.create(slice("others-1", "others", "IPv4", "", ready("10.1.9.9")))
	r.List("10.1.0.1:8080@z1 10.1.0.2:8080@z1 10.1.0.3:8080@z1")
	state := func(address string, ready, serving, terminating bool) string {
		return fmt.Sprintf(`{"addresses":[%q],"conditions":{"ready":%t,"serving":%t,"terminating":%t}}`, address, ready, serving, terminating)
	}
	c.update("users-2", slice("users-2", "users", "IPv4", "", state("10.1.0.2", false, true, true)+","+state("10.1.0.3", false, false, false)))
	r.List("10.1.0.1:8080@z1")
	c.update("users-1", slice("users-1", "users", "IPv4", "", state("10.1.0.1", false, false, true)))
	r.List("10.1.0.2:8080 note: none is ready: those that end are used")
	c.update("users-1", slice("users-1", "users", "IPv4", "", `{"addresses":["10.1.0.1"]}`)) // nothing is known of it
	r.List("10.1.0.1:8080")
	c.remove("users-2")
	c.update("users-1", slice("users-1", "others", "IPv4", "", ready("10.1.0.1"))) // it is another service's now
	r.List("")
	c.update("users-1", slice("users-1", "users", "IPv4", "", ready("10.1.0.1")))
	r.List("10.1.0.1:8080@z1")
	c.must(t, "DELETE", slicesPath+"?labelSelector=kubernetes.io/service-name=users", "")
	r.List("")
}

func kubernetesPorts(t *testing.T, c *cluster) {
	const two = `{"name":"http","port":8080},{"name":"metrics","port":9090}`
	c.create(slice("dual-4", "dual", "IPv4", two, ready("10.2.0.1")))
	c.create(slice("dual-6", "dual", "IPv6", two, ready("2001:db8::1")))
	c.create(slice("dual-name", "dual", "FQDN", two, `{"addresses":["pod.example.com"]}`))
	with := func(service, port, family string) *discoverytest.Run {
		s := c.direct(service, administrator)
		s.Port, s.Addresses = port, family
		return run(t, s)
	}
	with("dual", "", "").List(`note: port must say which, since the service has 2: ["http" "metrics"]`)
	with("dual", "grpc", "").List(`note: the service has no port "grpc", but ["http" "metrics"]`)
	with("dual", "metrics", "").List("10.2.0.1:9090@z1")
	with("dual", "9090", "IPv6").List("[2001:db8::1]:9090@z1")
	auto := with("dual", "http", "")
	auto.List("10.2.0.1:8080@z1")
	c.remove("dual-4")
	auto.List("[2001:db8::1]:8080@z1")

	// A port without a name; and none at all, which means all of them.
	c.create(slice("plain", "plain", "IPv4", `{"port":8081}`, ready("10.2.0.2")))
	with("plain", "", "").List("10.2.0.2:8081@z1")
	c.create(`{"metadata":{"name":"open","labels":{"kubernetes.io/service-name":"open"}},"addressType":"IPv4","endpoints":[` + ready("10.2.0.3") + `]}`)
	with("open", "8082", "").List("10.2.0.3:8082@z1")
	with("open", "", "").List("note: port must say which, since the service has 0: []")
	// Two pods whose port of one name has different numbers, during a rollout.
	c.create(slice("new-1", "new", "IPv4", `{"name":"http","port":8080}`, ready("10.2.0.4")))
	c.create(slice("new-2", "new", "IPv4", `{"name":"http","port":8081}`, ready("10.2.0.5")))
	with("new", "http", "").List("10.2.0.4:8080@z1 10.2.0.5:8081@z1")
}

// What the account lacks is told, and known at once to be there.
func kubernetesRights(t *testing.T, c *cluster) {
	c.create(slice("rights-1", "rights", "IPv4", "", ready("10.3.0.1")))
	s := c.direct("rights", "nonsense")
	nobody := run(t, s)
	nobody.Fails("answered 401: Unauthorized")
	if text := nobody.Last().Err.Error(); strings.Contains(text, "nonsense") {
		t.Errorf("the error tells the token: %s", text)
	}
	nobody.Stop()
	const who = `answered 403: endpointslices.discovery.k8s.io is forbidden: User "system:serviceaccount:shop:gateway" cannot %s resource "endpointslices" in API group "discovery.k8s.io" in the namespace "shop"`
	tlstest.Write(t, s.TokenFile, []byte(c.token()))
	r := run(t, s)
	r.Fails(fmt.Sprintf(who, "list"))
	c.allow(`"list"`)
	r.List("10.3.0.1:8080@z1")
	r.Fails(fmt.Sprintf(who, "watch"))
	c.allow(`"list","watch"`)
	r.Works()
	c.update("rights-1", slice("rights-1", "rights", "IPv4", "", ready("10.3.0.2")))
	r.List("10.3.0.2:8080@z1")
	r.Works()
	s.Namespace = "default" // where it has no rights
	run(t, s).Fails(`in the namespace "default"`)
}

// As in a pod: everything comes from the service account's files, and its token
// is replaced.
func kubernetesPod(t *testing.T, c *cluster) {
	c.allow(`"list","watch"`)
	c.create(slice("pod-1", "pod", "IPv4", "", ready("10.4.0.1")))
	tlstest.Write(t, c.file("namespace"), []byte("shop"))
	tlstest.Write(t, c.file("token"), []byte(c.token()))
	at := strings.Split(strings.TrimPrefix(c.base, "https://"), ":")
	env := map[string]string{"KUBERNETES_SERVICE_HOST": at[0], "KUBERNETES_SERVICE_PORT": at[1]}
	r := run(t, kubernetes.Settings{Service: "pod", Env: func(k string) string { return env[k] }, Account: c.dir})
	r.List("10.4.0.1:8080@z1")

	// Another account of the same name: tokens of the one before are worth nothing.
	c.must(t, "DELETE", "/api/v1/namespaces/shop/serviceaccounts/gateway", "")
	c.account()
	c.apiRun.kill() // which ends the watch
	c.startAPI()
	r.Fails("answered 401")
	tlstest.Write(t, c.file("token"), []byte(c.token()))
	c.update("pod-1", slice("pod-1", "pod", "IPv4", "", ready("10.4.0.2")))
	r.List("10.4.0.2:8080@z1")
	r.Works()
}

// A service of 520 slices is read in eleven pages.
func kubernetesPages(t *testing.T, c *cluster) {
	makeMany(t, c, "many", 520)
	m, s := c.through(t, "many")
	r := run(t, s)
	r.Until("all", func() bool { return len(r.Last().Endpoints) == 1040 })
	if n := m.count("limit=50"); n != 11 {
		t.Errorf("%d pages", n)
	}
	r.Until("a watch", func() bool { return m.count("watch=1") >= 1 })
	c.remove("many-17")
	c.update("many-18", slice("many-18", "many", "IPv4", "", ready("10.5.255.1")))
	r.Until("the change", func() bool { return len(r.Last().Endpoints) == 1037 })
	if n := m.count(""); n != 13 {
		t.Errorf("%d queries", n)
	}
	r.Stop()

	// A slice as large as they get, in a list and in an event.
	var list []string
	for i := range 1000 {
		list = append(list, fmt.Sprintf(`{"addresses":["10.6.%d.%d"],"nodeName":"node-%d","zone":"z1","hints":{"forZones":[{"name":"z1"}]},"targetRef":{"kind":"Pod","namespace":"shop","name":"%s-%d"}}`,
			i/250, i%250+1, i, strings.Repeat("x", 200), i))
	}
	c.create(slice("large-1", "large", "IPv4", "", ready("10.6.99.1")))
	large := run(t, c.direct("large", administrator))
	large.List("10.6.99.1:8080@z1")
	c.update("large-1", slice("large-1", "large", "IPv4", "", strings.Join(list, ",")))
	large.Until("all", func() bool { return len(large.Last().Endpoints) == 1000 })
	again := run(t, c.direct("large", administrator))
	again.Until("all", func() bool { return len(again.Last().Endpoints) == 1000 })
}

// makeMany makes slices of a service, with two endpoints each.
func makeMany(t *testing.T, c *cluster, service string, n int) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for worker := range 4 {
		wg.Go(func() {
			for i := worker; i < n; i += 4 {
				_, err := c.do("POST", slicesPath, slice(fmt.Sprintf("%s-%d", service, i), service, "IPv4", "",
					ready(fmt.Sprintf("10.5.%d.%d", i/100, i%100*2+1), fmt.Sprintf("10.5.%d.%d", i/100, i%100*2+2))))
				errs <- err
			}
		})
	}
	wg.Wait()
	for range n {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

// What etcd forgets between two pages is listed anew, without a failure.
func kubernetesExpiry(t *testing.T, c *cluster) {
	makeMany(t, c, "brief", 60)
	// Since 1.34 the API server remembers the past itself; before, pages came of etcd.
	normal := c.apiArgs
	c.apiArgs = append(slices.Clone(normal), "--feature-gates=ListFromCacheSnapshot=false")
	c.apiRun.kill()
	c.startAPI()
	c.apiArgs = normal
	m, s := c.through(t, "brief")
	second, forgotten := make(chan struct{}, 1), make(chan struct{})
	m.first(func(q *http.Request) {
		if q.URL.Query().Has("continue") {
			m.first(nil)
			second <- struct{}{}
			select {
			case <-forgotten:
			case <-q.Context().Done():
			}
		}
	})
	r := run(t, s)
	<-second
	c.update("brief-0", slice("brief-0", "brief", "IPv4", "", ready("10.5.99.1")))
	if err := c.compact(); err != nil {
		t.Fatal(err)
	}
	close(forgotten)
	r.Until("all", func() bool { return len(r.Last().Endpoints) == 119 })
	if n := r.Reports(); n != 1 && r.Last().Err != nil {
		t.Errorf("%d reports, the last: %s", n, discoverytest.Text(r.Last()))
	}
	if n := m.count("limit=50"); n != 4 {
		t.Errorf("%d pages", n)
	}
}

// A watch that breaks goes on where it was; a version that is too old is listed
// anew, and is no failure.
func kubernetesWatches(t *testing.T, c *cluster) {
	c.create(slice("watch-1", "watch", "IPv4", "", ready("10.7.0.1")))
	m, s := c.through(t, "watch")
	r := run(t, s)
	r.List("10.7.0.1:8080@z1")
	r.Until("the watch is open", func() bool { return r.Reports() >= 2 })
	let := m.hold("watch=1")
	m.cut()
	r.Until("another watch", func() bool { return m.count("watch=1") >= 2 })
	c.create(slice("watch-2", "watch", "IPv4", "", ready("10.7.0.2")))
	c.remove("watch-1")
	let()
	r.List("10.7.0.2:8080@z1")
	if n := m.count("limit=50"); n != 1 {
		t.Errorf("it has listed %d times", n)
	}

	// While it is away the slice goes, etcd forgets that, and the API server knows
	// nothing from before its start.
	let = m.hold("watch=1")
	m.cut()
	r.Until("another watch", func() bool { return m.count("watch=1") >= 3 })
	c.remove("watch-2")
	c.create(slice("watch-3", "watch", "IPv4", "", ready("10.7.0.3")))
	c.apiRun.kill()
	if err := c.compact(); err != nil {
		t.Fatal(err)
	}
	c.startAPI()
	let()
	r.List("10.7.0.3:8080@z1")
	if n := m.count("limit=50"); n != 2 {
		t.Errorf("it has listed %d times", n)
	}
	if err := r.Last().Err; err != nil {
		t.Error(err)
	}
}

// Bookmarks confirm a list and move its version while nothing happens to the
// service: with them a watch goes on even when what it began with is forgotten.
func kubernetesBookmarks(t *testing.T, c *cluster) {
	c.create(slice("quiet-1", "quiet", "IPv4", "", ready("10.8.0.1")))
	m, s := c.through(t, "quiet")
	r := run(t, s)
	r.List("10.8.0.1:8080@z1")
	r.Until("the watch is open", func() bool { return r.Reports() >= 2 })
	for i := range 5 {
		c.create(slice(fmt.Sprintf("noise-%d", i), "noise", "IPv4", "", ready("10.8.9.9")))
	}
	before := r.Reports()
	// There is one a minute; the first may have been on its way before the noise.
	r.Until("two bookmarks", func() bool { return r.Reports() >= before+2 })
	known, _ := strconv.Atoi(m.query("watch=1").Get("resourceVersion"))
	m.cut()
	r.Until("another watch", func() bool { return m.count("watch=1") >= 2 })
	if now, _ := strconv.Atoi(m.query("watch=1").Get("resourceVersion")); known == 0 || now < known+5 {
		t.Errorf("the watch goes on from version %d, where the first began from %d", now, known)
	}
	c.create(slice("quiet-2", "quiet", "IPv4", "", ready("10.8.0.2")))
	r.List("10.8.0.1:8080@z1 10.8.0.2:8080@z1")
	if n := m.count("limit=50"); n != 1 {
		t.Errorf("it has listed %d times", n)
	}
}

// The API server is killed, ended, and loses its etcd.
func kubernetesFaults(t *testing.T, c *cluster) {
	c.create(slice("fault-1", "fault", "IPv4", "", ready("10.9.0.1")))
	r := run(t, c.direct("fault", administrator))
	r.List("10.9.0.1:8080@z1")
	c.apiRun.kill()
	r.Fails("connection refused")
	c.startAPI()
	r.Works()
	c.update("fault-1", slice("fault-1", "fault", "IPv4", "", ready("10.9.0.2")))
	r.List("10.9.0.2:8080@z1")
	c.apiRun.signal(syscall.SIGTERM) // which ends watches in good order
	<-c.apiRun.done
	r.Fails("connection refused")
	c.startAPI()
	c.update("fault-1", slice("fault-1", "fault", "IPv4", "", ready("10.9.0.3")))
	r.List("10.9.0.3:8080@z1")
	c.etcdRun.kill()
	c.startEtcd("first")
	c.apiRun.until("a change", func() error {
		_, err := c.do("PUT", slicesPath+"/fault-1", slice("fault-1", "fault", "IPv4", "", ready("10.9.0.4")))
		return err
	})
	r.List("10.9.0.4:8080@z1")
}

// A cluster that begins anew with an empty etcd while a watch is on its way: the
// version we know is one of the future.
func kubernetesAnotherPast(t *testing.T, c *cluster) {
	c.create(slice("past-1", "past", "IPv4", "", ready("10.10.0.1")))
	m, s := c.through(t, "past")
	r := run(t, s)
	r.List("10.10.0.1:8080@z1")
	r.Until("the watch is open", func() bool { return r.Reports() >= 2 })
	let := m.hold("watch=1")
	m.cut()
	r.Until("another watch", func() bool { return m.count("watch=1") >= 2 })
	c.apiRun.kill()
	c.etcdRun.kill()
	c.startEtcd("second")
	c.startAPI()
	c.furnish()
	c.create(slice("past-2", "past", "IPv4", "", ready("10.10.0.2")))
	let()
	r.List("10.10.0.2:8080@z1")
}
