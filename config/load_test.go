package config_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

func parse(t *testing.T, yaml string) (*config.Config, *config.Source) {
	t.Helper()
	c, s, err := config.Parse([]byte(yaml), "in.yaml", kinds(), config.Options{Env: environment})
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoadRefusesFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "big.yaml"), "# "+strings.Repeat("x", 100))
	write(t, filepath.Join(dir, "ok.yaml"), "{}")
	f := func(want string, paths ...string) {
		t.Helper()
		for i := range paths {
			paths[i] = filepath.Join(dir, paths[i])
		}
		c, s, err := config.Load(paths, nil, config.Options{MaxSize: 50})
		if err == nil || c != nil || s == nil {
			t.Fatalf("%v: config %v, error %v", paths, c, err)
		}
		if got := strings.ReplaceAll(err.Error(), dir+"/", ""); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	f("config: no file given")
	f("none.yaml: cannot be read: no such file or directory", "none.yaml")
	f("big.yaml: is larger than the limit of 50 bytes", "ok.yaml", "big.yaml")
	f("none.yaml: cannot be read: no such file or directory", "ok.yaml", "none.yaml")
}

func TestLoadRefusesDevices(t *testing.T) {
	_, _, err := config.Load([]string{"/dev/zero"}, nil, config.Options{})
	if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Fatalf("got %v", err)
	}
}

func TestParseRefusesTooLarge(t *testing.T) {
	_, _, err := config.Parse(make([]byte, 11), "in.yaml", nil, config.Options{MaxSize: 10})
	if err == nil || err.Error() != "in.yaml: is larger than the limit of 10 bytes" {
		t.Fatalf("got %v", err)
	}
}

func TestDigestIsOfTheText(t *testing.T) {
	_, a := parse(t, "node: {name: \"${WORD}\"}\n")
	_, b := parse(t, "node: {name: \"${WORD}\"}\n")
	_, c := parse(t, "node: {name:  \"${WORD}\"}\n")
	if a.Digest() != b.Digest() || a.Digest() == c.Digest() || len(a.Digest()) != 64 {
		t.Fatalf("digests %s %s %s", a.Digest(), b.Digest(), c.Digest())
	}
}

func TestSameNoticesRotatedSecrets(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.yaml")
	write(t, in, `plugins: [{jwt: {secret: "file:key"}}]`)
	read := func(key string) *config.Source {
		t.Helper()
		write(t, filepath.Join(dir, "key"), key)
		c, s, err := config.Load([]string{in}, kinds(), config.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Plugins[0].Config.(*tokenConfig).Secret.Reveal(); got != strings.TrimSuffix(key, "\n") {
			t.Fatalf("secret is %q", got)
		}
		if len(s.References) != 1 || s.References[0] != filepath.Join(dir, "key") {
			t.Fatalf("references %q", s.References)
		}
		return s
	}
	one, again, two := read("one\n"), read("one\n"), read("two\n")
	if !one.Same(again) || one.Same(two) || one.Same(nil) {
		t.Fatal("Same does not tell a rotated secret")
	}
	if one.Digest() != two.Digest() {
		t.Fatal("the digest depends on a secret")
	}
}

func TestLocateFindsPlacesOfLaterProblems(t *testing.T) {
	_, s := parse(t, "listeners:\n  web: {address: \":80\"}\nroutes:\n  a.b:\n    match: {headers: {x.y: z}}\n    respond: {}\n")
	all := s.Locate([]problem.Problem{
		{Path: "routes.a.b.match.headers.x.y", Message: "value"},
		{Path: "routes.a.b.match.hosts[3]", Message: "nearest parent"},
		{Path: "listeners.web.address", Message: "first in the text"},
		{Path: "routes.a.b.respond.body", Message: "nearest parent"},
		{Path: "upstreams.x", Message: "nothing near"},
	})
	const want = `in.yaml:1:1: upstreams.x: nothing near
in.yaml:2:18: listeners.web.address: first in the text
in.yaml:5:5: routes.a.b.match.hosts[3]: nearest parent
in.yaml:5:28: routes.a.b.match.headers.x.y: value
in.yaml:6:5: routes.a.b.respond.body: nearest parent`
	if all.Error() != want {
		t.Fatalf("got\n%s\nwant\n%s", all, want)
	}
}

func TestPrintHidesSecrets(t *testing.T) {
	c, s := parse(t, `
plugins:
  - jwt: {secret: "in-place-secret"}
  - jwt: {secret: "${SECRET}"}
  - jwt: {secret: "${NOPE:-default-secret}"}
  - jwt: {secret: "prefix-${WORD}"}
  - jwt: {secret: "$${WORD}secret"}
`)
	var out bytes.Buffer
	if err := config.Print(&out, c, s); err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(out.String(), "plugins:\n")
	const want = `- jwt:
    secret: "********"
- jwt:
    secret: "${SECRET}"
- jwt:
    secret: "${NOPE:-********}"
- jwt:
    secret: "********"
- jwt:
    secret: "********"
`
	if got != want {
		t.Fatalf("got\n%s", got)
	}
}

func TestProblemsAreErrorsOfOneType(t *testing.T) {
	_, _, err := config.Parse([]byte("a: [\n"), "x", nil, config.Options{})
	var all config.Problems
	if !errors.As(err, &all) || len(all) != 1 || all[0].At.File != "x" {
		t.Fatalf("got %#v", err)
	}
}
