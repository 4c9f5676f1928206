package cmd

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWhatIsWrongWithANode is said in the same words by all commands that ask
// one: what failed, where, and what to do.
func TestWhatIsWrongWithANode(t *testing.T) {
	answers := func(status int, mediaType, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	older := answers(404, "text/plain", "404 page not found")
	page := answers(200, "text/html", "<html>")
	proxy := answers(502, "text/html", "<html>")
	other := answers(401, "application/json", "{}")
	empty, none := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(empty, "admin.token"), []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := file(t, good)
	for _, command := range [][]string{
		{"status"},
		{"plan", "-c", cfg},
		{"apply", "-c", cfg, "-m", "x"},
		{"rollback", "1", "-m", "x"},
		{"history"},
		{"show", "1"},
		{"diff", "1", "2"},
		{"services"},
		{"services", "register", "a", "10.0.0.1:80"},
		{"services", "deregister", "a", "b"},
		{"services", "drain", "a", "b"},
		{"services", "status", "a", "b", "up"},
		{"quotas"},
		{"quotas", "reset", "ann"},
	} {
		for _, c := range []struct {
			args []string
			code int
			want []string
		}{
			{[]string{"--server", "127.0.0.1:1", "--token", "x"}, 1, []string{"the node cannot be reached at http://127.0.0.1:1: ", whichNode}},
			{[]string{"--server", older, "--token", "x"}, 1, []string{older, "404 Not Found", "older version", whichNode}},
			{[]string{"--server", page, "--token", "x"}, 1, []string{page, "not understood", whichNode}},
			{[]string{"--server", proxy, "--token", "x"}, 1, []string{proxy, "502 Bad Gateway", whichNode}},
			{[]string{"--server", other, "--token", "x"}, 1, []string{other, "does not accept the token", whichToken}},
			{[]string{"--data-dir", empty}, 1, []string{filepath.Join(empty, "admin.token"), "empty", whichToken}},
			{[]string{"--data-dir", none}, 1, []string{filepath.Join(none, "admin.token"), whichToken}},
			{[]string{"--server", "http://", "--token", "x"}, 2, []string{"--server", "HOST:PORT or a URL"}},
			{[]string{"--node", filepath.Join(none, "x.yaml")}, 2, []string{"x.yaml"}},
			{[]string{"--nod", "x"}, 2, []string{"--nod", command[0], "--help"}},
		} {
			if command[len(command)-1] == "b" && command[1] == "deregister" && c.args[1] == page {
				continue // nobody reads what it answers
			}
			r := run(t, "", append(append([]string{}, command...), c.args...)...)
			for _, want := range c.want {
				if r.code != c.code || !strings.Contains(r.err, want) {
					t.Errorf("%v %v: code %d, %q; want %d and %q", command, c.args, r.code, r.err, c.code, want)
				}
			}
		}
	}
}
