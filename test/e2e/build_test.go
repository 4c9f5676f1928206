package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// command runs a command in the repository's root and returns what it says.
func command(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -tags="+buildTags) // as the harness builds, to share its work
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A plugin that lives in a module of its own, built in with gatehouse build.
func TestBuildWithAPlugin(t *testing.T) {
	custom := filepath.Join(t.TempDir(), "my-gatehouse")
	out, err := command(t, binary, "build", "--with", "example.com/plugin-hello=examples/plugin-hello", "--source", ".", "-o", custom)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.HasSuffix(out, custom+"\n") {
		t.Errorf("it does not say what it has built: %s", out)
	}
	g := prepare(t, `routes:
  all: { match: { path: / }, plugins: [{ hello: { greeting: good morning, unwelcome: [BadBot] } }], respond: { body: hi } }
`)
	g.launch(exec.Command(custom, "run", "-c", g.config))
	g.waitReady()
	if r := g.get("/"); r.StatusCode != 200 || r.Header.Get("X-Hello") != "good morning" {
		t.Errorf("%s %v", r.Status, r.Header)
	}
	if r := g.get("/", "User-Agent", "BadBot/1.0"); r.StatusCode != 403 || !strings.Contains(r.body, `"reason":"forbidden"`) {
		t.Errorf("%s %s", r.Status, r.body)
	}
	line := g.accessLine("the refusal", func(m map[string]any) bool { return m["status"] == 403.0 })
	if line["step"] != "hello" || !strings.Contains(line["detail"].(string), "BadBot") {
		t.Errorf("access log line %v", line)
	}
	if n := g.metric(`gatehouse_hello_greetings_total{route="all"}`); n != 1 {
		t.Errorf("%v greetings counted", n)
	}
	g.stop()

	// Its config is checked and described like that of any other plugin.
	if out, err := command(t, custom, "schema"); err != nil || !strings.Contains(out, `"greeting"`) {
		t.Errorf("the schema does not know it: %v", err)
	}
	if out, err := command(t, custom, "version"); err != nil || !strings.Contains(out, "-custom") {
		t.Errorf("version: %s %v", out, err)
	}
	g.write("routes: { all: { plugins: [{ hello: { greting: x } }], respond: { body: hi } } }\n")
	if out, err := command(t, custom, "check", g.config); err == nil || !strings.Contains(out, `unknown key "greting" (did you mean "greeting"?)`) {
		t.Errorf("check: %v %s", err, out)
	}
	// The standard binary does not have it.
	if out, err := command(t, binary, "check", g.config); err == nil || !strings.Contains(out, "hello") {
		t.Errorf("check with the standard binary: %v %s", err, out)
	}
}

// The example keeps its own promises.
func TestExamplePlugin(t *testing.T) {
	if out, err := command(t, "go", "-C", "examples/plugin-hello", "test", "-count=1", "./..."); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestBuildSaysWhatIsWrong(t *testing.T) {
	out := filepath.Join(t.TempDir(), "x")
	for _, c := range []struct {
		with, says string
		code       int
	}{
		{"example.com/p=/does/not/exist", "no go.mod", 2},
		{"not a module", "MODULE[@VERSION][=FOLDER]", 2},
		{"example.com/plugin-hello=", "MODULE[@VERSION][=FOLDER]", 2},
	} {
		said, err := command(t, binary, "build", "--with", c.with, "--source", ".", "-o", out)
		exit, ok := err.(*exec.ExitError) //nolint:errorlint // as exec returns it
		if !ok || exit.ExitCode() != c.code || !strings.Contains(said, c.says) {
			t.Errorf("%q: %v %s", c.with, err, said)
		}
	}
	// A folder whose package is no plugin: the compiler's own words.
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "go.mod"), "module example.com/none\n\ngo 1.26.0\n")
	writeFile(t, filepath.Join(dir, "none.go"), "package none\n")
	said, err := command(t, binary, "build", "--with", "example.com/none="+dir, "--source", ".", "-o", out)
	if err == nil || !strings.Contains(said, "undefined: p0.Factory") {
		t.Errorf("%v %s", err, said)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a binary was written all the same")
	}
}
