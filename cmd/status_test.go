package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control"
	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

func TestStatusOfARunningNode(t *testing.T) {
	s, path, _ := settings(t, strings.Replace(whole, "endpoints: [\"127.0.0.1:1\"]", "endpoints: [\"127.0.0.1:1\"], health_check: { type: tcp, interval: 1h }", 1))
	n, err := newNode(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer n.close(context.Background())
	server, dir := n.admin.Addr().String(), filepath.Join(filepath.Dir(path), "data")
	eventually(t, "it has been probed", func() string {
		if h := n.status().Upstreams["app"].Endpoints[0].Health; h != "unhealthy" {
			return h
		}
		return ""
	})
	r := run(t, "", "status", "--server", server, "--data-dir", dir)
	if r.code != 1 || r.err != "" || !strings.Contains(r.out, "node n1, zone z1\n") ||
		!strings.Contains(r.out, "listeners    web 127.0.0.1:") || !strings.Contains(r.out, "upstream app: none of its endpoints can be used") {
		t.Errorf("code %d\n%s%s", r.code, r.out, r.err)
	}
	token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	r = run(t, "", "status", "--server", "http://"+server+"/", "--token", strings.TrimSpace(string(token)), "-o", "json")
	var got status
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 1 || got.Node != "n1" || len(got.Config.Digest) != 64 || len(got.Listeners) != 1 {
		t.Errorf("code %d, %v: %s", r.code, err, r.out)
	}
	// The config tells where the node is: the admin port is the system's choice here, but not the folder.
	if r = run(t, "", "status", "-c", path, "--server", server); r.code != 1 || !strings.Contains(r.out, "node n1") {
		t.Errorf("code %d\n%s%s", r.code, r.out, r.err)
	}
	// What is wrong with an upstream is no reason to send it no traffic.
	if r = run(t, "", "status", "--ready", "--server", server); r.code != 0 || r.out != "ready\n" {
		t.Errorf("code %d\n%s%s", r.code, r.out, r.err)
	}
	n.admin.Drain()
	if r = run(t, "", "status", "--ready", "--server", server); r.code != 1 || r.err != "gatehouse: not ready: draining\n" {
		t.Errorf("code %d\n%s%s", r.code, r.out, r.err)
	}
	if r = run(t, "", "status", "--server", server, "--token", strings.Repeat("x", 32)); r.code != 1 || !strings.Contains(r.err, "does not accept the token") {
		t.Errorf("another token: code %d, %q", r.code, r.err)
	}
}

func TestStatusSaysWhyItCannotTell(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/api/v1/status":
			w.WriteHeader(http.StatusTeapot)
		case r.Header.Get("Authorization") == "Bearer redirect":
			http.Redirect(w, r, "https://elsewhere.test/", http.StatusFound)
		default:
			w.Write([]byte("<html>"))
		}
	}))
	defer other.Close()
	off := file(t, "node: { admin: { address: \"off\" } }\n"+good)
	for _, c := range []struct {
		args []string
		code int
		err  string
	}{
		{[]string{"--server", "127.0.0.1:1", "--token", "x"}, 1, "the node cannot be reached at http://127.0.0.1:1: "},
		{[]string{"--server", other.URL, "--token", "x"}, 1, "answers something that is not understood here"},
		{[]string{"--server", other.URL, "--token", "redirect"}, 1, "answers 302 Found, and not as a node's admin address does"},
		{[]string{"--server", other.URL + "/x", "--token", "x"}, 1, "answers 418"},
		{[]string{"--data-dir", t.TempDir()}, 1, "no admin token: "},
		{[]string{"--server", "http://", "--token", "x"}, 2, "must be HOST:PORT or a URL"},
		{[]string{"-c", "missing.yaml"}, 2, "missing.yaml"},
		{[]string{"-c", off}, 2, "node.admin.address is off"},
		{[]string{"--config", off}, 2, "node.admin.address is off"},
		{[]string{"--node", off}, 2, "node.admin.address is off"},
		{[]string{"-o", "xml"}, 2, "must be one of"},
	} {
		if r := run(t, "", append([]string{"status"}, c.args...)...); r.code != c.code || !strings.Contains(r.err, c.err) || r.out != "" {
			t.Errorf("%v: code %d, %q, %q; want %d and %q", c.args, r.code, r.err, r.out, c.code, c.err)
		}
	}
	for in, want := range map[string]string{":9901": "127.0.0.1:9901", "0.0.0.0:1": "127.0.0.1:1", "[::]:1": "127.0.0.1:1", "10.0.0.1:1": "10.0.0.1:1"} {
		if got := reachable(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// sick is a node with one of everything that can be wrong.
func sick(now time.Time) *status {
	return &status{
		Node: "n1", Version: "v1.2.3",
		Config: control.Status{
			Digest: strings.Repeat("0123", 16), Loaded: now.Add(-3 * time.Hour),
			Error: "in.yaml:1:1: x\nin.yaml:2:1: y", ErrorAt: now.Add(-time.Minute), Broken: map[string]string{"api": "no file"},
		},
		Listeners: []listenerStatus{
			{Name: "web", Address: "127.0.0.1:8080"},
			{Name: "websecure", Address: "127.0.0.1:8443", TLS: true},
			{Name: "h3", Address: ":443", Protocol: "http", TLS: true, HTTP3: true},
			{Name: "pg", Address: ":5432", Protocol: "tcp"},
			{Name: "rediss", Address: ":6380", Protocol: "tcp", TLS: true},
			{Name: "names", Address: ":9443", Protocol: "tls"},
			{Name: "dns", Address: ":53", Protocol: "udp"},
		},
		Upstreams: map[string]upstream.Status{
			"none": {},
			"half": {Panic: true, Endpoints: []upstream.EndpointStatus{
				{Address: "10.0.0.1:80", Usable: true, Health: "unknown", Done: 7},
				{Address: "10.0.0.2:80", Health: "unhealthy", ProbeError: "refused"},
				{Address: "10.0.0.3:80", Health: "healthy", EjectedUntil: now.Add(30 * time.Second), LastError: "reset", LastErrorAt: now.Add(-5 * time.Second)},
			}},
		},
		Certificates: []compile.CertificateStatus{
			{Name: "files", Source: "file", State: "ok", Hosts: []string{"a.test"}, NotAfter: now.AddDate(0, 0, 60), DaysLeft: 60},
			{Name: "gone", Source: "file", State: "expired", NotAfter: now.AddDate(0, 0, -3), DaysLeft: -3},
			{Name: "late", Source: "file", State: "expiring", NotAfter: now.AddDate(0, 0, 5), DaysLeft: 5},
			{Name: "new", Source: "acme", State: "missing", Hosts: []string{"a", "b", "c", "d", "e"}},
			{
				Name: "shop", Source: "acme", State: "failing", Hosts: []string{"shop.test"}, NotAfter: now.AddDate(0, 0, 9), DaysLeft: 9,
				Error: "429 \x1b[2J too many", Next: now.Add(45 * time.Minute),
			},
		},
	}
}

func TestWhatIsWrongWithTLS(t *testing.T) {
	now := time.Now()
	s := &status{
		Config:    control.Status{Digest: "live"},
		Listeners: []listenerStatus{{Name: "web", TLS: true}, {Name: "partners", TLS: true, Error: `"ca.pem": no such file`}},
		Certificates: []compile.CertificateStatus{
			{Name: "a", State: "ok", NotAfter: now.AddDate(0, 0, 60)},
			{Name: "b", State: "expiring", NotAfter: now.Add(5*24*time.Hour + time.Minute)},
		},
	}
	want := []string{
		`listener partners: the authorities of client certificates cannot be read: "ca.pem": no such file`,
		"certificate b: expires in 5d",
	}
	if got := s.wrong(now); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestStatusAsText(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.Local)
	s := sick(now)
	var out bytes.Buffer
	s.print(&out, s.wrong(now), now)
	const want = `gatehouse v1.2.3, node n1
config       012301230123, live since 2026-05-01 09:00:00 (3h ago)
listeners    web 127.0.0.1:8080
             websecure 127.0.0.1:8443 TLS
             h3 :443 TLS, HTTP/3
             pg :5432 TCP
             rediss :6380 TLS, TCP
             names :9443 TLS, passed on
             dns :53 UDP
connections  0 open, 0 idle, 0 tunnels

UPSTREAM  ENDPOINT     STATE                 ACTIVE  DONE  LAST ERROR
half      10.0.0.1:80  usable                0       7     
          10.0.0.2:80  unhealthy             0       0     refused
          10.0.0.3:80  ejected, back in 30s  0       0     reset, 5s ago
none      none                                             

CERTIFICATE  STATE     DAYS LEFT  FROM  NEXT ORDER  HOSTS
files        ok        60         file  -           a.test
gone         expired   -3         file  -           
late         expiring  5          file  -           
new          missing   -          acme  now         a, b, c and 2 more
shop         failing   9          acme  in 45m      shop.test

Wrong:
  config: the newest one was refused 60s ago, an older one serves: in.yaml:1:1: x
    in.yaml:2:1: y
  route api: answers 503: no file
  upstream half: so few endpoints can be used that all of them get requests
  upstream none: has no endpoints
  certificate gone: expired 3d ago
  certificate late: expires in 5d
  certificate new: there is none yet
  certificate shop: a newer one cannot be had: 429 ?[2J too many (next try in 45m)
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestStatusOfSources(t *testing.T) {
	now := time.Now()
	one := []upstream.EndpointStatus{{Address: "a:1", Usable: true}}
	s := &status{Config: control.Status{Digest: "x", Loaded: now}, Upstreams: map[string]upstream.Status{
		"disk":  {Endpoints: one, Source: &upstream.SourceStatus{Kind: "consul", Target: "users", Answered: now.Add(-3 * time.Hour), FromDisk: true, Error: "refused\nagain", Failures: 7, Endpoints: 1}},
		"fine":  {Endpoints: one, Source: &upstream.SourceStatus{Kind: "dns", Target: "users:80", Answered: now.Add(-time.Minute), Endpoints: 1, Note: "one \x1b left out"}},
		"fixed": {Endpoints: one},
		"never": {Source: &upstream.SourceStatus{Kind: "file", Target: "users.yaml", Error: "no such file", Failures: 1}},
		"old":   {Endpoints: one, Source: &upstream.SourceStatus{Kind: "kubernetes", Target: "shop/users", Answered: now.Add(-time.Hour), Error: "answered 500", Failures: 2, Endpoints: 1}},
	}}
	var out bytes.Buffer
	s.printSources(&out, now)
	const want = `
UPSTREAM  FOUND BY               ENDPOINTS  CONFIRMED          FAILURES  LAST ERROR
disk      consul users           1          from disk, 3h old  7         refused; again
fine      dns users:80           1          60s ago            0         one ? left out
never     file users.yaml        0          never              1         no such file
old       kubernetes shop/users  1          60m ago            2         answered 500
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	wrong := []string{
		"upstream disk: the list of endpoints is from disk, 3h old: consul users: refused\n    again",
		"upstream never: there is no list of endpoints: file users.yaml: no such file",
		"upstream never: has no endpoints",
		"upstream old: the list of endpoints is 60m old: kubernetes shop/users: answered 500",
	}
	if got := s.wrong(now); !slices.Equal(got, wrong) {
		t.Errorf("got %q", got)
	}
}

func TestStatusOfAHealthyNode(t *testing.T) {
	now := time.Now()
	s := &status{Config: control.Status{Digest: "x", Loaded: now}, Upstreams: map[string]upstream.Status{
		"app": {Endpoints: []upstream.EndpointStatus{{Address: "a", Usable: true, Health: "healthy"}, {Address: "b", Health: "unhealthy"}}},
	}}
	var out bytes.Buffer
	if wrong := s.wrong(now); wrong != nil {
		t.Errorf("%q", wrong)
	}
	s.print(&out, nil, now)
	if !strings.HasSuffix(out.String(), "\nAll is well.\n") {
		t.Error(out.String())
	}
}

func TestWhatIsWrongWithRevisions(t *testing.T) {
	now := time.Now()
	for want, f := range map[string]fleet.Status{
		"revision 3: refused 5s ago, revision 2 serves: no":                          {Revision: 2, Refused: 3, Error: "no", ErrorAt: now.Add(-5 * time.Second)},
		"revision 1: refused 5s ago, nothing serves: no":                             {Refused: 1, Error: "no", ErrorAt: now.Add(-5 * time.Second)},
		"revision: which is the newest cannot be read, revision 2 serves: malformed": {Revision: 2, Error: "malformed", ErrorAt: now},
	} {
		f.Store.Up = true
		s := status{Fleet: &f, Alerts: []fleet.Alert{{Node: "b", Kind: "silent", Since: now.Add(-3 * time.Minute), Text: "fell silent"}}}
		got := strings.Join(s.wrong(now), "\n")
		if !strings.Contains(got, want+"\n") || !strings.Contains(got, "node b: fell silent, 3m ago") {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}
