package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/admin"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket/sockettest"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// node is an admin server with what it shows.
type node struct {
	*admin.Server
	t     *testing.T
	dir   string
	ready error
}

func start(t *testing.T, edit ...func(*admin.Settings)) *node {
	t.Helper()
	n := &node{t: t, dir: filepath.Join(t.TempDir(), "data")}
	s := admin.Settings{
		Address: "127.0.0.1:0", DataDir: n.dir,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "gatehouse_up 1") }),
		Ready:   func() error { return n.ready },
		Detail:  func() any { return map[string]string{"digest": "abc"} },
	}
	for _, f := range edit {
		f(&s)
	}
	var err error
	if n.Server, err = admin.New(s); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func (n *node) token() string {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.dir, "admin.token"))
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (n *node) do(method, path, authorization string) (status int, body string, h http.Header) {
	n.t.Helper()
	q, err := http.NewRequest(method, "http://"+n.Addr().String()+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	if authorization != "" {
		q.Header.Set("Authorization", authorization)
	}
	r, err := client.Do(q)
	if err != nil {
		n.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return r.StatusCode, string(b), r.Header
}

func TestTheTokenFileIsTheOwnersAlone(t *testing.T) {
	n := start(t)
	st, err := os.Stat(filepath.Join(n.dir, "admin.token"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if st, err = os.Stat(n.dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("folder: mode %v, %v", st.Mode(), err)
	}
	first := n.token()
	if len(first) < 32 {
		t.Errorf("a token of %d characters", len(first))
	}
	again, err := admin.New(admin.Settings{DataDir: n.dir, Metrics: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	if n.token() != first {
		t.Error("a restart made another token")
	}
	if err := again.Close(); err != nil {
		t.Errorf("closing what was never started: %v", err)
	}
	if other := start(t); other.token() == first {
		t.Error("two nodes have one token")
	}
}

func TestTokenFilesThatCannotBeUsed(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(dir string) error
		want    string
	}{
		"too short": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "admin.token"), []byte("secret\n"), 0o600)
		}, "32 characters"},
		"empty":    {func(dir string) error { return os.WriteFile(filepath.Join(dir, "admin.token"), nil, 0o600) }, "32 characters"},
		"a pipe":   {func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "admin.token"), 0o600) }, "is not a regular file"},
		"a folder": {func(dir string) error { return os.Mkdir(filepath.Join(dir, "admin.token"), 0o700) }, "reading the admin token"},
		"data_dir is a file": {func(dir string) error {
			if err := os.Remove(dir); err != nil {
				return err
			}
			return os.WriteFile(dir, nil, 0o600)
		}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.prepare(dir); err != nil {
				t.Fatal(err)
			}
			_, err := admin.New(admin.Settings{DataDir: dir, Metrics: http.NotFoundHandler()})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "node.data_dir") || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q and the key", err, c.want)
			}
		})
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "admin.token"), []byte("  "+strings.Repeat("k", 32)+"\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, func(s *admin.Settings) { s.DataDir = dir })
	if code, _, _ := n.do("GET", "/api/v1/status", "Bearer "+strings.Repeat("k", 32)); code != 200 {
		t.Errorf("a token of one's own: %d", code)
	}
}

func TestWhatAsksForTheToken(t *testing.T) {
	n := start(t, func(s *admin.Settings) { s.Pprof = true })
	token := n.token()
	for _, path := range []string{"/api/v1/status", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/profile?seconds=1", "/debug/pprof/trace?seconds=1"} {
		for _, wrong := range []string{"", "Bearer", "Bearer ", "Bearer " + token[:47], "Bearer " + token + "x", "bearer " + token, "Basic " + token, token} {
			code, body, h := n.do("GET", path, wrong)
			if code != 401 || !strings.HasPrefix(h.Get("WWW-Authenticate"), "Bearer ") || strings.Contains(body, token) {
				t.Errorf("%s with %q: got %d", path, wrong, code)
			}
		}
		if strings.Contains(path, "seconds") {
			continue // it takes as long as it says
		}
		if code, body, _ := n.do("GET", path, "Bearer "+token); code != 200 || body == "" {
			t.Errorf("%s: got %d %q", path, code, body)
		}
	}
	for path, want := range map[string]string{"/healthz": "ok\n", "/metrics": "gatehouse_up 1\n"} {
		if code, body, _ := n.do("GET", path, ""); code != 200 || body != want {
			t.Errorf("%s: got %d %q", path, code, body)
		}
	}
	for _, path := range []string{"/", "/api/v1/", "/api/v1/status/", "/healthz/x"} {
		if code, _, _ := n.do("GET", path, "Bearer "+token); code != 404 {
			t.Errorf("%s: got %d", path, code)
		}
	}
	if code, _, _ := n.do("POST", "/api/v1/status", "Bearer "+token); code != 405 {
		t.Errorf("POST: got %d", code)
	}
}

func TestProfilesAreOffUnlessAskedFor(t *testing.T) {
	n := start(t)
	if code, _, _ := n.do("GET", "/debug/pprof/", "Bearer "+n.token()); code != 404 {
		t.Errorf("got %d", code)
	}
}

func TestReadiness(t *testing.T) {
	n := start(t)
	check := func(code int, ready bool, reason string) {
		t.Helper()
		got, body, h := n.do("GET", "/readyz", "")
		var v struct {
			Ready  bool
			Reason string
			Detail map[string]string
		}
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if got != code || v.Ready != ready || v.Reason != reason || v.Detail["digest"] != "abc" {
			t.Errorf("got %d %s", got, body)
		}
		if h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", h)
		}
	}
	n.ready = errors.New("no config is live yet")
	check(503, false, "no config is live yet")
	n.ready = nil
	check(200, true, "")
	n.Drain()
	check(503, false, "draining")
	if code, _, _ := n.do("GET", "/healthz", ""); code != 200 {
		t.Errorf("a draining node is alive; got %d", code)
	}
}

func TestAnAddressThatIsTaken(t *testing.T) {
	n := start(t)
	other, err := admin.New(admin.Settings{Address: n.Addr().String(), DataDir: t.TempDir(), Metrics: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(context.Background()); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), n.Addr().String()) {
		t.Errorf("got %v", err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	n := start(t, func(s *admin.Settings) { s.Address = sockettest.Reserve(t) }) // which nobody else gets when it is closed
	c, err := net.Dial("tcp", n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := io.ReadAll(c); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", n.Addr().String()); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}
