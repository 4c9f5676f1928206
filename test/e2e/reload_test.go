package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const oneRoute = `upstreams: { app: { endpoints: ["%s"] } }
routes:
  all: { match: { path: / }, backends: [{ upstream: app }] }
  version: { match: { path: { exact: /version } }, respond: { body: "%d" } }
`

func TestReloadUnderLoadLosesNothing(t *testing.T) {
	app := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws":
			echo(w, r)
		case "/download":
			slowDownload(w)
		default:
			fmt.Fprint(w, "ok")
		}
	})
	g := start(t, fmt.Sprintf(oneRoute, app, 0))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	ws, _, err := websocket.Dial(ctx, "ws://"+g.web+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	download, err := http.Get("http://" + g.web + "/download")
	if err != nil {
		t.Fatal(err)
	}
	defer download.Body.Close()

	load := busy(g, 16)
	for i := 1; i <= 100; i++ {
		g.write(fmt.Sprintf(oneRoute, app, i))
		if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Millisecond) // spreads the reloads over the load; nothing is decided by it
	}
	g.eventually("the last config is live", func() error {
		if b := g.get("/version").body; b != "100" {
			return fmt.Errorf("version %s", b)
		}
		return nil
	})
	requests, failed, first := load.stop()
	if failed > 0 || requests == 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, requests, first)
	}
	if err := ws.Write(ctx, websocket.MessageText, []byte("still here?")); err != nil {
		t.Fatalf("the WebSocket did not survive: %v", err)
	}
	if _, b, err := ws.Read(ctx); err != nil || string(b) != "still here?" {
		t.Fatalf("the WebSocket did not survive: %q, %v", b, err)
	}
	n, err := io.Copy(io.Discard, download.Body)
	if err != nil || n != downloadSize {
		t.Errorf("the download did not survive: %d bytes, %v", n, err)
	}
}

const downloadSize = 64 * 1024

// slowDownload takes about three seconds.
func slowDownload(w http.ResponseWriter) {
	chunk := make([]byte, 1024)
	w.Header().Set("Content-Length", fmt.Sprint(downloadSize))
	for range downloadSize / len(chunk) {
		if _, err := w.Write(chunk); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		time.Sleep(50 * time.Millisecond)
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), kind, b); err != nil {
			return
		}
	}
}

// loader keeps connections busy until it is stopped.
type loader struct {
	end              chan struct{}
	wg               sync.WaitGroup
	requests, failed atomic.Int64
	first            atomic.Pointer[error]
}

func busy(g *gatehouse, connections int) *loader {
	l := &loader{end: make(chan struct{})}
	for range connections {
		l.wg.Go(func() {
			c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: time.Minute}
			defer c.CloseIdleConnections()
			for {
				select {
				case <-l.end:
					return
				default:
				}
				l.requests.Add(1)
				if err := once(c, g.web); err != nil {
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	return l
}

func once(c *http.Client, web string) error {
	resp, err := c.Get("http://" + web + "/load")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != 200 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

func (l *loader) stop() (requests, failed int64, first error) {
	close(l.end)
	l.wg.Wait()
	if p := l.first.Load(); p != nil {
		first = *p
	}
	return l.requests.Load(), l.failed.Load(), first
}

func TestBadConfigChangesNothing(t *testing.T) {
	g := start(t, fmt.Sprintf(oneRoute, freeAddress(t), 1))
	before := g.status()["digest"]
	for name, bad := range map[string]string{
		"not yaml":         "routes: [",
		"unknown key":      fmt.Sprintf(oneRoute, "127.0.0.1:1", 2) + "  extra: { mtach: {} }\n",
		"unknown upstream": "routes: { all: { match: { path: / }, backends: [{ upstream: nope }] } }\n",
		"missing key file": fmt.Sprintf(oneRoute, "127.0.0.1:1", 2) + "  p: { match: { path: /p }, plugins: [{ jwt: { issuer: i, algorithms: [RS256], jwks_file: /does/not/exist.json } }], respond: { body: x } }\n",
	} {
		failures := g.status()["failures"].(float64)
		g.write(bad)
		g.eventually(name+" is refused", func() error {
			s := g.status()
			if s["failures"].(float64) <= failures || s["error"] == nil {
				return fmt.Errorf("status %v", s)
			}
			return nil
		})
		s := g.status()
		if s["digest"] != before {
			t.Errorf("%s: the running config changed", name)
		}
		if text := s["error"].(string); !strings.Contains(text, g.config+":") {
			t.Errorf("%s: the error does not name the place: %s", name, text)
		}
		if b := g.get("/version").body; b != "1" {
			t.Errorf("%s: version %q is served", name, b)
		}
		if g.metric("gatehouse_config_last_reload_successful") != 0 {
			t.Errorf("%s: the metric says that the reload succeeded", name)
		}
	}
	g.logHas("the running one stays")
	g.reload(fmt.Sprintf(oneRoute, "127.0.0.1:1", 3))
	if s := g.status(); s["error"] != nil {
		t.Errorf("the error is still shown after a good config: %v", s["error"])
	}
}

func TestBusyPortIsAnErrorBeforeAnythingChanges(t *testing.T) {
	taken := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	g := start(t, fmt.Sprintf(oneRoute, taken, 1))
	text := strings.Replace(g.text(fmt.Sprintf(oneRoute, taken, 2)), "listeners:\n", fmt.Sprintf("listeners:\n  second: { address: %q }\n", taken), 1)
	g.writeRaw(text)
	g.eventually("the config is refused", func() error {
		if s := g.status(); s["error"] == nil || !strings.Contains(s["error"].(string), "listeners.second.address") {
			return fmt.Errorf("status %v", s)
		}
		return nil
	})
	if b := g.get("/version").body; b != "1" {
		t.Errorf("version %q is served", b)
	}
}

func TestListenersComeAndGo(t *testing.T) {
	g := start(t, fmt.Sprintf(oneRoute, "127.0.0.1:1", 1))
	second := freeAddress(t)
	g.writeRaw(strings.Replace(g.text(fmt.Sprintf(oneRoute, "127.0.0.1:1", 2)), "listeners:\n", fmt.Sprintf("listeners:\n  second: { address: %q }\n", second), 1))
	g.eventually("the second listener answers", func() error {
		resp, err := client.Get("http://" + second + "/version")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	g.reload(fmt.Sprintf(oneRoute, "127.0.0.1:1", 3))
	g.eventually("the second listener is closed", func() error {
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + second + "/version")
		if err == nil {
			resp.Body.Close()
			return fmt.Errorf("it answers %d", resp.StatusCode)
		}
		return nil
	})
	if b := g.get("/version").body; b != "3" {
		t.Errorf("version %q", b)
	}
}

// A tunnel keeps the revision it came by for as long as it lives, but not the
// idle connections of an upstream that has gone from the config.
func TestATunnelKeepsNoIdleConnections(t *testing.T) {
	var open atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			echo(w, r)
		}
	}))
	s.Config.ConnState = func(_ net.Conn, now http.ConnState) {
		switch now {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		}
	}
	s.Start()
	defer s.Close()
	const patient = `upstreams: { %s: { endpoints: ["%s"], connection: { idle: 1h } } }
routes: { all: { match: { path: / }, backends: [{ upstream: %[1]s }] } }
`
	g := start(t, fmt.Sprintf(patient, "app", s.Listener.Addr()))
	g.get("/")
	ws, _, err := websocket.Dial(t.Context(), "ws://"+g.web+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	g.get("/")
	if open.Load() == 0 {
		t.Fatal("no connection was kept")
	}
	g.reload(fmt.Sprintf(patient, "other", "127.0.0.1:1"))
	g.eventually("the idle connections are closed", func() error {
		if n := open.Load(); n != 0 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
	if err := ws.Write(t.Context(), websocket.MessageText, []byte("still here?")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := ws.Read(t.Context()); err != nil || string(b) != "still here?" {
		t.Fatalf("the tunnel did not survive: %q, %v", b, err)
	}
}

func TestStopFinishesWhatIsInFlight(t *testing.T) {
	release := make(chan struct{})
	app := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			echo(w, r)
			return
		}
		<-release
		fmt.Fprint(w, "finished")
	})
	g := start(t, fmt.Sprintf(oneRoute, app, 1))
	ws, _, err := websocket.Dial(t.Context(), "ws://"+g.web+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	type answer struct {
		body  string
		close bool
		err   error
	}
	got := make(chan answer, 1)
	go func() {
		resp, err := http.Get("http://" + g.web + "/slow")
		if err != nil {
			got <- answer{err: err}
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		got <- answer{string(b), resp.Close, err}
	}()
	g.eventually("the request is in flight", func() error {
		if n := g.metric("gatehouse_route_requests_in_flight"); n < 2 {
			return fmt.Errorf("%v in flight", n)
		}
		return nil
	})
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.eventually("the node is not ready", func() error {
		resp, err := http.Get("http://" + g.admin + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 503 {
			return fmt.Errorf("readyz says %d", resp.StatusCode)
		}
		return nil
	})
	close(release)
	if a := <-got; a.err != nil || a.body != "finished" || !a.close {
		t.Errorf("the request in flight: %+v", a)
	}
	_ = ws.CloseNow()
	if err := <-g.exited; err != nil {
		t.Errorf("the node ended with %v", err)
	}
	if _, err := os.Stat(g.access); err != nil {
		t.Error(err)
	}
}
