package kubernetes

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/discovery/discoverytest"
	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// api behaves as the Kubernetes API's documentation says of lists and watches.
type api struct {
	t *testing.T

	mu      sync.Mutex // guards what follows
	version int
	items   map[string]string // EndpointSlices by name
	events  []string          // since version 100, each one makes a version
	lost    int               // events up to this one are forgotten
	mode    string            // "" or how it misbehaves
	pages   bool              // one slice a page
	wake    chan struct{}
	asked   []string
	watches int    // that have begun to tell
	token   string // that is wanted
}

func newAPI(t *testing.T) *api {
	return &api{t: t, version: 100, items: map[string]string{}, wake: make(chan struct{})}
}

func (a *api) serve() string {
	s := httptest.NewServer(a)
	a.t.Cleanup(func() { a.set("closing"); s.CloseClientConnections(); s.Close() })
	return s.URL
}

func (a *api) changed() {
	close(a.wake)
	a.wake = make(chan struct{})
}

// set changes the behaviour; watches that are open end.
func (a *api) set(mode string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mode = mode
	a.changed()
}

// event adds one of a type about a slice.
func (a *api) event(kind, name, rest string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(kind, name, rest)
	a.changed()
}

func (a *api) add(kind, name, rest string) {
	a.version++
	object := fmt.Sprintf(`{"kind":"EndpointSlice","metadata":{"name":%q,"resourceVersion":"%d"},%s}`, name, a.version, rest)
	switch kind {
	case "DELETED":
		delete(a.items, name)
	case "BOOKMARK":
	default:
		a.items[name] = object
	}
	a.events = append(a.events, fmt.Sprintf(`{"type":%q,"object":%s}`, kind, object))
}

// forget removes one slice and adds another, of which no watch is told: those
// that are open end, and none can go on from a version up to now.
func (a *api) forget(mode, gone, name, rest string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.items, gone)
	a.add("ADDED", name, rest)
	a.lost, a.mode = len(a.events), mode
	a.changed()
}

func (a *api) count(part string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, q := range a.asked {
		if strings.Contains(q, part) {
			n++
		}
	}
	return n
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.asked = append(a.asked, r.URL.Path+"?"+r.URL.RawQuery)
	mode, token := a.mode, a.token
	a.mu.Unlock()
	switch {
	case token != "" && r.Header.Get("Authorization") != "Bearer "+token:
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"kind":"Status","message":"Unauthorized"}`)
	case mode == "down":
		w.WriteHeader(http.StatusInternalServerError)
	case mode == "nonsense":
		fmt.Fprint(w, `{"kind":"Pod"}`)
	case r.FormValue("watch") != "":
		a.watch(w, r)
	default:
		a.list(w, r)
	}
}

func (a *api) list(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	names := make([]string, 0, len(a.items))
	for name := range a.items {
		names = append(names, name)
	}
	slices.Sort(names)
	at, next := 0, ""
	if a.pages {
		fmt.Sscan(r.FormValue("continue"), &at)
		if at > 0 && a.mode == "expire" {
			a.mode = ""
			w.WriteHeader(http.StatusGone)
			return
		}
		if at+1 < len(names) {
			next = fmt.Sprint(at + 1)
		}
		names = names[at:min(at+1, len(names))]
	}
	var items []string
	for _, name := range names {
		items = append(items, a.items[name])
	}
	fmt.Fprintf(w, `{"kind":"EndpointSliceList","metadata":{"resourceVersion":"%d","continue":%q},"items":[%s]}`, a.version, next, strings.Join(items, ","))
}

func (a *api) watch(w http.ResponseWriter, r *http.Request) {
	var from int
	fmt.Sscan(r.FormValue("resourceVersion"), &from)
	from -= 100
	a.mu.Lock()
	defer a.mu.Unlock()
	if from < a.lost {
		if a.mode == "410" {
			w.WriteHeader(http.StatusGone)
			return
		}
		fmt.Fprint(w, `{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old resource version"}}`)
		return
	}
	mode := a.mode
	a.watches++
	w.WriteHeader(http.StatusOK)
	for a.mode == mode {
		for ; from < len(a.events); from++ {
			if a.mode == "cut" {
				a.mode = ""
				fmt.Fprint(w, a.events[from][:20])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			fmt.Fprintln(w, a.events[from])
		}
		w.(http.Flusher).Flush()
		wake := a.wake
		a.mu.Unlock()
		select {
		case <-wake:
		case <-r.Context().Done():
		}
		a.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
}

func ready(addresses ...string) string {
	var list []string
	for _, s := range addresses {
		list = append(list, fmt.Sprintf(`{"addresses":[%q],"conditions":{"ready":true,"serving":true,"terminating":false},"zone":"z1"}`, s))
	}
	return `"addressType":"IPv4","ports":[{"name":"http","port":8080,"protocol":"TCP"}],"endpoints":[` + strings.Join(list, ",") + `]`
}

func source(t *testing.T, s Settings) *Source {
	t.Helper()
	if s.Service == "" {
		s.Service = "users"
	}
	k, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func at(url string) Settings {
	return Settings{Client: remote.Settings{Servers: []string{url}}, Namespace: "shop"}
}

func TestListAndWatch(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.pages = true
	a.event("ADDED", "users-1", ready("10.0.0.1"))
	a.event("ADDED", "users-2", ready("10.0.0.2"))
	r := discoverytest.Start(t, source(t, at(a.serve())))
	r.List("10.0.0.1:8080@z1 10.0.0.2:8080@z1")
	a.event("MODIFIED", "users-1", ready("10.0.0.1", "10.0.0.3"))
	r.List("10.0.0.1:8080@z1 10.0.0.2:8080@z1 10.0.0.3:8080@z1")
	a.event("DELETED", "users-2", ready())
	a.event("ADDED", "users-3", ready("10.0.0.4"))
	r.List("10.0.0.1:8080@z1 10.0.0.3:8080@z1 10.0.0.4:8080@z1")
	before := r.Reports()
	a.event("BOOKMARK", "", `"addressType":""`)
	r.Until("a confirmation", func() bool { return r.Reports() > before })
	a.event("RENAMED", "users-3", `"addressType":""`)
	a.event("MODIFIED", "users-3", ready())
	r.List("10.0.0.1:8080@z1 10.0.0.3:8080@z1")
	r.Stop()
	if a.count("watch=1") != 1 || a.count("") != 4 {
		t.Errorf("asked %q", a.asked)
	}
	if want := "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dusers&limit=50"; a.asked[0] != want {
		t.Errorf("asked %s", a.asked[0])
	}
}

// A watch that ends or breaks off goes on where it was.
func TestWatchesGoOn(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.event("ADDED", "users-1", ready("10.0.0.1"))
	r := discoverytest.Start(t, source(t, at(a.serve())))
	r.List("10.0.0.1:8080@z1")
	r.Until("a watch", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.watches > 0
	})
	a.set("other") // which ends it
	a.event("ADDED", "users-2", ready("10.0.0.2"))
	r.List("10.0.0.1:8080@z1 10.0.0.2:8080@z1")
	a.set("cut")
	a.event("ADDED", "users-3", ready("10.0.0.3"))
	r.List("10.0.0.1:8080@z1 10.0.0.2:8080@z1 10.0.0.3:8080@z1")
	a.mu.Lock()
	if a.mode != "" {
		t.Error("no watch was cut")
	}
	a.mu.Unlock()
	if n := a.count("limit=50"); n != 1 {
		t.Errorf("listed %d times", n)
	}
}

func TestForgottenVersionsAreListedAnew(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"event", "410"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			a.event("ADDED", "users-1", ready("10.0.0.1"))
			r := discoverytest.Start(t, source(t, at(a.serve())))
			r.List("10.0.0.1:8080@z1")
			r.Until("a watch", func() bool { return a.count("watch=1") >= 1 })
			a.forget(mode, "users-1", "users-2", ready("10.0.0.2"))
			r.List("10.0.0.2:8080@z1")
			if err := r.Last().Err; err != nil {
				t.Errorf("it is a failure: %v", err)
			}
		})
	}
}

// A cluster that was restored from an older copy would tell a watch nothing until
// it has reached the version that we know.
func TestVersionsOfTheFutureAreListedAnew(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	for i := range 10 {
		a.event("ADDED", "users-1", ready(fmt.Sprintf("10.0.0.%d", i+1)))
	}
	r := discoverytest.Start(t, source(t, at(a.serve())))
	r.List("10.0.0.10:8080@z1")
	r.Until("a watch", func() bool { return a.count("watch=1") == 1 })
	a.mu.Lock()
	a.version, a.events = 100, nil
	a.mu.Unlock()
	a.event("ADDED", "users-1", ready("10.0.1.1"))
	a.set("restored")
	r.List("10.0.1.1:8080@z1")
	if err := r.Last().Err; err != nil {
		t.Errorf("it is a failure: %v", err)
	}
}

// A list that expires between two pages is begun anew.
func TestListsExpire(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.pages, a.mode = true, "expire"
	a.event("ADDED", "users-1", ready("10.0.0.1"))
	a.event("ADDED", "users-2", ready("10.0.0.2"))
	r := discoverytest.Start(t, source(t, at(a.serve())))
	r.List("10.0.0.1:8080@z1 10.0.0.2:8080@z1")
}

// A server that ends every watch at once, or a list never, does not keep the
// node busy with asking.
func TestEndlessAnswers(t *testing.T) {
	t.Parallel()
	list := func(next string) string {
		return fmt.Sprintf(`{"kind":"EndpointSliceList","metadata":{"resourceVersion":"1","continue":%q},"items":[]}`, next)
	}
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	began := time.Now()
	var watches atomic.Int64
	short := discoverytest.Start(t, source(t, at(serve(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("watch") == "" {
			fmt.Fprint(w, list(""))
			return
		}
		watches.Add(1)
	}))))
	endless := discoverytest.Start(t, source(t, at(serve(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, list("more")) }))))
	endless.Fails("does not end after")
	endless.Stop()
	short.Until("three watches", func() bool { return watches.Load() >= 3 })
	if d := time.Since(began); d < 2*pause {
		t.Errorf("three watches in %v", d)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.mode = "nonsense"
	a.event("ADDED", "users-1", ready("10.0.0.1"))
	r := discoverytest.Start(t, source(t, at(a.serve())))
	r.Fails(`no list of EndpointSlices, but "Pod"`)
	a.set("")
	r.List("10.0.0.1:8080@z1")
	a.set("down")
	r.Fails("answered 500")
	a.set("")
	r.Works()
}

// In a pod everything comes from its service account, whose token changes.
func TestInACluster(t *testing.T) {
	t.Parallel()
	a, dir, ca := newAPI(t), t.TempDir(), tlstest.NewAuthority(t)
	a.token = "one"
	a.event("ADDED", "users-1", ready("10.0.0.1"))
	own := ca.Issue(t, tlstest.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}).TLS(t)
	server := httptest.NewUnstartedServer(a)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{own}}
	server.StartTLS()
	t.Cleanup(func() { a.set("closing"); server.CloseClientConnections(); server.Close() })
	for name, content := range map[string]string{"token": "one\n", "namespace": "mine", "ca.crt": string(ca.PEM())} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	env := map[string]string{"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
	r := discoverytest.Start(t, source(t, Settings{Env: func(k string) string { return env[k] }, Account: dir}))
	r.List("10.0.0.1:8080@z1")
	if a.count("/namespaces/mine/") == 0 {
		t.Errorf("asked %q", a.asked)
	}
	r.Until("a watch", func() bool { return a.count("watch=1") >= 1 })
	a.mu.Lock()
	a.token = "two"
	a.mu.Unlock()
	a.set("other")
	r.Fails("answered 401")
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.event("ADDED", "users-2", ready("10.0.0.2"))
	r.List("10.0.0.1:8080@z1 10.0.0.2:8080@z1")
}

func TestOutsideOfAnyCluster(t *testing.T) {
	t.Parallel()
	r := discoverytest.Start(t, source(t, Settings{Env: func(string) string { return "" }}))
	r.Fails("this is no pod of a cluster")
	r.Stop()
	env := func(string) string { return "1" }
	r = discoverytest.Start(t, source(t, Settings{Env: env, Account: t.TempDir()}))
	r.Fails("the pod's namespace: ")
}

// A change of one of many endpoints costs one list, however many events it takes.
func TestManyChangesAreOneReport(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	addresses := make([]string, 500)
	for i := range 20 {
		for j := range addresses {
			addresses[j] = fmt.Sprintf("10.%d.%d.%d", i, j/250, j%250+1)
		}
		a.event("ADDED", fmt.Sprintf("users-%d", i), ready(addresses...))
	}
	r := discoverytest.Start(t, source(t, at(a.serve())))
	r.Until("all", func() bool { return len(r.Last().Endpoints) == 10_000 })
	r.Until("a watch", func() bool { return a.count("watch=1") >= 1 })
	before, began := r.Reports(), time.Now()
	for range 100 {
		a.event("MODIFIED", "users-3", ready("10.99.0.1"))
	}
	r.Until("the change", func() bool { return len(r.Last().Endpoints) == 9_501 })
	if n := r.Reports() - before; n > 20+int(time.Since(began)/settle) { // a busy machine may take its time
		t.Errorf("%d reports", n)
	}
	time.Sleep(2 * settle)
	if n := len(r.Last().Endpoints); n != 9_501 {
		t.Errorf("%d endpoints", n)
	}
}

func TestEndpoints(t *testing.T) {
	f := func(s Settings, want string, in ...string) {
		t.Helper()
		all := map[string]*slice{}
		for i, text := range in {
			var x slice
			if err := json.Unmarshal([]byte("{"+text+"}"), &x); err != nil {
				t.Fatal(err)
			}
			all[fmt.Sprint(i)] = &x
		}
		var r upstream.Report
		r.Endpoints, r.Note = endpoints(all, &s)
		if got := discoverytest.Text(r); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", in, got, want)
		}
	}
	v4 := func(ports, list string) string {
		return `"addressType":"IPv4","ports":[` + ports + `],"endpoints":[` + list + `]`
	}
	const http, two = `{"name":"http","port":80}`, `{"name":"http","port":80},{"name":"metrics","port":9090}`
	v6 := `"addressType":"IPv6","ports":[` + http + `],"endpoints":[{"addresses":["2001:db8::1"]}]`

	f(Settings{}, "10.0.0.1:80", v4(http, `{"addresses":["10.0.0.1","10.0.0.9"]},{"addresses":[]}`))
	f(Settings{}, "10.0.0.1:80", v4(http, `{"addresses":["10.0.0.1"],"conditions":{"ready":null}},{"addresses":["10.0.0.2"],"conditions":{"ready":false}}`))
	const ending = `{"addresses":["10.0.0.3"],"conditions":{"ready":false,"serving":true,"terminating":true}}`
	f(Settings{}, "10.0.0.1:80", v4(http, `{"addresses":["10.0.0.1"]},`+ending))
	f(Settings{}, "10.0.0.3:80 note: none is ready: those that end are used", v4(http, ending))
	f(Settings{}, "", v4(http, `{"addresses":["10.0.0.3"],"conditions":{"ready":false,"serving":false,"terminating":true}}`))

	f(Settings{}, "10.0.0.1:80", v4(http, `{"addresses":["10.0.0.1"]}`), v6)
	f(Settings{}, "[2001:db8::1]:80", v4(http, ``), v6)
	f(Settings{Addresses: "IPv6"}, "[2001:db8::1]:80", v4(http, `{"addresses":["10.0.0.1"]}`), v6)
	f(Settings{Addresses: "IPv4"}, "", v6)

	const here = `{"addresses":["10.0.0.1"]}`
	f(Settings{Port: "metrics"}, "10.0.0.1:9090", v4(two, here))
	f(Settings{Port: "9090"}, "10.0.0.1:9090", v4(two, here))
	f(Settings{Port: "9090"}, "10.0.0.1:9090", v4("", here))
	f(Settings{}, `note: port must say which, since the service has 2: ["http" "metrics"]`, v4(two, here))
	f(Settings{Port: "grpc"}, `note: the service has no port "grpc", but ["http" "metrics"]`, v4(two, here))
	f(Settings{Port: "81"}, `note: the service has no port "81", but ["http"]`, v4(http, here))
}

func FuzzList(f *testing.F) {
	f.Add([]byte(`{"kind":"EndpointSliceList","metadata":{"resourceVersion":"7"},"items":[{` + ready("10.0.0.1") + `}]}`))
	f.Add([]byte(`{"kind":"EndpointSliceList","items":[{"endpoints":[{}],"ports":[{"port":-1}],"addressType":"IPv6"}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		l, err := parseList(strings.NewReader(string(in)))
		if err != nil {
			return
		}
		all := map[string]*slice{}
		for i := range l.Items {
			all[l.Items[i].Metadata.Name] = &l.Items[i]
		}
		endpoints(all, &Settings{})
	})
}

// Events may come in any number and order.
func FuzzEvents(f *testing.F) {
	f.Add([]byte(`{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"7"},` + ready("10.0.0.1") + `}}`))
	f.Add([]byte(`{"type":"DELETED","object":{}}{"type":"ERROR","object":{"code":410}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		w := &watcher{s: &Settings{}, slices: map[string]*slice{}}
		for d := json.NewDecoder(strings.NewReader(string(in))); ; {
			var e event
			if d.Decode(&e) != nil {
				break
			}
			if _, err := w.apply(&e); err != nil {
				break
			}
		}
		stored := 0
		for _, s := range w.slices {
			stored += 1 + len(s.Endpoints)
		}
		if stored != w.stored {
			t.Errorf("%d stored, %d counted", stored, w.stored)
		}
		endpoints(w.slices, w.s)
	})
}
