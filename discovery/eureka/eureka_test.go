package eureka

import (
	"fmt"
	"net/http"
	"net/http/httptest"
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

// server answers /apps and /apps/delta with what it is given.
type server struct {
	mu         sync.Mutex // guards what follows
	all, delta string     // "": status 500
	asked      []string
}

func newServer(t *testing.T) (*server, string) {
	s := &server{}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, h.URL + "/eureka/"
}

func (s *server) set(all, delta string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all, s.delta = all, delta
}

// took gives what was asked since the last call.
func (s *server) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.asked
	s.asked = nil
	return out
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	user, password, _ := r.BasicAuth()
	s.asked = append(s.asked, r.URL.Path+" "+user+":"+password)
	body := s.all
	if strings.HasSuffix(r.URL.Path, "/delta") {
		body = s.delta
	}
	s.mu.Unlock()
	switch body {
	case "":
		w.WriteHeader(http.StatusInternalServerError)
	case "forbidden":
		w.WriteHeader(http.StatusForbidden)
	default:
		fmt.Fprint(w, body)
	}
}

func registered(hash string, apps ...string) string {
	return fmt.Sprintf(`{"applications":{"versions__delta":"1","apps__hashcode":%q,"application":[%s]}}`, hash, strings.Join(apps, ","))
}

func app(name string, instances ...string) string {
	return fmt.Sprintf(`{"name":%q,"instance":[%s]}`, name, strings.Join(instances, ","))
}

func one(id, address, status, action string) string {
	return fmt.Sprintf(`{"instanceId":%q,"hostName":"h-%[1]s","app":"USERS","ipAddr":%q,"status":%q,"overriddenStatus":"UNKNOWN","actionType":%q,
		"port":{"$":8080,"@enabled":"true"},"securePort":{"$":8443,"@enabled":"false"},"dataCenterInfo":{"@class":"c","name":"MyOwn"},"metadata":{"zone":"z1"}}`,
		id, address, status, action)
}

func source(t *testing.T, url string, change func(*Settings)) *Source {
	t.Helper()
	s := Settings{Client: remote.Settings{Servers: []string{url}}, App: "users", ZoneMeta: "zone", Refresh: 20 * time.Millisecond}
	if change != nil {
		change(&s)
	}
	e, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestChangesAreFollowed(t *testing.T) {
	t.Parallel()
	s, url := newServer(t)
	s.set(registered("DOWN_1_UP_2_", app("USERS", one("a", "10.0.0.1", "UP", "ADDED"), one("b", "10.0.0.2", "DOWN", "ADDED")), app("ORDERS", one("c", "10.0.0.3", "UP", "ADDED"))),
		registered("DOWN_1_UP_2_"))
	r := discoverytest.Start(t, source(t, url, func(s *Settings) { s.Username, s.Password = "us", "pa" }))
	r.List("10.0.0.1:8080@z1")
	before := r.Reports()
	r.Until("confirmations", func() bool { return r.Reports() > before+3 })
	s.set("", registered("UP_4_", app("USERS", one("b", "10.0.0.2", "UP", "MODIFIED"), one("d", "10.0.0.4", "UP", "ADDED"))))
	r.List("10.0.0.1:8080@z1 10.0.0.2:8080@z1 10.0.0.4:8080@z1")
	s.set("", registered("UP_2_", app("USERS", one("a", "10.0.0.1", "UP", "DELETED"), one("d", "10.0.0.4", "UP", "DELETED"))))
	r.List("10.0.0.2:8080@z1")
	if err := r.Last().Err; err != nil {
		t.Errorf("the same changes again are an error: %v", err)
	}
	asked := s.took()
	if asked[0] != "/eureka/apps us:pa" || asked[1] != "/eureka/apps/delta us:pa" {
		t.Errorf("asked %s", asked[:2])
	}
	for _, a := range asked[1:] {
		if !strings.Contains(a, "delta") {
			t.Errorf("asked %s again", a)
		}
	}
}

// Changes that were missed show in the hash code.
func TestMissedChanges(t *testing.T) {
	t.Parallel()
	s, url := newServer(t)
	s.set(registered("UP_1_", app("USERS", one("a", "10.0.0.1", "UP", "ADDED"))), registered("UP_1_"))
	r := discoverytest.Start(t, source(t, url, nil))
	r.List("10.0.0.1:8080@z1")
	s.set(registered("UP_2_", app("USERS", one("a", "10.0.0.1", "UP", "ADDED"), one("b", "10.0.0.2", "UP", "ADDED"))), registered("UP_2_"))
	r.List("10.0.0.1:8080@z1 10.0.0.2:8080@z1")
}

// A server that goes on adding instances, with a hash code that is right, does
// not fill the memory: the whole is asked for again, which is bounded.
func TestChangesWithoutEnd(t *testing.T) {
	all := &applications{hash: "UP_1_", apps: []application{{Name: "OTHER", Instances: []instance{{ID: "a", Status: "UP"}}}}}
	r := newRegistry(all, "USERS")
	many := make([]instance, maxInstances-1)
	for i := range many {
		many[i] = instance{ID: fmt.Sprint(i), Status: "UP"}
	}
	apply := func(hash string, list ...instance) bool {
		_, whole := r.apply(&applications{hash: hash, apps: []application{{Name: "OTHER", Instances: list}}}, "USERS")
		return whole
	}
	if !apply(fmt.Sprintf("UP_%d_", maxInstances), many...) {
		t.Error("as many as may be are not followed")
	}
	if apply(fmt.Sprintf("UP_%d_", maxInstances+1), instance{ID: "one more", Status: "UP"}) {
		t.Error("more than may be are followed")
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	s, url := newServer(t)
	r := discoverytest.Start(t, source(t, url, nil))
	r.Fails("answered 500")
	s.set(registered("UP_1_", app("USERS", one("a", "10.0.0.1", "UP", "ADDED"))), "forbidden")
	r.List("10.0.0.1:8080@z1") // and without changes the whole is asked for
	s.set(registered("UP_1_", app("USERS", one("b", "10.0.0.2", "UP", "ADDED"))), "forbidden")
	r.List("10.0.0.2:8080@z1")
	s.set(`{"applications":`, "forbidden")
	r.Fails("cannot be read: unexpected EOF")
	s.set(`{}`, "forbidden")
	r.Fails("the answer has no applications")
	s.set(registered("", app("ORDERS", one("b", "10.0.0.2", "UP", "ADDED"))), registered(""))
	r.List("")
}

func TestParse(t *testing.T) {
	f := func(s Settings, in, want string) {
		t.Helper()
		s.App = "USERS"
		report := upstream.Report{}
		all, err := parse(strings.NewReader(in))
		if report.Err = err; err == nil {
			report.Endpoints, report.Note = newRegistry(all, s.App).endpoints(&s)
		}
		if got := discoverytest.Text(report); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", in, got, want)
		}
	}
	users := func(fields string) string {
		return registered("", app("Users", `{"hostName":"h1","ipAddr":"10.0.0.1","status":"UP",`+fields+`}`))
	}
	f(Settings{}, users(`"port":{"$":"8080","@enabled":true}`), "10.0.0.1:8080")
	f(Settings{Hostname: true}, users(`"port":{"$":8080}`), "h1:8080")
	f(Settings{Secure: true}, users(`"port":{"$":1,"@enabled":"true"},"securePort":{"$":8443,"@enabled":"true"}`), "10.0.0.1:8443")
	f(Settings{Secure: true}, users(`"securePort":{"$":8443,"@enabled":"false"}`), "note: 1 instances that are up have no address or no secure port enabled")
	f(Settings{}, users(`"port":{"$":[],"@enabled":"true"}`), "note: 1 instances that are up have no address or no port enabled")
	f(Settings{ZoneMeta: "az"}, users(`"port":{"$":80},"metadata":{"az":"z","@class":"x","n":7}`), "10.0.0.1:80@z")
	f(Settings{ZoneMeta: "az"}, users(`"port":{"$":80},"dataCenterInfo":{"metadata":{"availability-zone":"us-1a"}}`), "10.0.0.1:80@us-1a")
	f(Settings{}, `{"applications":{"application":{"name":"USERS","instance":{"hostName":"h","status":"UP","port":{"$":1}}}}}`, "h:1")
	f(Settings{}, `{"applications":{}}`, "")
	f(Settings{}, `[]`, "error: the answer cannot be read: it is an array")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(registered("UP_1_", app("USERS", one("a", "10.0.0.1", "UP", "ADDED")))))
	f.Add([]byte(`{"applications":{"application":{"instance":{"port":{"$":null}}}}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		all, err := parse(strings.NewReader(string(in)))
		if err != nil {
			return
		}
		r := newRegistry(all, "USERS")
		if changed, _ := r.apply(all, "USERS"); !changed && len(r.ours) > 0 {
			t.Error("our instances are no change")
		}
		r.endpoints(&Settings{})
	})
}
