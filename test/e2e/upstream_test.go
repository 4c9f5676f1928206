package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// asUpstream in the environment makes the test binary an upstream instead:
// "NAME ADDRESS".
const asUpstream = "GATEHOUSE_E2E_UPSTREAM"

// serveUpstream answers every request with its name until it is killed.
func serveUpstream(what string) {
	name, addr, _ := strings.Cut(what, " ")
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(2 * time.Millisecond) // so that there is something in flight to kill
		fmt.Fprint(w, name)
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(addr, h))
}

// process is an upstream in a process of its own: it can be killed.
type process struct {
	t          *testing.T
	name, addr string
	cmd        *exec.Cmd
}

func startProcess(t *testing.T, name string) *process {
	p := &process{t: t, name: name, addr: freeAddress(t)}
	p.start()
	t.Cleanup(p.kill)
	return p
}

// start returns once it answers.
func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), asUpstream+"="+p.name+" "+p.addr)
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	until(p.t, "the upstream "+p.name+" answers", func() error {
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// kill is kill -9: what is in flight is reset.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // killing it again at the end of the test fails
	_ = p.cmd.Wait()         // "signal: killed"
}

// until is gatehouse.eventually without a gatehouse.
func until(t testing.TB, what string, ok func() error) {
	t.Helper()
	if err := awaited(ok, nil); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// switched is an upstream that can be made to answer with any status, on
// /healthz and on everything else.
type switched struct {
	name, addr     string
	health, status atomic.Int64
	served         atomic.Int64 // other than /healthz
}

func startSwitched(t *testing.T, name string) *switched {
	s := &switched{name: name}
	s.health.Store(200)
	s.status.Store(200)
	s.addr = upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			w.WriteHeader(int(s.health.Load()))
			return
		}
		s.served.Add(1)
		w.WriteHeader(int(s.status.Load()))
		fmt.Fprint(w, s.name)
	})
	return s
}

// flapping is an upstream whose socket comes and goes.
type flapping struct {
	addr string
	h    http.Handler
	mu   sync.Mutex // guards s
	s    *httptest.Server
}

func (f *flapping) up() error {
	l, err := net.Listen("tcp", f.addr)
	if err != nil {
		return err
	}
	s := httptest.NewUnstartedServer(f.h)
	s.Listener.Close()
	s.Listener = l
	f.addr = l.Addr().String()
	s.Start()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.s = s
	return nil
}

// down cuts everything, requests in flight included.
func (f *flapping) down() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.s == nil {
		return
	}
	f.s.Listener.Close()
	f.s.CloseClientConnections()
	f.s.Close()
	f.s = nil
}

// names asks n times and counts who answered.
func (g *gatehouse) names(n int) map[string]int {
	g.t.Helper()
	count := map[string]int{}
	for range n {
		r := g.get("/")
		if r.StatusCode != 200 {
			count[r.Status]++
			continue
		}
		count[r.body]++
	}
	return count
}

// series is a series of an upstream's endpoint.
func series(metric, upstream, endpoint string) string {
	return fmt.Sprintf(`%s{endpoint=%q,upstream=%q}`, metric, endpoint, upstream)
}

// health is what /readyz says of an endpoint's probes.
func (g *gatehouse) health(upstream, endpoint string) string {
	g.t.Helper()
	resp, err := http.Get("http://" + g.admin + "/readyz")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct {
		Detail struct {
			Upstreams map[string]struct {
				Endpoints []struct{ Address, Health string }
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		g.t.Fatal(err)
	}
	for _, e := range body.Detail.Upstreams[upstream].Endpoints {
		if e.Address == endpoint {
			return e.Health
		}
	}
	return "not there"
}
