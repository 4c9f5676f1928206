package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/discovery/discoverytest"
	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// agent behaves as Consul's documentation says of health queries that block.
type agent struct {
	mu      sync.Mutex // guards what follows
	index   uint64
	body    string
	mode    string // "" or how it misbehaves
	changed chan struct{}
	asked   []string // queries
}

func newAgent(t *testing.T, body string) (*agent, string) {
	a := &agent{index: 10, body: body, changed: make(chan struct{})}
	server := httptest.NewServer(a)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return a, server.URL
}

// set changes what the agent knows; every query that waits is answered.
func (a *agent) set(index uint64, body, mode string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.index, a.body, a.mode = index, body, mode
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) queries() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.asked...)
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.asked = append(a.asked, r.URL.Path+"?"+r.URL.RawQuery+" "+r.Header.Get("X-Consul-Token"))
	known, _ := strconv.ParseUint(r.FormValue("index"), 10, 64)
	wait, _ := time.ParseDuration(r.FormValue("wait"))
	for known > 0 && known >= a.index && wait > 0 && a.mode == "" {
		changed := a.changed
		a.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
			wait = 0
		case <-r.Context().Done():
			wait = 0
		}
		timer.Stop()
		a.mu.Lock()
		if wait > 0 && a.index < known {
			break // restored from an older snapshot
		}
	}
	index, body, mode := a.index, a.body, a.mode
	a.mu.Unlock()
	switch mode {
	case "down":
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, "No cluster leader")
		return
	case "cut":
		w.Header().Set("Content-Length", "10000")
	case "no index":
		fmt.Fprint(w, body)
		return
	case "hidden":
		if known > 0 && body == "[]" {
			break // Consul streams changes without this
		}
		w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
	case "revoked": // only who does not wait is told
		if known > 0 {
			index = known
			break
		}
		w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
		body = "[]"
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
	fmt.Fprint(w, body)
}

// instances are addresses, each healthy.
func instances(addresses ...string) string {
	var list []string
	for _, a := range addresses {
		host, port, _ := strings.Cut(a, ":")
		list = append(list, fmt.Sprintf(`{"Node":{"Node":"n","Address":"10.9.9.9","Meta":{"zone":"z1"}},"Service":{"ID":"x","Address":%q,"Port":%s,"Weights":{"Passing":3,"Warning":1}},"Checks":[{"Status":"passing"}]}`, host, port))
	}
	return "[" + strings.Join(list, ",") + "]"
}

func source(t *testing.T, url string, change func(*Settings)) *Source {
	t.Helper()
	s := Settings{Client: remote.Settings{Servers: []string{url}}, Service: "users", ZoneMeta: "zone"}
	if change != nil {
		change(&s)
	}
	c, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestChangesAreKnownAtOnce(t *testing.T) {
	t.Parallel()
	a, url := newAgent(t, instances("10.0.0.1:80"))
	r := discoverytest.Start(t, source(t, url, func(s *Settings) {
		s.Tags, s.Datacenter, s.Namespace, s.Partition, s.Stale, s.Token = []string{"v1", "eu"}, "dc1", "ns1", "p1", true, "secret"
	}))
	r.List("10.0.0.1:80*3@z1")
	a.set(11, instances("10.0.0.1:80", "10.0.0.2:80"), "")
	r.List("10.0.0.1:80*3@z1 10.0.0.2:80*3@z1")
	a.set(12, "[]", "")
	r.List("")
	r.Stop()
	q := a.queries()
	if want := "/v1/health/service/users?dc=dc1&ns=ns1&partition=p1&passing=1&stale=&tag=v1&tag=eu secret"; q[0] != want {
		t.Errorf("first query %s\nwant        %s", q[0], want)
	}
	if want := "index=10"; !strings.Contains(q[1], want) || !strings.Contains(q[1], "wait=300000ms") {
		t.Errorf("second query %s", q[1])
	}
	if len(q) > 4 {
		t.Errorf("%d queries: %s", len(q), q)
	}
}

// The index of a server that was restored is smaller: it must not be waited for.
func TestIndexGoesBackwards(t *testing.T) {
	t.Parallel()
	a, url := newAgent(t, instances("10.0.0.1:80"))
	r := discoverytest.Start(t, source(t, url, nil))
	r.List("10.0.0.1:80*3@z1")
	r.Until("a query that waits", func() bool { return len(a.queries()) == 2 })
	a.set(3, instances("10.0.0.2:80"), "")
	r.List("10.0.0.2:80*3@z1")
	a.set(4, instances("10.0.0.3:80"), "")
	r.List("10.0.0.3:80*3@z1")
	r.Stop()
	for _, q := range a.queries()[2:3] {
		if strings.Contains(q, "index") {
			t.Errorf("after that, asked %s", q)
		}
	}
}

// A query that ends without a change says that the list is still right.
func TestTheListIsConfirmed(t *testing.T) {
	t.Parallel()
	_, url := newAgent(t, instances("10.0.0.1:80"))
	r := discoverytest.Start(t, source(t, url, func(s *Settings) { s.Wait = 20 * time.Millisecond }))
	r.Until("three reports", func() bool { return r.Reports() >= 3 })
	first := r.Last().Endpoints
	r.Until("one more", func() bool { return r.Reports() >= 4 })
	if last := r.Last(); last.Err != nil || &last.Endpoints[0] != &first[0] {
		t.Error("it is not the same list")
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	a, url := newAgent(t, instances("10.0.0.1:80"))
	r := discoverytest.Start(t, source(t, url, nil))
	r.List("10.0.0.1:80*3@z1")
	a.set(11, "", "down")
	r.Fails("answered 500: No cluster leader")
	a.set(12, instances("10.0.0.2:80"), "")
	r.List("10.0.0.2:80*3@z1") // read anew, and not waited for
	a.set(13, instances("10.0.0.3:80"), "cut")
	r.Fails("breaks off: ")
	a.set(14, `{"error":"x"}`, "")
	r.Fails("not a list")
	a.set(15, instances("10.0.0.4:80"), "no index")
	r.List("10.0.0.4:80*3@z1")
	r.Stop()
	if n := len(a.queries()); n > 12 {
		t.Errorf("%d queries", n)
	}
}

// Consul leaves out what the token may not read. What is left of nothing is no
// empty service.
func TestWhatTheTokenHides(t *testing.T) {
	t.Parallel()
	a, url := newAgent(t, instances("10.0.0.1:80", "10.0.0.2:80"))
	r := discoverytest.Start(t, source(t, url, nil))
	r.List("10.0.0.1:80*3@z1 10.0.0.2:80*3@z1")
	a.set(11, instances("10.0.0.1:80"), "hidden")
	r.List("10.0.0.1:80*3@z1 note: the token may not read all instances")
	a.set(12, "[]", "hidden")
	r.Fails("it needs service:read for the service and node:read for its nodes")
	r.List("10.0.0.1:80*3@z1 note: the token may not read all instances") // which was the last good one
	a.set(13, "[]", "")
	r.List("")
	r.Works()
}

// Queries that wait are not told of rights that the token has lost: they end as if
// nothing had happened.
func TestRightsAreLost(t *testing.T) {
	t.Parallel()
	a, url := newAgent(t, instances("10.0.0.1:80"))
	r := discoverytest.Start(t, source(t, url, func(s *Settings) { s.Wait = 20 * time.Millisecond }))
	r.List("10.0.0.1:80*3@z1")
	a.set(10, instances("10.0.0.1:80"), "revoked")
	r.Fails("the token shows no instance")
	r.List("10.0.0.1:80*3@z1") // still the last good one
	a.set(11, instances("10.0.0.2:80"), "")
	r.List("10.0.0.2:80*3@z1")
}

func TestParse(t *testing.T) {
	f := func(s Settings, in, want string) {
		t.Helper()
		list, note, err := parse(strings.NewReader(in), &s)
		if got := discoverytest.Text(upstream.Report{Endpoints: list, Note: note, Err: err}); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", in, got, want)
		}
	}
	one := func(service, node, checks string) string {
		return `[{"Node":{` + node + `},"Service":{` + service + `},"Checks":[` + checks + `]}]`
	}
	zone := Settings{ZoneMeta: "az"}
	f(zone, "[]", "")
	f(zone, one(`"Address":"10.0.0.1","Port":80`, `"Address":"10.1.1.1","Meta":{"az":"a"}`, ``), "10.0.0.1:80@a")
	f(zone, one(`"Port":80,"Locality":{"Region":"r","Zone":"b"}`, `"Address":"10.1.1.1","Locality":{"Zone":"c"}`, ``), "10.1.1.1:80@b")
	f(zone, one(`"Address":"2001:db8::1","Port":80`, ``, ``), "[2001:db8::1]:80")
	f(zone, one(`"Address":"10.0.0.1"`, ``, ``), "note: 1 instances without an address or port")
	f(zone, one(`"Address":"10.0.0.1","Port":80`, ``, `{"Status":"passing"},{"Status":"critical"}`), "")
	warns := one(`"Address":"10.0.0.1","Port":80,"Weights":{"Passing":10,"Warning":2}`, ``, `{"Status":"passing"},{"Status":"warning"}`)
	f(zone, warns, "")
	f(Settings{Warning: true}, warns, "10.0.0.1:80*2")
	f(zone, "[] []", "error: something follows the answer")
	f(zone, "", "error: the answer is no JSON: EOF")
	f(zone, `{"a":1}`, "error: the answer is not a list of instances")
	f(zone, `[{"Service":{"Port":"eighty"}}]`, "error: the answer cannot be read: Service.Port is a string in it")
	f(zone, `[{"Service":{}}`, "error: the answer cannot be read: EOF")
	many := "[" + strings.Repeat(`{"Service":{"Address":"10.0.0.1","Port":80}},`, upstream.MaxEndpoints) + `{"Service":{"Address":"10.0.0.1","Port":80}}]`
	f(zone, many, "error: the service has more than the 32768 instances that can be used")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(instances("10.0.0.1:80", "10.0.0.2:81")))
	f.Add([]byte(`[{"Node":null,"Service":{"Weights":{"Passing":-1}},"Checks":null},{}]`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, in []byte) {
		list, _, err := parse(strings.NewReader(string(in)), &Settings{ZoneMeta: "zone"})
		if err == nil && !json.Valid(in) {
			t.Error("accepted what is no JSON")
		}
		if err != nil && list != nil {
			t.Error("both a list and an error")
		}
	})
}

func BenchmarkParse10000(b *testing.B) {
	addresses := make([]string, 10_000)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("10.0.%d.%d:80", i/256, i%256)
	}
	in := instances(addresses...)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := parse(strings.NewReader(in), &Settings{}); err != nil {
			b.Fatal(err)
		}
	}
}
