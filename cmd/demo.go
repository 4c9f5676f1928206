package cmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
)

type demoCommand struct {
	Address string `default:"127.0.0.1:8080" help:"Address of the gateway; another port is taken if it is busy."`
	Admin   string `default:"127.0.0.1:9901" help:"Address of the admin server, likewise."`
}

const demoConfig = `# Written by gatehouse demo. Change it while the demo runs: it is live at once.
node:
  name: demo
  data_dir: DIR/data
  admin: { address: "ADMIN" }
  access_log: { path: DIR/access.log }
  drain: { timeout: 2s }

listeners:
  web: { address: "GATEWAY" }

upstreams:
  hello:
    endpoints: ["FIRST", "SECOND"]
    load_balancer: { algorithm: round_robin }
    health_check: { path: /healthz, interval: 1s, timeout: 500ms, healthy: 1, unhealthy: 2 }

consumers:
  alice: # her key is demo-key
    api_keys: ["sha256:c48a01f49fd0f2cc404bc3cbbc80e91457a3d41bb429a695243de4c61794155c"]

plugins:
  - request_id: {}

routes:
  everything:
    match: { path: / }
    plugins:
      - waf: {}
    backends: [{ upstream: hello }]
  limited:
    match: { path: /limited }
    plugins:
      - rate_limit: { limit: 3, per: 10s, key: client_ip }
    backends: [{ upstream: hello }]
  private:
    match: { path: /private }
    plugins:
      - api_key: {}
    backends: [{ upstream: hello }]
`

const demoText = `
Gatehouse runs at http://GATEWAY, in front of two sample services:
  a at http://FIRST   b at http://SECOND
Config: DIR/gatehouse.yaml (live: edit it)   Access log: DIR/access.log
Admin:  http://ADMIN/readyz  http://ADMIN/metrics

Try, in another terminal:
  1. A call, answered by a and b in turn:
     curl -i http://GATEWAY/hello
  2. An SQL injection, blocked by the firewall (403):
     curl -i "http://GATEWAY/search?q=1%27%20OR%20%271%27=%271%20--%20"
  3. A rate limit of 3 in 10 s (429 from the fourth on):
     for i in 1 2 3 4 5; do curl -s -o /dev/null -w '%{http_code}\n' http://GATEWAY/limited; done
  4. No credentials (401), then with a key (200):
     curl -i http://GATEWAY/private
     curl -i -H 'X-API-Key: demo-key' http://GATEWAY/private
  5. Failover: stop a, and calls go on without an error:
     curl -X POST http://FIRST/stop
     for i in 1 2 3 4; do curl -s http://GATEWAY/hello; done
     curl -X POST http://FIRST/start

Ctrl-C ends it.
`

type demoValues struct{ Dir, Gateway, Admin, A, B string }

// in fills in the words in capitals.
func (v demoValues) in(text string) string {
	return strings.NewReplacer("DIR", v.Dir, "GATEWAY", v.Gateway, "ADMIN", v.Admin, "FIRST", v.A, "SECOND", v.B).Replace(text)
}

// Run starts everything on loopback and waits for the end.
func (d *demoCommand) Run(env *environment) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	dir, err := os.MkdirTemp("", "gatehouse-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	a, err := startSample("a")
	if err != nil {
		return err
	}
	defer a.close()
	b, err := startSample("b")
	if err != nil {
		return err
	}
	defer b.close()
	v := demoValues{Dir: dir, A: a.addr(), B: b.addr()}
	n, err := d.start(env, &v)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprint(env.out, v.in(demoText)); err != nil {
		return errors.Join(err, n.close(context.Background()))
	}
	<-signals
	return n.stop(context.Background())
}

// start finds addresses and starts the gateway. Between the two somebody else may
// take a port that was free.
func (d *demoCommand) start(env *environment, v *demoValues) (n *node, err error) {
	for range 5 {
		if v.Gateway, err = freeAddress(d.Address); err != nil {
			return nil, err
		}
		if v.Admin, err = freeAddress(d.Admin); err != nil {
			return nil, err
		}
		if n, err = startDemo(env, *v); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return n, err
}

func startDemo(env *environment, v demoValues) (*node, error) {
	path := filepath.Join(v.Dir, "gatehouse.yaml")
	if err := os.WriteFile(path, []byte(v.in(demoConfig)), 0o600); err != nil {
		return nil, err
	}
	load := func() (*config.Config, *config.Source, error) { return loadConfig([]string{path}, env.plugins) }
	cfg, src, err := load()
	if err != nil {
		return nil, err
	}
	return newNode(context.Background(), nodeSettings{
		version: env.version, plugins: env.plugins,
		config: cfg, source: src, load: load, watch: []string{path}, log: env.err,
	})
}

// freeAddress is address, or the same host with a free port if it is taken.
func freeAddress(address string) (string, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		if !errors.Is(err, syscall.EADDRINUSE) {
			return "", &usageError{fmt.Errorf("gatehouse: %w", err)}
		}
		host, _, _ := net.SplitHostPort(address) // Listen has understood it
		if l, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
			return "", err
		}
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// sample is a small service that can be stopped and started.
type sample struct {
	name     string
	listener net.Listener
	server   *http.Server
	down     atomic.Bool
}

func startSample(name string) (*sample, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sample{name: name, listener: l}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) { s.down.Store(true); fmt.Fprintln(w, name, "plays dead") })
	mux.HandleFunc("POST /start", func(w http.ResponseWriter, _ *http.Request) { s.down.Store(false); fmt.Fprintln(w, name, "is back") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			panic(http.ErrAbortHandler) // ends the connection, as a killed process would
		}
		fmt.Fprintf(w, "hello from %s: %s %s\n", name, r.Method, r.URL.Path)
	})
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go s.server.Serve(l) //nolint:errcheck // it ends with ErrServerClosed, on close
	return s, nil
}

func (s *sample) addr() string { return s.listener.Addr().String() }

func (s *sample) close() { _ = s.server.Close() }
